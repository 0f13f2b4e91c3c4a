"""Which parts of an image the words of a text attend to.

The weights are recomputed from the queries and keys that pass through PyTorch's attention function,
so any fusion and any joint encoder that calls it can be looked into.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from renaissance.contracts.batches import Pairs
from renaissance.data.collate import RowBuilder
from renaissance.inference.rows import Picture, Rows

if TYPE_CHECKING:
    from renaissance.inference.model import Model

# Class, distillation and register tokens that may come before the patches.
MAX_PREFIX_TOKENS = 8


@attrs.frozen
class Attention:
    """What the words of a text attend to in an image.

    Attributes:
        words: The words.
        weights: For each word, its attention to each part of the image, averaged over heads, in
            the last layer that attends from text to image, (words, rows, columns), float32; each
            word's add up to 1.
        image: The image as the model sees it: a square, of which the weights are a grid.
    """

    words: tuple[str, ...]
    weights: NDArray[np.float32]
    image: Image.Image


def attention(model: Model, image: Picture, text: str) -> Attention | None:
    """Return the attention of a text's words to an image; see `Model.attention`."""
    reader = model.reader(Rows([{"image": image, "text": text}]))
    builder = RowBuilder(reader)
    sample = reader.sample(0, 0)
    pairs = Pairs(
        text_rows=torch.tensor([builder.text(sample)]),
        image_rows=torch.tensor([builder.image(sample)]),
        # Every text token must have a query in the last layer.
        outputs=frozenset({"text"}),
    )
    word_ids = builder.word_ids(sample)
    batch = builder.micro_batch([sample], {}, {}).to(model.device)
    with model.computing():
        encoded = model.network.encode(batch)
        num_texts, num_images = (
            encoded[modality].hidden_states.shape[1] for modality in ("text", "image")
        )
        with _Recorder(num_texts, num_images) as recorder:
            model.network.model.fuse(encoded["text"], encoded["image"], [pairs])
    side = math.isqrt(num_images)
    num_prefix = num_images - side * side
    if recorder.weights is None or num_prefix > MAX_PREFIX_TOKENS:
        return None
    patches = recorder.weights[: len(word_ids), num_prefix:].float().cpu().numpy()
    words, weights = _by_word(model, builder.input_ids(sample), word_ids, patches)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
    seen = batch.pixel_values[0].permute(1, 2, 0).cpu().numpy()  # type: ignore[index]
    return Attention(words, weights.reshape(-1, side, side), Image.fromarray(seen))


class _Recorder(TorchFunctionMode):
    """Keeps the attention of text to image in the last call that has both.

    Args:
        num_texts: Text tokens.
        num_images: Image tokens.

    Attributes:
        weights: (text tokens, image tokens), averaged over heads; None if there was no such call.
    """

    def __init__(self, num_texts: int, num_images: int) -> None:
        super().__init__()
        self._num_texts = num_texts
        self._num_images = num_images
        self.weights: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._record(*args, **kwargs)
        return func(*args, **kwargs)

    def _record(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> None:
        num_both = self._num_texts + self._num_images
        lengths = (query.shape[-2], key.shape[-2])
        # From text to image, or among the tokens of both, text first.
        if lengths not in ((self._num_texts, self._num_images), (num_both, num_both)):
            return
        scores = query[0].float() @ key[0].float().transpose(-1, -2) / math.sqrt(query.shape[-1])
        if attn_mask is not None:
            mask = attn_mask[0]
            scores = (
                scores.masked_fill(~mask, -torch.inf)
                if mask.dtype == torch.bool
                else (scores + mask)
            )
        weights = scores.softmax(-1).mean(0)
        self.weights = weights[: self._num_texts, -self._num_images :]


def _by_word(
    model: Model,
    input_ids: NDArray[np.int64],
    word_ids: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return the words, and the mean weights of the tokens of each."""
    words, means = [], []
    for word in np.unique(word_ids[word_ids >= 0]):
        tokens = word_ids == word
        words.append(str(model.tokenizer.decode(input_ids[tokens].tolist())).strip())
        means.append(weights[tokens].mean(0))
    empty = np.zeros((0, weights.shape[1]), np.float32)
    return tuple(words), np.stack(means) if means else empty
