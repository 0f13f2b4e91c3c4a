"""What the model makes of a micro-batch."""

from typing import TypeVar

import attrs
from torch import Tensor

from renaissance.contracts.tokens import Tokens
from renaissance.errors import PluginError

T = TypeVar("T")


@attrs.frozen
class ModelSizes:
    """Widths that objectives and heads build on.

    Attributes:
        text: Hidden size of encoded text.
        image: Hidden size of encoded images.
        fused: Hidden size after fusion, of both modalities.
        pooled: Size of a pooled vector.
    """

    text: int
    image: int
    fused: int
    pooled: int


@attrs.frozen
class Fused:
    """What the model made of the pairs of one objective: only what `Pairs.outputs` asked for.

    Reading anything else raises PluginError.

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
        return _asked_for(self._text, "fused text", 'add "text" to Pairs.outputs')

    @property
    def image(self) -> Tokens:
        """Fused image tokens, one row per pair."""
        return _asked_for(self._image, "fused image", 'add "image" to Pairs.outputs')

    @property
    def pooled(self) -> Tensor:
        """One vector per pair, (pairs, pooled_size)."""
        return _asked_for(self._pooled, "pooled", 'add "pooled" to Pairs.outputs')


@attrs.frozen
class Features:
    """What the model made of a micro-batch, as one objective sees it.

    Reading what the objective did not ask for raises PluginError.

    Attributes:
        text: Text rows of the micro-batch, each encoded alone, if "text" is in `unimodal`.
        image: Image rows of the micro-batch, each encoded alone, if "image" is in `unimodal`.
        fused: The objective's pairs, if it asked for any.
        pooled: Short for `fused.pooled`.
    """

    _text: Tokens | None = None
    _image: Tokens | None = None
    _fused: Fused | None = None

    @property
    def text(self) -> Tokens:
        """Text rows of the micro-batch, each encoded alone."""
        return _asked_for(self._text, "text", 'add "text" to the class attribute unimodal')

    @property
    def image(self) -> Tokens:
        """Image rows of the micro-batch, each encoded alone."""
        return _asked_for(self._image, "image", 'add "image" to the class attribute unimodal')

    @property
    def fused(self) -> Fused:
        """The objective's pairs, fused."""
        return _asked_for(self._fused, "fused", "return Pairs in the ObjectiveBatch")

    @property
    def pooled(self) -> Tensor:
        """One vector per pair, (pairs, pooled_size)."""
        return self.fused.pooled


def _asked_for(value: T | None, what: str, remedy: str) -> T:
    if value is None:
        raise PluginError(
            f"the objective reads the {what} features, which it did not ask for; {remedy}"
        )
    return value
