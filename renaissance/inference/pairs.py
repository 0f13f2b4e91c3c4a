"""How well encoded images and texts match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.objective import Objective
from renaissance.contracts.splits import EncodedRows
from renaissance.contracts.tokens import Modality
from renaissance.errors import PluginError, SpecError

if TYPE_CHECKING:
    from renaissance.inference.model import Model


@attrs.frozen
class Match:
    """How well images and texts match.

    Attributes:
        probability: By a matching objective such as `itm`, (images, texts), float32; None if the
            run has none.
        similarity: By an objective that learns embeddings such as `itc`, the cosine, (images,
            texts), float32; None if the run has none.
    """

    probability: NDArray[np.float32] | None
    similarity: NDArray[np.float32] | None


def match_scores(
    model: Model,
    objective: Objective,
    images: Sequence[EncodedRows],
    texts: Sequence[EncodedRows],
    chosen: Tensor,
    batch_size: int,
) -> Tensor:
    """Return the log-odds of a match, (images, texts), float32, CPU; 0 where not chosen.

    Args:
        model: The model.
        objective: Scores the pairs.
        images: Encoded images, in blocks.
        texts: Encoded texts, in blocks.
        chosen: The pairs to score, (images, texts), bool.
        batch_size: Pairs to fuse at once.
    """
    scores = torch.zeros(chosen.shape)
    image_start = 0
    for image in images:
        image_end = image_start + len(image.tokens.hidden_states)
        text_start = 0
        for text in texts:
            text_end = text_start + len(text.tokens.hidden_states)
            block = chosen[image_start:image_end, text_start:text_end]
            # (pairs, 2): image and text, sorted by image.
            pairs = block.nonzero()
            for start in range(0, len(pairs), batch_size):
                image_rows, text_rows = pairs[start : start + batch_size].unbind(1)
                rows = Pairs(text_rows.to(model.device), image_rows.to(model.device))
                with model.computing():
                    fused = model.network.model.fuse(text.tokens, image.tokens, [rows])[0]
                    values = objective.match_score(fused.pooled)
                if values is None:
                    raise PluginError(f"{type(objective).__name__}.match_score returned None")
                scores[image_start + image_rows, text_start + text_rows] = values.float().cpu()
            text_start = text_end
        image_start = image_end
    return scores


def embedded(objective: Objective, rows: EncodedRows, modality: Modality) -> Tensor:
    """Return the unit vectors of encoded rows, (rows, size), float32, CPU.

    Raises:
        SpecError: If the objective embeds a modality that it does not read.
    """
    if rows.features is None:
        raise SpecError(f"{type(objective).__name__}: embeds {modality}s, but does not read them")
    vectors = objective.embed(rows.features, modality)
    return torch.zeros(0) if vectors is None else vectors.float().cpu()


def similarity_of(
    objective: Objective, images: Sequence[EncodedRows], texts: Sequence[EncodedRows]
) -> Tensor:
    """Return the cosine of all images and texts, (images, texts)."""
    image = torch.cat([embedded(objective, rows, "image") for rows in images])
    text = torch.cat([embedded(objective, rows, "text") for rows in texts])
    return image @ text.T
