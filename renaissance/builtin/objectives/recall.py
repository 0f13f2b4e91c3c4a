"""Recall over a whole split, from the scores of all its images with all its texts, on all ranks.

The images are divided among the ranks; every rank has all texts.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from renaissance import Modality, SplitEvaluator, Tokens

RECALL_AT = (1, 5, 10)
IMAGES_AT_ONCE = 256


@attrs.frozen
class Numbering:
    """The texts of a split and their distinct images, by index.

    Attributes:
        image_of: Index of each text's image, (texts,), int64. Images are numbered by first
            occurrence.
        own_images: Indices of this rank's images, (rank's images,), int64.
        samples: A sample with each of this rank's images; any of them can stand for it.
    """

    image_of: Tensor
    own_images: Tensor
    samples: Sequence[int]

    @classmethod
    def of(cls, split: SplitEvaluator) -> "Numbering":
        """Number the texts and images of a split."""
        image_ids = split.image_ids()
        index_of = {image_id: index for index, image_id in enumerate(dict.fromkeys(image_ids))}
        sample_of = {image_id: index for index, image_id in enumerate(image_ids)}
        own_ids = list(index_of)[split.rank :: split.world_size]
        return cls(
            torch.tensor([index_of[image_id] for image_id in image_ids]),
            torch.tensor([index_of[image_id] for image_id in own_ids], dtype=torch.int64),
            [sample_of[image_id] for image_id in own_ids],
        )


class Scores(Protocol):
    """Scores of this rank's images with all texts."""

    @property
    def numbering(self) -> Numbering:
        """The texts and images."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the scores."""
        ...

    def rows(self) -> Iterator[Tensor]:
        """Yield the scores of each of this rank's images, (texts,), CPU; the same every time."""
        ...


@attrs.frozen
class FusedScores:
    """Scores of fused pairs.

    Attributes:
        numbering: The texts and images.
        values: (rank's images, texts), CPU.
    """

    numbering: Numbering
    values: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of the scores."""
        return self.values.dtype

    def rows(self) -> Iterator[Tensor]:
        """Yield the rows of the values."""
        return iter(self.values)


@attrs.frozen
class Cosines:
    """Cosines, computed when they are asked for: of a long split they would not fit into memory.

    Attributes:
        numbering: The texts and images.
        images: Unit vectors of this rank's images, (rank's images, size), CPU.
        texts: Those of all texts, (texts, size), CPU.
    """

    numbering: Numbering
    images: Tensor
    texts: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of the scores."""
        return self.images.dtype

    def rows(self) -> Iterator[Tensor]:
        """Yield the cosines of each image; NaN ranks last."""
        for start in range(0, len(self.images), IMAGES_AT_ONCE):
            cosines = self.images[start : start + IMAGES_AT_ONCE] @ self.texts.T
            yield from cosines.masked_fill(cosines.isnan(), -torch.inf)


def cosines_of(
    split: SplitEvaluator, embed: Callable[[Tokens, Modality], Tensor], size: int
) -> Cosines:
    """Return the cosines of this rank's images with all texts; every rank must call it.

    Args:
        split: The split; its samples are the texts, their distinct images the images.
        embed: Returns the unit vectors of features, (rows, size).
        size: Their size.
    """
    numbering = Numbering.of(split)

    def vectors(modality: Modality, samples: Sequence[int]) -> Tensor:
        encode = split.encode_texts if modality == "text" else split.encode_images
        found = [torch.zeros(0, size)]
        for start in range(0, len(samples), split.micro_batch_size):
            features = encode(samples[start : start + split.micro_batch_size]).features
            if features is not None:
                found.append(embed(features, modality).float().cpu())
        return torch.cat(found)

    own_texts = range(split.rank, len(split), split.world_size)
    gathered = split.gather(vectors("text", own_texts))
    texts = torch.empty_like(gathered)
    texts[split.gather(torch.tensor(own_texts, dtype=torch.int64))] = gathered
    return Cosines(numbering, vectors("image", numbering.samples), texts)


def recall(scores: Scores, split: SplitEvaluator) -> dict[str, float]:
    """Return recall at 1, 5 and 10 and the median rank in both directions.

    Every rank must call it. Recall at k is the share of images (or texts) with a true text (or
    image) among the first k. A position is 1, plus 1 for each greater score and for each equal
    score of an earlier text or image. An image's position is that of the best of its texts.
    """
    own_images, image_of = scores.numbering.own_images, scores.numbering.image_of
    # Each text's score with its true image, which only one rank has.
    own_texts = [torch.zeros(0, dtype=torch.int64)]
    own_scores = [torch.zeros(0, dtype=scores.dtype)]
    for image, row_values in zip(own_images, scores.rows(), strict=True):
        texts = (image_of == image).nonzero()[:, 0]
        own_texts.append(texts)
        own_scores.append(row_values[texts])
    true_scores = torch.empty(len(image_of), dtype=scores.dtype)
    true_scores[split.gather(torch.cat(own_texts))] = split.gather(torch.cat(own_scores))
    image_ranks = torch.zeros(len(own_images), dtype=torch.int64)
    num_ahead = torch.zeros(len(image_of), dtype=torch.int64)
    for row, (image, row_values) in enumerate(zip(own_images, scores.rows(), strict=True)):
        # Images with an equal score and a lower index are ahead of a text's true image.
        equal_before = (row_values == true_scores) & (image < image_of)
        num_ahead += (row_values > true_scores) | equal_before
        texts = (image_of == image).nonzero()[:, 0]
        best = texts[row_values[texts].argmax()]  # the first if several are equal
        equal_before = row_values[:best] == row_values[best]
        image_ranks[row] = 1 + (row_values > row_values[best]).sum() + equal_before.sum()
    ranks = {
        "image_to_text": split.gather(image_ranks),
        "text_to_image": 1 + split.gather(num_ahead[None]).sum(0),
    }
    results: dict[str, float] = {}
    for direction, positions in ranks.items():
        results |= {f"{direction}_r{k}": float((positions <= k).double().mean()) for k in RECALL_AT}
        results[f"{direction}_median_rank"] = float(positions.double().quantile(0.5))
    return results
