"""What an objective offers for the use of a trained model: embeddings, scores, words."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from renaissance.contracts.objective import Objective, overrides
from renaissance.contracts.tokens import Modality, Tokens
from renaissance.testing.contract_check import require
from renaissance.testing.surroundings import Surroundings

NUM_ROWS, NUM_TOKENS = 3, 5
MODALITIES: tuple[Modality, ...] = ("text", "image")


def check_uses(surroundings: Surroundings, objective: Objective) -> None:
    """Check the methods that the objective overrides of `embed`, `match_score`, `token_logits`."""
    sizes = surroundings.model.sizes
    generator = torch.Generator().manual_seed(0)

    def states(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        if overrides(objective, "embed"):
            for modality in MODALITIES:
                mask = torch.ones(NUM_ROWS, NUM_TOKENS, dtype=torch.bool)
                size = sizes.text if modality == "text" else sizes.image
                tokens = Tokens(states(NUM_ROWS, NUM_TOKENS, size), mask)
                _check_vectors(f"embed(tokens, {modality!r})", objective.embed(tokens, modality))
                _check_layer(objective, modality, states(NUM_ROWS, size))
        if overrides(objective, "match_score"):
            pooled = states(NUM_ROWS, sizes.pooled)
            _check_rows("match_score", objective.match_score, pooled, (NUM_ROWS,))
        if overrides(objective, "token_logits"):
            fused = states(NUM_TOKENS, sizes.fused)
            expected = (NUM_TOKENS, len(surroundings.tokenizer))
            _check_rows("token_logits", objective.token_logits, fused, expected)


def _check_vectors(what: str, vectors: Tensor | None) -> None:
    require(vectors is not None, f"{what} returned None, though it is overridden")
    if vectors is None:
        return
    require(
        vectors.dim() == 2 and len(vectors) == NUM_ROWS and vectors.dtype == torch.float32,
        f"{what} has shape {tuple(vectors.shape)} and {vectors.dtype}, expected ({NUM_ROWS}, size) "
        "and float32",
    )
    lengths = vectors.norm(dim=-1)
    require(
        bool(torch.isclose(lengths, torch.ones(()), atol=1e-4).all()),
        f"{what} has lengths {lengths.tolist()}, expected unit vectors; normalize them",
    )


def _check_layer(objective: Objective, modality: Modality, summaries: Tensor) -> None:
    """Compare `embed` with the layer that it is said to be."""
    layer = objective.embedding_layer(modality)
    if layer is None:
        return
    # All tokens are the same, so that every summary of them is.
    states = summaries[:, None].expand(-1, NUM_TOKENS, -1).contiguous()
    mask = torch.ones(NUM_ROWS, NUM_TOKENS, dtype=torch.bool)
    vectors = objective.embed(Tokens(states, mask), modality)
    expected = F.normalize(layer(summaries), dim=-1)
    require(
        vectors is not None and bool(torch.allclose(vectors, expected, atol=1e-5)),
        f"embed(tokens, {modality!r}) is not embedding_layer({modality!r}) of the summary, divided "
        "by its length; return None from embedding_layer if more lies between",
    )


def _check_rows(
    method: str, function: Callable[[Tensor], Any], states: Tensor, expected: tuple[int, ...]
) -> None:
    """Check shape and dtype, and that a row does not depend on the others."""
    values = function(states)
    require(values is not None, f"{method} returned None, though it is overridden")
    if values is None:
        return
    require(
        tuple(values.shape) == expected and values.dtype == torch.float32,
        f"{method} has shape {tuple(values.shape)} and {values.dtype}, expected {expected} and "
        "float32",
    )
    alone = torch.cat([function(states[row : row + 1]) for row in range(len(states))])
    require(
        bool(torch.allclose(values, alone, atol=1e-5)),
        f"{method} of a row depends on the other rows; compute each by itself",
    )
