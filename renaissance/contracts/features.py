"""The outputs of the model that objectives read."""

from collections.abc import Sequence
from typing import TypeVar

import attrs
import torch
from torch import Tensor

from renaissance.contracts.tokens import Tokens, take_rows
from renaissance.errors import PluginError, SpecError

T = TypeVar("T")


class NotFusedError(SpecError):
    """An objective needs fused pairs, but the model is a dual encoder."""

    def __init__(self, *objectives: str) -> None:
        names = ", ".join(map(repr, objectives))
        super().__init__(
            f"objectives: {names or 'one of them'}: reads fused pairs, but model.fusion.type = "
            "'none' fuses none; choose a fusion, such as co-attention, or remove the objective "
            "(itc needs no fusion, nor does an objective that reads text alone or images alone)"
        )


@attrs.frozen
class ModelSizes:
    """Widths of the model's outputs.

    Those of fused pairs are absent in a dual encoder. An objective that reads them is then refused
    as one that needs fused pairs.

    Attributes:
        text: Hidden size of encoded text.
        image: Hidden size of encoded images.
        fused: Hidden size after fusion, of both modalities.
        pooled: Size of a pooled vector.
    """

    text: int
    image: int
    _fused: int | None = None
    _pooled: int | None = None

    @property
    def fused(self) -> int:
        """Hidden size after fusion, of both modalities."""
        return _of_fusion(self._fused)

    @property
    def pooled(self) -> int:
        """Size of a pooled vector."""
        return _of_fusion(self._pooled)


@attrs.frozen
class Fused:
    """The fused pairs of one objective: the outputs requested in `Pairs.outputs`.

    Reading an output that was not requested raises PluginError.

    Attributes:
        text: Fused text tokens, one row per pair.
        image: Fused image tokens, one row per pair.
        pooled: One vector per pair, (pairs, pooled_size).
    """

    _text: Tokens | None = None
    _image: Tokens | None = None
    _pooled: Tensor | None = None

    @property
    def text(self) -> Tokens:
        """Fused text tokens, one row per pair."""
        return _requested(self._text, "fused text", 'add "text" to Pairs.outputs')

    @property
    def image(self) -> Tokens:
        """Fused image tokens, one row per pair."""
        return _requested(self._image, "fused image", 'add "image" to Pairs.outputs')

    @property
    def pooled(self) -> Tensor:
        """One vector per pair, (pairs, pooled_size)."""
        return _requested(self._pooled, "pooled", 'add "pooled" to Pairs.outputs')


def join_fused(parts: Sequence[Fused], order: Tensor, outputs: frozenset[str]) -> Fused:
    """Return the pairs of several groups in another order.

    Args:
        parts: The groups.
        order: For each pair, its index in all groups, one after the other, (pairs,), int64.
        outputs: The outputs to keep, as in `Pairs.outputs`.
    """

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return take_rows(torch.cat([*tensors]), order)

    def join_tokens(tokens: Sequence[Tokens]) -> Tokens:
        states = join([part.hidden_states for part in tokens])
        if not any(part.has_mask for part in tokens):
            return Tokens(states)
        return Tokens(states, join([part.attention_mask for part in tokens]))

    return Fused(
        text=join_tokens([part.text for part in parts]) if "text" in outputs else None,
        image=join_tokens([part.image for part in parts]) if "image" in outputs else None,
        pooled=join([part.pooled for part in parts]) if "pooled" in outputs else None,
    )


@attrs.frozen
class Features:
    """The model's outputs for a micro-batch, as one objective sees them.

    Reading an output that the objective did not request raises PluginError.

    Attributes:
        text: Text rows of the micro-batch, each encoded alone, if "text" is in `unimodal`.
        image: Image rows of the micro-batch, each encoded alone, if "image" is in `unimodal`.
        fused: The objective's pairs, fused, if it requested any.
        pooled: Same as `fused.pooled`.
    """

    _text: Tokens | None = None
    _image: Tokens | None = None
    _fused: Fused | None = None

    @property
    def text(self) -> Tokens:
        """Text rows of the micro-batch, each encoded alone."""
        return _requested(self._text, "text", 'add "text" to the class attribute unimodal')

    @property
    def image(self) -> Tokens:
        """Image rows of the micro-batch, each encoded alone."""
        return _requested(self._image, "image", 'add "image" to the class attribute unimodal')

    @property
    def fused(self) -> Fused:
        """The objective's pairs, fused."""
        return _requested(self._fused, "fused", "return Pairs in the ObjectiveBatch")

    @property
    def pooled(self) -> Tensor:
        """One vector per pair, (pairs, pooled_size)."""
        return self.fused.pooled


def _of_fusion(size: int | None) -> int:
    if size is None:
        raise NotFusedError
    return size


def _requested(value: T | None, what: str, remedy: str) -> T:
    if value is None:
        raise PluginError(
            f"the objective reads the {what} features, which it did not request; {remedy}"
        )
    return value
