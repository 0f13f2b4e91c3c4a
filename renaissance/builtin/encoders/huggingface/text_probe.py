"""What a text model does with a text, asked of a small copy of it with random weights.

The library does not declare whether a model's tokens see those after them, or whether padding
changes real tokens. Both depend on the architecture alone.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from renaissance import EncoderContext, PluginError, SpecError
from renaissance.builtin.encoders.huggingface.attention import MaskForm, mask_argument
from renaissance.builtin.encoders.huggingface.building import ModelClass
from renaissance.builtin.encoders.huggingface.configs import integer_of
from renaissance.builtin.encoders.huggingface.families import TEXT_REMEDY
from renaissance.builtin.encoders.huggingface.refusals import cannot_encode
from renaissance.builtin.encoders.huggingface.sizes import count_text_positions
from renaissance.builtin.encoders.huggingface.small_copy import (
    MAX_PARAMETERS,
    NUM_WORDS,
    SPECIAL_IDS,
    is_large,
    random_model,
    small_configs,
)

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel

LONGEST_TEXT = 18
# Key of how far apart tokens may be that attend to each other in local layers.
WINDOW, SHORT_WINDOW = "sliding_window", 2
# Relative to the largest state: far above rounding errors, far below what a padding token does.
TOLERANCE = 1e-4

# What models of texts and images call their images.

Encode = Callable[[Tensor, Tensor, MaskForm], Tensor]


@attrs.frozen
class _Copy:
    """A small copy of a model, and a text for it.

    Attributes:
        model: The copy.
        encode: Encodes texts with it.
        input_ids: The text, (1, tokens), int64.
        padding_id: The id of padding.
    """

    model: PreTrainedModel
    encode: Encode
    input_ids: Tensor
    padding_id: int


# Most economical first.
MASK_FORMS: tuple[MaskForm, ...] = ("bias", "pairwise")


@attrs.frozen
class TextProbe:
    """What a small copy of a text model told of it.

    Attributes:
        mask_form: What the model takes as its attention mask.
        is_causal: Whether its tokens do not see those after them.
    """

    mask_form: MaskForm
    is_causal: bool


def probe_text(
    where: str,
    config: PreTrainedConfig,
    model_class: ModelClass,
    context: EncoderContext,
    may_be_causal: bool = False,
) -> TextProbe:
    """Check that a text model encodes a text as a whole, whatever it is batched with.

    Args:
        where: Name of the encoder, with which messages begin.
        config: The model's config.
        model_class: The model's class.
        context: What to know about the run.
        may_be_causal: Whether a model will do whose tokens do not see those after them, if its
            own summary of a text is its last token.

    Returns:
        What was found out.

    Raises:
        PluginError: If it cannot encode a plain text, encodes the same text differently each time,
            if its tokens do not see those after them, or if padding changes real tokens.
        SpecError: If no model can be built with the config.
    """
    # The run's random weights must not depend on what is drawn here.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        copy = _small_copy(where, config, model_class, context)
        is_causal = _is_causal(copy)
        may_be_causal = may_be_causal and is_causal and _summarizes_at_end(where, copy)
        fault = _fault(copy, is_causal, may_be_causal)
        if fault:
            raise PluginError(f"{where}: {config.model_type!r} {fault}; {TEXT_REMEDY}")
        return TextProbe(_mask_form(copy), is_causal)


def _small_copy(
    where: str, config: PreTrainedConfig, model_class: ModelClass, context: EncoderContext
) -> _Copy:
    """Make a small copy of a model that can encode a text."""
    faults: list[PluginError | SpecError] = []
    for copy in small_configs(config):
        copy = _with_short_window(copy, context)
        if is_large(where, copy, model_class):
            break
        try:
            return _checked(where, random_model(where, copy, model_class), context)
        except (PluginError, SpecError) as error:
            faults.append(error)
    else:
        raise faults[-1]
    # A copy that could be made, but could not encode, is as good as the model.
    for fault in faults:
        if isinstance(fault, PluginError):
            raise fault
    reason = f" ({faults[-1]})" if faults else ""
    raise PluginError(
        f"{where}: {config.model_type!r} cannot be tried out: it has more than {MAX_PARAMETERS:,} "
        f"parameters, and no small copy of it can be made{reason}; {TEXT_REMEDY}"
    )


def _with_short_window(config: PreTrainedConfig, context: EncoderContext) -> PreTrainedConfig:
    """Return a config whose local attention shows in a short text, if it does in the run's."""
    window = integer_of(config, WINDOW)
    if window is None or context.max_text_length <= window + 1:
        return config
    short = deepcopy(config)
    setattr(short, WINDOW, SHORT_WINDOW)
    return short


def _checked(where: str, model: PreTrainedModel, context: EncoderContext) -> _Copy:
    """Try to encode a text with a model."""

    def encode(input_ids: Tensor, attention_mask: Tensor, form: MaskForm) -> Tensor:
        mask = mask_argument(attention_mask, form, torch.float32)
        try:
            states: Tensor = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        # A family that does not accept these inputs can raise any error.
        except Exception as error:
            raise cannot_encode(where, model, "text", error) from error
        if states.shape[1] != input_ids.shape[1]:
            raise PluginError(
                f"{where}: {model.config.model_type!r} returns {states.shape[1]} states for a text "
                f"of {input_ids.shape[1]} tokens, expected one for each; {TEXT_REMEDY}"
            )
        return states

    try:
        input_ids = _example_ids(model, context)
    # Some families have no table of words.
    except (AttributeError, NotImplementedError) as error:
        raise PluginError(
            f"{where}: {model.config.model_type!r} has no word embeddings, so it cannot encode a "
            f"plain text ({error}); {TEXT_REMEDY}"
        ) from error
    encode(input_ids, torch.ones_like(input_ids, dtype=torch.bool), "plain")
    padding_id = getattr(model.config, "pad_token_id", None)
    return _Copy(model, encode, input_ids, padding_id if isinstance(padding_id, int) else 0)


def _example_ids(model: PreTrainedModel, context: EncoderContext) -> Tensor:
    num_words = model.get_input_embeddings().weight.shape[0]
    # Llama has several that end a text.
    values = [getattr(model.config, name, None) for name in SPECIAL_IDS]
    special = {i for value in values for i in (value if isinstance(value, list) else [value])}
    words = range(min(num_words, NUM_WORDS))
    ordinary = [word for word in words if word not in special] or [*words]
    longest = min(context.max_text_length, count_text_positions(model) or LONGEST_TEXT)
    # Padding doubles it.
    num_tokens = max(1, min(LONGEST_TEXT, longest) // 2)
    return torch.tensor([[ordinary[i % len(ordinary)] for i in range(num_tokens)]])


def _is_causal(copy: _Copy) -> bool:
    """Return whether tokens do not see those after them, but those before them."""
    if copy.input_ids.shape[1] == 1:
        return False
    return not _sees_after(copy) and _sees_before(copy)


def _sees_after(copy: _Copy) -> bool:
    changed = copy.input_ids.clone()
    # The text begins with an ordinary token and goes on with others, if there are any.
    changed[:, -1] = changed[0, 0] if changed[0, 0] != changed[0, -1] else changed[0, 1]
    # Not exactly equal: a mixture of experts sums in another order for other tokens.
    return not _is_close(_plain(copy, changed)[:, :-1], _plain(copy, copy.input_ids)[:, :-1])


def _sees_before(copy: _Copy) -> bool:
    changed = copy.input_ids.clone()
    changed[:, 0] = changed[0, 1]
    return not _is_close(_plain(copy, changed)[:, 1:], _plain(copy, copy.input_ids)[:, 1:])


def _plain(copy: _Copy, input_ids: Tensor) -> Tensor:
    return copy.encode(input_ids, torch.ones_like(input_ids, dtype=torch.bool), "plain")


def _summarizes_at_end(where: str, copy: _Copy) -> bool:
    """Return whether the model's own summary of a text is the state of the token that ends it.

    CLIP and its relatives take that token to be the first with a certain id, or with the greatest.
    """
    config = deepcopy(copy.model.config)
    last = copy.model.get_input_embeddings().weight.shape[0] - 1
    config.eos_token_id = last
    if getattr(copy.model(input_ids=copy.input_ids), "pooler_output", None) is None:
        return False
    model = random_model(where, config, type(copy.model))
    output = model(input_ids=torch.cat([copy.input_ids[:, 1:], torch.tensor([[last]])], dim=1))
    states, summary = output.last_hidden_state[:, -1], output.pooler_output
    return states.shape == summary.shape and _is_close(summary, states)


def _fault(copy: _Copy, is_causal: bool, may_be_causal: bool) -> str:
    """Return what is wrong with how texts are encoded, in words; empty if nothing is."""
    encode, input_ids, padding_id = copy.encode, copy.input_ids, copy.padding_id
    is_real = torch.ones_like(input_ids, dtype=torch.bool)
    states = encode(input_ids, is_real, "plain")
    if not _is_close(encode(input_ids, is_real, "plain"), states):
        return "draws at random whenever it encodes, so that equal texts get different states"
    if is_causal and not may_be_causal:
        return "reads in one direction: its tokens do not see those after them"
    if input_ids.shape[1] > 1 and not is_causal and not _sees_after(copy):
        return "has tokens that do not see each other"
    num_tokens = input_ids.shape[1]
    for num_padding in {1, num_tokens} if num_tokens > 1 else ():
        padded = torch.nn.functional.pad(input_ids, (0, num_padding), value=padding_id)
        mask = torch.arange(padded.shape[1])[None] < num_tokens
        if not _is_close(encode(padded, mask, "plain")[:, :num_tokens], states):
            return "lets padding change real tokens, so that a text depends on its micro-batch"
    return ""


def _mask_form(copy: _Copy) -> MaskForm:
    encode, input_ids = copy.encode, copy.input_ids
    num_tokens = input_ids.shape[1]
    mask = torch.arange(num_tokens)[None] < max(1, num_tokens - 2)
    expected = encode(input_ids, mask, "plain")[mask]
    for form in MASK_FORMS:
        try:
            actual = encode(input_ids, mask, form)[mask]
        # The library does not promise that a model takes it.
        except PluginError:
            continue
        if _is_close(actual, expected):
            return form
    return "plain"


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return torch.allclose(actual, expected, rtol=0, atol=TOLERANCE * scale)
