"""A trained model, for use."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.dataset import Dataset
from renaissance.contracts.objective import Objective, overrides
from renaissance.contracts.splits import EncodedRows
from renaissance.contracts.tokens import Modality
from renaissance.data.collate import Collator
from renaissance.data.concatenation import Concatenation
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.sample_reader import SampleReader
from renaissance.engine.encode_rows import encode_rows
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.engine.predictions import Prediction, predictions_of
from renaissance.engine.run_parts import make_reader
from renaissance.errors import DataError, SpecError, did_you_mean
from renaissance.inference.attention import Attention, attention
from renaissance.inference.masks import fill_masks
from renaissance.inference.pairs import Match, embedded, match_scores, similarity_of
from renaissance.inference.rows import Picture, Rows
from renaissance.spec.sections import ResolvedSpec


class Model:
    """A trained model; `renaissance.load` makes one.

    Several threads may call it at once. Results do not depend on `batch_size` but for rounding;
    by default it is `evaluate.micro_batch_size`.

    Args:
        spec: The run's spec.
        network: Model and objectives, in evaluation mode, on their device.
        tokenizer: The run's tokenizer.
        checkpoint: The folder that the parameters come from.

    Attributes:
        spec: The run's spec.
        network: The torch module.
        tokenizer: The run's tokenizer.
        checkpoint: The folder that the parameters come from.
        device: Where it computes.
    """

    def __init__(
        self,
        spec: ResolvedSpec,
        network: MultiObjective,
        tokenizer: PreTrainedTokenizerFast,
        checkpoint: Path,
    ) -> None:
        self.spec = spec
        self.network = network
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self.device = network.get_buffer("pixel_mean").device

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the run's objectives."""
        return tuple(self.network.named_objectives())

    def predict(
        self,
        rows: Iterable[Mapping[str, object]],
        objective: str | None = None,
        batch_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Predict rows, as `renaissance evaluate --predictions` does.

        Args:
            rows: Mappings with the keys that the objective reads: "image" (a `Picture`), "text",
                "image_2", "text_pair", or labels that identify a row, such as "question_id".
            objective: Name of the objective; needed if several make predictions.
            batch_size: Rows in one pass through the model.

        Returns:
            One prediction per row, as the objective describes it.

        Raises:
            SpecError: If the objective is unknown, or makes no predictions.
            DataError: If a row lacks what the objective reads, or cannot be read.
        """
        name = self.predicting(objective)
        chosen = self.network.named_objectives()[name]
        dataset = Rows(list(rows))
        if len(dataset) == 0:
            return []
        missing = sorted(chosen.requires - dataset.provides)
        if missing:
            raise DataError(
                f"rows: no {', '.join(missing)}, which objective '{name}' reads; expected the keys "
                f"{', '.join(sorted(chosen.requires))}, got {', '.join(sorted(dataset.provides))}"
            )
        collator = self.collator(dataset, name)
        predictions = []
        for indices in _batches(len(dataset), batch_size or self._batch_size):
            batch = collator[[(0, index) for index in indices]]
            predictions += self.predict_batch(batch, name)
        return predictions

    def reader(self, dataset: Dataset | Concatenation) -> SampleReader:
        """Return what reads the samples of one or several datasets, as in evaluation."""
        datasets = (
            dataset if isinstance(dataset, Concatenation) else Concatenation([("rows", dataset)])
        )
        return make_reader(self.spec, self.tokenizer, datasets, training=False)

    def collator(self, dataset: Dataset | Concatenation, objective: str) -> Collator:
        """Return what makes micro-batches of one or several datasets, for one objective."""
        chosen = self.network.named_objectives()[objective]
        return Collator(self.reader(dataset), {objective: chosen}, skip_bad_samples=False)

    def predict_batch(self, batch: MicroBatch, objective: str) -> list[Prediction]:
        """Return an objective's predictions for a micro-batch."""
        chosen = self.network.named_objectives()[objective]
        batch = batch.to(self.device)
        with self.computing():
            output = self.network(batch)[objective]
        return predictions_of(chosen, batch.objectives[objective], output)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in the run's precision, without gradients."""
        with torch.no_grad(), autocast(self.spec.train.precision, self.device):
            yield

    @cached_property
    def mask_tokenizer(self) -> Tokenizer:
        """A copy of the tokenizer that reads special tokens in a text; in training, none is."""
        tokenizer: Tokenizer = copy.deepcopy(self.tokenizer.backend_tokenizer)
        tokenizer.encode_special_tokens = False
        return tokenizer

    def match(
        self, images: Sequence[Picture], texts: Sequence[str], batch_size: int | None = None
    ) -> Match:
        """Compare every image with every text; each is encoded once.

        Args:
            images: The images.
            texts: The texts.
            batch_size: Images, texts or pairs in one pass through the model.

        Raises:
            SpecError: If no objective of the run learns to compare them.
            DataError: If an image or a text cannot be read.
        """
        matching = self._with("match_score")
        embedding = self._with("embed")
        if matching is None and embedding is None:
            raise self._cannot("compare images and texts", "itm or itc")
        size = batch_size or self._batch_size
        image_rows = list(self._encode("image", images, size))
        text_rows = list(self._encode("text", texts, size))
        probability = None
        if matching is not None:
            every_pair = torch.ones(len(images), len(texts), dtype=torch.bool)
            scores = match_scores(self, matching, image_rows, text_rows, every_pair, size)
            probability = scores.sigmoid().numpy()
        similarity = None
        if embedding is not None:
            similarity = similarity_of(embedding, image_rows, text_rows).numpy()
        return Match(probability, similarity)

    def pair_scorer(self) -> str:
        """Return the name of the objective that scores pairs: a matching one, or else `itc`.

        Raises:
            SpecError: If no objective of the run learns to compare images and texts.
        """
        for method in ("match_score", "embed"):
            for name in self.network.overriding(method):
                return name
        raise self._cannot("compare images and texts", "itm or itc")

    def score_pairs(
        self,
        images: Sequence[Picture],
        texts: Sequence[str],
        pairs: Sequence[tuple[int, int]],
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Return how well chosen images and texts match; each is encoded once.

        Args:
            images: The images.
            texts: The texts.
            pairs: Index of an image and of a text for each pair.
            batch_size: Images, texts or pairs in one pass through the model.

        Returns:
            For each pair the log-odds of a match, if an objective such as `itm` learns it; else the
            cosine, (pairs,), float32.

        Raises:
            SpecError: If no objective of the run learns to compare them.
            DataError: If an image or a text cannot be read.
        """
        size = batch_size or self._batch_size
        image_rows = list(self._encode("image", images, size))
        text_rows = list(self._encode("text", texts, size))
        image_indices, text_indices = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
        objective = self.network.named_objectives()[self.pair_scorer()]
        if overrides(objective, "match_score"):
            chosen = torch.zeros(len(images), len(texts), dtype=torch.bool)
            chosen[image_indices, text_indices] = True
            scores = match_scores(self, objective, image_rows, text_rows, chosen, size)
        else:
            scores = similarity_of(objective, image_rows, text_rows)
        return scores[image_indices, text_indices].numpy()

    def rank(
        self,
        texts: Sequence[str],
        images: Sequence[Picture],
        top: int = 10,
        shortlist: int = 100,
        batch_size: int | None = None,
    ) -> list[list[tuple[int, float]]]:
        """Find the best images of each text.

        With both kinds of objectives, images are chosen by similarity, and then ordered by the
        probability of a match.

        Args:
            texts: The texts.
            images: The images.
            top: How many to return for each text.
            shortlist: How many of the most similar images of a text to fuse with it.
            batch_size: Images, texts or pairs in one pass through the model.

        Returns:
            For each text, (index of the image, probability or similarity), best first.

        Raises:
            SpecError: If no objective of the run learns to compare them.
            DataError: If an image or a text cannot be read.
        """
        matching, embedding = self._with("match_score"), self._with("embed")
        if matching is None and embedding is None:
            raise self._cannot("compare images and texts", "itm or itc")
        size = batch_size or self._batch_size
        image_rows = list(self._encode("image", images, size))
        text_rows = list(self._encode("text", texts, size))
        chosen = torch.ones(len(images), len(texts), dtype=torch.bool)
        scores = torch.zeros(len(images), len(texts))
        if embedding is not None:
            scores = similarity_of(embedding, image_rows, text_rows)
            best = scores.topk(min(max(shortlist, top), len(images)), dim=0).indices
            chosen = torch.zeros_like(chosen).scatter(0, best, value=True)
        if matching is not None:
            scores = match_scores(self, matching, image_rows, text_rows, chosen, size).sigmoid()
        scores = scores.masked_fill(~chosen, -torch.inf)
        # (texts, top)
        values, indices = scores.T.topk(min(top, len(images)))
        return [
            list(zip(*of_text, strict=True))
            for of_text in zip(indices.tolist(), values.tolist(), strict=True)
        ]

    def embed(
        self,
        *,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Return one unit vector per image or per text, (rows, size), float32.

        Args:
            images: The images; or
            texts: the texts.
            batch_size: Rows in one pass through the model.

        Raises:
            SpecError: If not exactly one of the two is given, or no objective learns embeddings.
            DataError: If an image or a text cannot be read.
        """
        if (images is None) == (texts is None):
            raise SpecError("embed: expected either images = [...] or texts = [...]")
        embedding = self._with("embed")
        if embedding is None:
            raise self._cannot("embed", "itc")
        modality: Modality = "text" if images is None else "image"
        rows = self._encode(modality, images or texts or [], batch_size or self._batch_size)
        vectors = [embedded(embedding, row, modality) for row in rows]
        return torch.cat(vectors).numpy() if vectors else np.zeros((0, 0), np.float32)

    def fill_mask(self, image: Picture, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """Predict the masked words of a text about an image.

        Args:
            image: The image.
            text: The text, with the tokenizer's mask token (such as "[MASK]") for each word.
            top: How many words to return for each mask.

        Returns:
            For each mask, (word, probability), most probable first.

        Raises:
            SpecError: If no objective of the run learns to predict words.
            DataError: If the text has no mask, or the image cannot be read.
        """
        objective = self._with("token_logits")
        if objective is None:
            raise self._cannot("fill masks", "mlm")
        return fill_masks(self, objective, image, text, top)

    def attention(self, image: Picture, text: str) -> Attention | None:
        """Return which parts of an image the words of a text attend to.

        Args:
            image: The image.
            text: The text.

        Returns:
            The attention in the last layer that attends from text to image; None if no layer
            does so by PyTorch's attention function, as in a dual encoder, or the image tokens are
            not a grid.

        Raises:
            DataError: If the image cannot be read.
        """
        return attention(self, image, text) if self.spec.model.fuses else None

    @property
    def _batch_size(self) -> int:
        return self.spec.evaluate.micro_batch_size

    def _encode(
        self, modality: Modality, values: Sequence[object], batch_size: int
    ) -> Iterator[EncodedRows]:
        """Encode images or texts, each distinct one once in a batch."""
        if not values:
            return
        reader = self.reader(Rows([{modality: value} for value in values]))
        for indices in _batches(len(values), batch_size):
            yield encode_rows(
                self.network, reader, modality, indices, self.spec.train.precision, self.device
            )

    def can(self, method: str) -> bool:
        """Return whether an objective of the run overrides a method of the contract.

        Args:
            method: "match_score" (for `match`), "embed", or "token_logits" (for `fill_mask`).
        """
        return self._with(method) is not None

    def _with(self, method: str) -> Objective | None:
        """Return the first objective that overrides a method."""
        return next(iter(self.network.overriding(method).values()), None)

    def predicting(self, objective: str | None = None) -> str:
        """Return the name of the objective to predict with.

        Args:
            objective: Its name; None for the only one that makes predictions.

        Raises:
            SpecError: If it makes no predictions, or several do and none is named.
        """
        names = list(self.network.overriding("predictions"))
        if objective is None and len(names) == 1:
            return names[0]
        if objective in names:
            return str(objective)
        if not names:
            raise self._cannot("predict", "classification, vqa")
        if objective is None:
            raise SpecError(f"objective: several make predictions; name one of {', '.join(names)}")
        raise SpecError(
            f"objective: {objective!r} makes no predictions here; expected one of "
            f"{', '.join(names)}{did_you_mean(objective, names)}"
        )

    def _cannot(self, what: str, needed: str) -> SpecError:
        return SpecError(
            f"{self.spec.folder}: cannot {what}: none of its objectives "
            f"({', '.join(self.objectives)}) has learned to; train with one of {needed}"
        )


def _batches(length: int, batch_size: int) -> Iterator[range]:
    for start in range(0, length, batch_size):
        yield range(start, min(start + batch_size, length))
