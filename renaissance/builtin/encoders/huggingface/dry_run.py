"""A small forward pass after loading a model, to find out which parameters it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from renaissance import EncoderContext, PluginError
from renaissance.builtin.encoders.huggingface.attention import MaskForm, mask_argument
from renaissance.builtin.encoders.huggingface.image_input import image_form, image_states
from renaissance.builtin.encoders.huggingface.refusals import cannot_encode, has_no_states
from renaissance.builtin.encoders.huggingface.segments import segment_argument

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

Modality = Literal["text", "image"]

NUM_EXAMPLE_TOKENS = 4
# Families of which another one is the same without the random draws.
_RANDOM_REMEDIES = {
    "vit_mae": 'to use its encoder, set "model_type": "vit" in a copy of its config.json'
}


def example_text(
    context: EncoderContext, device: torch.device, num_tokens: int = NUM_EXAMPLE_TOKENS
) -> tuple[Tensor, Tensor]:
    """Return the input ids, (1, tokens) int64, and attention mask, bool, of a short text."""
    num_tokens = min(num_tokens, context.max_text_length)
    input_ids = torch.arange(num_tokens, device=device).unsqueeze(0) % context.vocab_size
    return input_ids, torch.ones_like(input_ids, dtype=torch.bool)


def example_image(context: EncoderContext, device: torch.device) -> Tensor:
    """Return the pixel values of one image, (1, 3, height, width)."""
    size = context.image_size
    return torch.linspace(-1, 1, 3 * size * size, device=device).view(1, 3, size, size)


def dry_run(
    where: str,
    model: PreTrainedModel,
    modality: Modality,
    context: EncoderContext,
    mask_form: MaskForm = "plain",
    num_tokens: int = NUM_EXAMPLE_TOKENS,
) -> Tensor:
    """Return the model's last hidden states for an example, with their autograd graph.

    This works on the meta device too. New tensors are still made on the CPU: some families, such as
    BEiT, cache index tensors for later calls, and cached meta tensors would make later models in
    this process read arbitrary memory.

    Raises:
        PluginError: If the model cannot be called like other models of its modality, or draws at
            random.
        Exception: Any other error, if the model is on the meta device and wants values.
    """
    draws = _RandomDraws()
    states: Tensor
    try:
        with torch.enable_grad(), torch.device("cpu"), draws:
            if modality == "text":
                input_ids, attention_mask = example_text(context, model.device, num_tokens)
                mask = mask_argument(attention_mask, mask_form, torch.float32)
                segments = segment_argument(
                    model.config, input_ids, attention_mask, context.separator_id
                )
                output = model(input_ids=input_ids, attention_mask=mask, **segments)
                states = output.last_hidden_state
            else:
                pixel_values = example_image(context, model.device)
                states = image_states(model, pixel_values, image_form(model))
    # A family that does not accept these inputs can raise any error.
    except Exception as error:
        # Not the model's device: some families make some of their parameters elsewhere.
        is_meta = any(parameter.is_meta for parameter in model.parameters())
        if is_meta and not has_no_states(error):
            raise  # Perhaps only for want of values; a caller can try again with some.
        raise cannot_encode(where, model, modality, error) from error
    finally:
        # Some families, such as LeViT, keep what they derive from weights until training begins;
        # weights that are loaded later would not count.
        model.train().eval()
    # Of a text model, `probe_text` compares values; some draw only what they then overwrite.
    if draws.names and modality == "image":
        raise PluginError(
            f"{where}: {model.config.model_type!r} draws at random whenever it encodes "
            f"({', '.join(sorted(draws.names))}), so that equal inputs get different states; "
            f"{_RANDOM_REMEDIES.get(model.config.model_type, 'use another family')}"
        )
    return states


class _RandomDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the random operations of a forward pass, on the meta device too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        # Attention counts as random for its dropout, which is off in evaluation mode.
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func):
            self.names.add(str(func))
        return func(*args, **kwargs or {})


def unused_parameters(model: nn.Module, output: Tensor) -> dict[str, nn.Parameter]:
    """Return the parameters that an output does not depend on, by name.

    DDP waits for a gradient of every parameter that requires one, so parameters that never get any
    must not require one. They are those that do not occur in the output's autograd graph.
    """
    used = set()
    seen = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Only leaves of the graph have this attribute: the parameter whose gradient they add up.
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        pending.extend(before for before, _ in node.next_functions)
    return {name: p for name, p in model.named_parameters() if id(p) not in used}
