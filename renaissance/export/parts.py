"""A model as parts with tensors for inputs and outputs, for programs that run without Python.

Texts and images are encoded once, and their states are what the pair scorer takes.
"""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.export import Dim

from renaissance.contracts.batches import Pairs
from renaissance.contracts.objective import Objective
from renaissance.contracts.tokens import Modality, Tokens
from renaissance.export.probe import Probe
from renaissance.inference.model import Model
from renaissance.model.base import VisionLanguageModel

# Sizes that may vary, by dimension.
Dynamic = dict[int, Dim]


@attrs.frozen
class Part:
    """A part of a model.

    Attributes:
        name: Its name, and that of its file.
        module: Takes the inputs in order, and returns the outputs as a tuple.
        inputs: Example inputs, by name.
        dynamic: For each input, which of its sizes may vary.
        outputs: Names of the outputs.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Dynamic]
    outputs: tuple[str, ...]

    @torch.no_grad()
    def results(self) -> tuple[Tensor, ...]:
        """Return the outputs for the example inputs."""
        results: tuple[Tensor, ...] = self.module(*self.inputs.values())
        return results


class TextEncoder(nn.Module):
    """Token ids to states and, if an objective embeds texts, unit vectors."""

    def __init__(self, model: VisionLanguageModel, embedding: Objective | None) -> None:
        super().__init__()
        self.model = model
        self.embedding = embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Encode texts, (texts, tokens) int64 both."""
        tokens = self.model.encode_text(input_ids, attention_mask.bool())
        alone = self.model.text_features(tokens) if self.embedding is not None else tokens
        return _with_vectors(tokens, alone, self.embedding, "text")


class ImageEncoder(nn.Module):
    """Normalized pixels to states and, if an objective embeds images, unit vectors."""

    def __init__(self, model: VisionLanguageModel, embedding: Objective | None) -> None:
        super().__init__()
        self.model = model
        self.embedding = embedding

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Encode images, (images, 3, size, size)."""
        tokens = self.model.encode_image(pixel_values)
        alone = self.model.image_features(tokens) if self.embedding is not None else tokens
        return _with_vectors(tokens, alone, self.embedding, "image")


class PairScorer(nn.Module):
    """States of texts and images, row by row, to the log-odds of a match."""

    def __init__(self, model: VisionLanguageModel, matching: Objective) -> None:
        super().__init__()
        self.model = model
        self.matching = matching

    def forward(
        self, text_states: Tensor, attention_mask: Tensor, image_states: Tensor
    ) -> tuple[Tensor, ...]:
        """Score pairs, (pairs, tokens, hidden), (pairs, tokens) int64, (pairs, tokens, hidden)."""
        rows = torch.arange(text_states.shape[0], device=text_states.device)
        image_mask = torch.ones(image_states.shape[:2], dtype=torch.bool, device=rows.device)
        text = Tokens(text_states, attention_mask.bool())
        fused = self.model.fuse(text, Tokens(image_states, image_mask), [Pairs(rows, rows)])[0]
        score = self.matching.match_score(fused.pooled)
        return () if score is None else (score,)


def _with_vectors(
    tokens: Tokens, alone: Tokens, embedding: Objective | None, modality: Modality
) -> tuple[Tensor, ...]:
    vectors = None if embedding is None else embedding.embed(alone, modality)
    return (tokens.hidden_states,) if vectors is None else (tokens.hidden_states, vectors)


def parts_of(model: Model, num_rows: int) -> list[Part]:
    """Return the parts of a model: text encoder, image encoder and, if it matches, pair scorer.

    Args:
        model: The model, on the CPU.
        num_rows: Rows of the example inputs.
    """
    probe = Probe.of(model, num_rows)
    network = model.network
    embedding = next(iter(network.overriding("embed").values()), None)
    matching = next(iter(network.overriding("match_score").values()), None)
    batch, length = Dim("batch", min=1), Dim("length", min=2, max=model.spec.data.max_text_length)
    mask = probe.attention_mask.long()
    of_text: Dynamic = {0: batch, 1: length}
    vectors = () if embedding is None else ("vectors",)
    text = Part(
        "text_encoder",
        TextEncoder(network.model, embedding),
        {"input_ids": probe.input_ids, "attention_mask": mask},
        {"input_ids": of_text, "attention_mask": of_text},
        ("states", *vectors),
    )
    image = Part(
        "image_encoder",
        ImageEncoder(network.model, embedding),
        {"pixel_values": probe.pixel_values},
        {"pixel_values": {0: batch}},
        ("states", *vectors),
    )
    if matching is None:
        return [text, image]
    states = {"text_states": text.results()[0], "image_states": image.results()[0]}
    scorer = Part(
        "pair_scorer",
        PairScorer(network.model, matching),
        {
            "text_states": states["text_states"],
            "attention_mask": mask,
            "image_states": states["image_states"],
        },
        {"text_states": of_text, "attention_mask": of_text, "image_states": {0: batch}},
        ("scores",),
    )
    return [text, image, scorer]
