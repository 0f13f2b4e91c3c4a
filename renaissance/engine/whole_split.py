"""A whole split, for an objective whose metric needs more than a micro-batch."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.features import Fused
from renaissance.contracts.objective import Objective
from renaissance.contracts.samples import KeyedSample, Sample
from renaissance.contracts.splits import EncodedRows
from renaissance.contracts.tokens import Modality, Tokens
from renaissance.data.collate import Collator
from renaissance.data.loader import StoppedWaitingError
from renaissance.engine.distributed import Ranks
from renaissance.engine.encode_rows import encode_rows, encode_samples
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.engine.progress import progress
from renaissance.engine.watch import Pulse
from renaissance.spec.sections import ResolvedSpec

STOPPED = "stopped during an evaluation"


class WholeSplit:
    """The `SplitEvaluator` of one objective; that protocol describes arguments and results.

    Args:
        network: Model and objectives, in evaluation mode.
        collator: Reads the samples of the split.
        objective: The objective's name.
        spec: The run spec.
        ranks: The processes of the run.
        is_final: True in `renaissance evaluate`.
        is_stopping: Asked between any two calls: whether to give up.
        pulse: Beats with each call, and rests where ranks wait for each other.
    """

    def __init__(
        self,
        network: MultiObjective,
        collator: Collator,
        objective: str,
        spec: ResolvedSpec,
        ranks: Ranks,
        is_final: bool,
        is_stopping: Callable[[], bool] = lambda: False,
        pulse: Pulse | None = None,
    ) -> None:
        self.rank = ranks.rank
        self.world_size = ranks.world_size
        self.device = ranks.device
        self.is_final = is_final
        self.micro_batch_size = spec.evaluate.micro_batch_size
        self._network = network
        self._collator = collator
        self._objective = objective
        self._precision = spec.train.precision
        self._ranks = ranks
        self._is_stopping = is_stopping
        self._pulse = pulse or Pulse()
        self._has_ended = False

    def metrics(self, objective: Objective) -> dict[str, float]:
        """Return what the objective measures; every rank must call it.

        Raises:
            StoppedWaitingError: On every rank, if any rank was asked to stop.
            RenaissanceError: On every rank, if the objective raised on any rank.
        """
        self._pulse.beat()
        try:
            with torch.no_grad():
                values = objective.evaluate_split(self)
        # Any failure must reach the other ranks, which may be waiting for this one's rows.
        except Exception as error:
            if self._has_ended:
                raise
            self._agree(error)
            raise
        self._agree()
        return values

    def _agree(self, error: Exception | None = None) -> None:
        """Exchange with all ranks whether to go on: before they gather rows, and at the end.

        A rank that stops or fails between two exchanges takes part in just one more.
        """
        self._pulse.rest()
        stops = isinstance(error, StoppedWaitingError) or self._is_stopping()
        fails = error is not None and not isinstance(error, StoppedWaitingError)
        num_stopped, num_failed = self._ranks.sum([float(stops), float(fails)])
        self._has_ended = bool(num_stopped or num_failed)
        if num_failed:
            self._ranks.on_all_ranks(lambda: _raise(error if fails else None))
        if num_stopped:
            raise StoppedWaitingError(STOPPED)

    def _go_on(self) -> None:
        self._pulse.beat()
        if self._is_stopping():
            raise StoppedWaitingError(STOPPED)

    @cached_property
    def _indices(self) -> list[int]:
        # Computed on first use: most objectives never need it, and a split may be long.
        datasets = self._collator.datasets
        return [i for i in range(len(datasets)) if datasets.goes_to(i, self._objective)]

    def __len__(self) -> int:
        return len(self._indices)

    def image_ids(self) -> list[Hashable]:
        """Return the identifier of each sample's first image."""
        reader = self._collator.reader
        ids = []
        for index in self._indices:
            self._go_on()
            ids.append(reader.sample(0, index).image_ids[0])
        return ids

    def labels(self, name: str) -> Iterator[tuple[str, object]]:
        """Yield where each sample comes from, and its label."""
        for index in self._indices:
            self._go_on()
            sample = self._collator.reader.sample(0, index)
            yield sample.source, sample.labels.get(name)

    def encode_texts(self, indices: Sequence[int]) -> EncodedRows:
        """Encode the texts of samples, one row per index."""
        return self._encode("text", indices)

    def encode_images(self, indices: Sequence[int]) -> EncodedRows:
        """Encode the first images of samples, one row per index."""
        return self._encode("image", indices)

    def _encode(self, modality: Modality, indices: Sequence[int]) -> EncodedRows:
        self._go_on()
        return encode_rows(
            self._network,
            self._collator.reader,
            modality,
            [self._indices[index] for index in indices],
            self._precision,
            self.device,
        )

    def encode_given_texts(self, texts: Sequence[str]) -> EncodedRows:
        """Encode texts that are not in the split."""
        self._go_on()
        samples = [
            KeyedSample(Sample(text, source=f"text {text!r}"), 0, 0, index)
            for index, text in enumerate(texts)
        ]
        reader = self._collator.reader
        return encode_samples(self._network, reader, "text", samples, self._precision, self.device)

    def embed(self, rows: EncodedRows, modality: Modality) -> Tensor | None:
        """Return the unit vectors that an objective learns, or None."""
        for objective in self._network.overriding("embed").values():
            if rows.features is not None:
                with autocast(self._precision, self.device):
                    vectors = objective.embed(rows.features, modality)
                return None if vectors is None else vectors.cpu()
        return None

    def fuse(self, text: Tokens, image: Tokens, pairs: Pairs) -> Fused:
        """Fuse pairs of encoded rows."""
        self._go_on()
        with torch.no_grad(), autocast(self._precision, self.device):
            return self._network.model.fuse(text, image, [pairs])[0]

    def similarity(self, text: Tokens, image: Tokens) -> Tensor | None:
        """Return the similarity that an objective learns, or None."""
        with autocast(self._precision, self.device):
            return self._network.similarity(text, image)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, on the CPU."""
        self._agree()
        return self._ranks.gather_rows(rows)

    def progress(self, steps: Iterable[int], total: int, unit: str) -> Iterator[int]:
        """Yield the steps; rank 0 shows its own progress."""
        with progress(
            self._objective, total, unit, self._ranks.is_main, has_terminal=self.is_final
        ) as advance:
            for step in steps:
                self._go_on()
                yield step
                advance(step)


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
