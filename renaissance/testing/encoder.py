"""The contract of encoders."""

from collections.abc import Callable
from typing import get_args

import attrs
import torch
from torch import Tensor

from renaissance.contracts.encoder import Encoder, EncoderContext
from renaissance.contracts.tokens import Summary, Tokens
from renaissance.testing import inputs
from renaissance.testing.checkpointing import check_gradient_checkpointing
from renaissance.testing.contract_check import ContractCheck, ViolationError, require
from renaissance.testing.inputs import close, row_of, shape_of
from renaissance.testing.module import Subject, check_module


def check_encoder(
    component: type[Encoder],
    options: object = None,
    *,
    image_size: int = 32,
    max_text_length: int = 16,
    vocab_size: int = 64,
) -> None:
    """Check a text, image or joint encoder against its contract.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent. Choose a tiny model.
        image_size: Side of the images to try it with, in pixels.
        max_text_length: What `data.max_text_length` would be, in tokens.
        vocab_size: Size of the vocabulary to try it with.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("encoder", component)
    check.declaration()
    options = check.options(options)
    context = EncoderContext(
        image_size=image_size, max_text_length=max_text_length, vocab_size=vocab_size
    )
    tiny = _TinyInputs(image_size, vocab_size)

    def make(context: EncoderContext) -> Encoder:
        return check.make(options, context)

    subject = Subject(lambda: make(context), tiny.run)
    with check.part("making"):
        module = subject.build()
        _check_attributes(module)
    check.stop_if_broken()
    with check.part("shapes"), torch.no_grad():
        _check_shapes(module, tiny)
    check.stop_if_broken()
    with check.part("padding"), torch.no_grad():
        _check_padding(module, tiny)
    check_module(check, subject, can_be_frozen=True)
    with check.part("transformers_model"), torch.no_grad():
        _check_transformers_model(subject.build(), tiny)
    check_gradient_checkpointing(check, subject)
    with check.part("load_weights"):
        _check_shapes_without_weights(make, context)
    with check.part("fit_tensor"):
        _check_fit_tensor(make, context)
    check.stop_if_broken()


class _TinyInputs:
    def __init__(self, image_size: int, vocab_size: int) -> None:
        self.texts = inputs.texts(vocab_size)
        self.other_padding = inputs.texts(vocab_size, filler=vocab_size - 1)
        self.pixels = inputs.pixels(image_size)

    def run(self, encoder: Encoder) -> list[Tensor]:
        """Return the states of real tokens, for all inputs that the encoder takes."""
        if encoder.modalities == {"text", "image"}:
            tokens = encoder.encode_joint(self.joint(encoder))
        elif "text" in encoder.modalities:
            tokens = encoder.encode_text(*self.texts)
        else:
            tokens = encoder.encode_image(self.pixels)
        return [tokens.hidden_states[tokens.attention_mask]]

    def joint(self, encoder: Encoder) -> Tokens:
        """Return embedded texts and images side by side."""
        text, image = encoder.encode_text(*self.texts), encoder.encode_image(self.pixels)
        return Tokens(*(torch.cat(both, dim=1) for both in zip(text, image, strict=True)))


def _check_attributes(encoder: Encoder) -> None:
    require(
        encoder.modalities in ({"text"}, {"image"}, {"text", "image"}),
        f"modalities is {encoder.modalities!r}, expected frozenset({{'text'}}), "
        "frozenset({'image'}), or both in one",
    )
    for name in ("text_summary", "image_summary"):
        require(
            getattr(encoder, name) in get_args(Summary),
            f"{name} is {getattr(encoder, name)!r}, expected one of {', '.join(get_args(Summary))}",
        )
    size = getattr(encoder, "hidden_size", None)
    require(
        isinstance(size, int) and size > 0,
        f"hidden_size is {size!r}, expected the width of its token states; set it in __init__",
    )


def check_tokens(tokens: object, method: str, rows: int, hidden_size: int) -> None:
    """Check what a method returned: token states of the expected shape, and their mask."""
    if not isinstance(tokens, Tokens):
        raise ViolationError(
            f"{method} returned {type(tokens).__name__}, expected Tokens(states, attention_mask)"
        )
    states, mask = tokens
    require(
        isinstance(states, Tensor)
        and states.is_floating_point()
        and states.dim() == 3
        and (states.shape[0], states.shape[2]) == (rows, hidden_size),
        f"hidden_states of {method} are {shape_of(states)}, expected floating-point "
        f"({rows} rows, tokens, hidden_size = {hidden_size})",
    )
    require(
        isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == states.shape[:2],
        f"attention_mask of {method} is {shape_of(mask)}, expected {tuple(states.shape[:2])} bool",
    )


def _check_shapes(encoder: Encoder, tiny: _TinyInputs) -> None:
    size = encoder.hidden_size
    if "text" in encoder.modalities:
        tokens = encoder.encode_text(*tiny.texts)
        check_tokens(tokens, "encode_text", len(inputs.TEXT_LENGTHS), size)
        require(
            torch.equal(tokens.attention_mask, tiny.texts[1]),
            "encode_text changed the mask; return a state for each token id, and the mask "
            "unchanged: objectives find tokens by their position",
        )
    if "image" in encoder.modalities:
        tokens = encoder.encode_image(tiny.pixels)
        check_tokens(tokens, "encode_image", len(tiny.pixels), size)
        require(
            bool(tokens.attention_mask.any(1).all()),
            "attention_mask of encode_image has a row without real tokens, expected at least one",
        )
    if encoder.modalities == {"text", "image"}:
        joint = tiny.joint(encoder)
        tokens = encoder.encode_joint(joint)
        check_tokens(tokens, "encode_joint", len(tiny.pixels), size)
        require(
            torch.equal(tokens.attention_mask, joint.attention_mask),
            "encode_joint changed the mask; return a state for each token that it is given",
        )


def _check_padding(encoder: Encoder, tiny: _TinyInputs) -> None:
    if "text" in encoder.modalities:
        input_ids, mask = tiny.texts
        padded = encoder.encode_text(input_ids, mask)
        other = encoder.encode_text(*tiny.other_padding)
        require(
            close(padded.hidden_states[mask], other.hidden_states[mask]),
            "other token ids in the padding change the states of real tokens; let no token attend "
            "to padding: use attention_mask (True = real)",
        )
        for row, length in enumerate(inputs.TEXT_LENGTHS):
            part = (slice(row, row + 1), slice(0, length))
            alone = encoder.encode_text(input_ids[part], mask[part])
            require(
                close(row_of(padded, row).hidden_states, alone.hidden_states),
                f"the states of a text of {length} tokens change when it is batched with other "
                "texts; let no token attend to padding or to other rows",
            )
    if "image" in encoder.modalities:
        together = encoder.encode_image(tiny.pixels)
        for row in range(len(tiny.pixels)):
            alone = encoder.encode_image(tiny.pixels[row : row + 1])
            require(
                close(row_of(together, row).hidden_states, row_of(alone, 0).hidden_states),
                "the states of an image change when it is batched with other images; in evaluation "
                "mode, let no image depend on another",
            )
    if encoder.modalities == {"text", "image"}:
        joint = tiny.joint(encoder)
        real = joint.attention_mask
        noisy = joint.hidden_states.masked_fill(~real[:, :, None], 7.0)
        require(
            close(
                encoder.encode_joint(joint).hidden_states[real],
                encoder.encode_joint(Tokens(noisy, real)).hidden_states[real],
            ),
            "other states in the padding change what encode_joint makes of real tokens; let no "
            "token attend to padding",
        )


def _check_transformers_model(encoder: Encoder, tiny: _TinyInputs) -> None:
    model = encoder.transformers_model()
    if model is None:
        return
    # Imported here because it takes seconds.
    from renaissance.builtin.encoders.huggingface.image_input import (
        image_form,
        image_states,
        token_states,
    )

    require(
        len(encoder.modalities) == 1,
        "it returns a model, but no model of transformers embeds text and image as a joint encoder "
        "does; return None",
    )
    model.eval()
    if "text" in encoder.modalities:
        input_ids, mask = tiny.texts
        states = model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state[mask]
    else:
        states = image_states(model, tiny.pixels, image_form(model))
        states = token_states(states).flatten(0, 1)
    (expected,) = tiny.run(encoder)
    require(
        states.shape == expected.shape and close(states, expected),
        f"the last hidden states of the model that it returns are {shape_of(states)}, and differ "
        "from the encoder's; return a model that computes the same, or None",
    )


def _check_shapes_without_weights(
    make: Callable[[EncoderContext], Encoder], context: EncoderContext
) -> None:
    without_weights = attrs.evolve(context, load_weights=False)
    shapes = [
        {name: value.shape for name, value in make(c).state_dict().items()}
        for c in (context, without_weights)
    ]
    if shapes[0] != shapes[1]:
        raise ViolationError(
            "with load_weights = False its parameters have other names or shapes; skip only the "
            "reading of pretrained parameters: a checkpoint is loaded into it afterwards"
        )


def _check_fit_tensor(make: Callable[[EncoderContext], Encoder], context: EncoderContext) -> None:
    small = make(context)
    larger = attrs.evolve(
        context,
        image_size=2 * context.image_size,
        max_text_length=2 * context.max_text_length,
    )
    try:
        large = make(larger)
    # It need not support these sizes, and may say so with any exception.
    except Exception:
        return
    expected = large.state_dict()
    for name, tensor in small.state_dict().items():
        if name not in expected or expected[name].shape == tensor.shape:
            continue
        fitted = large.fit_tensor(name, tensor)
        require(
            fitted is None or fitted.shape == expected[name].shape,
            f"fit_tensor turned {name} of shape {tuple(tensor.shape)} into {shape_of(fitted)}, "
            f"expected the encoder's own shape, {tuple(expected[name].shape)}, or None",
        )
