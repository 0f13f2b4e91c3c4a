"""Filling the cache of a run's images before it starts."""

from collections.abc import Sequence

import attrs
import torch

from renaissance.data.collate import Collator, RowBuilder
from renaissance.data.loader import MicroBatchLoader
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.order import evaluation_order
from renaissance.data.sample_reader import BadSampleError
from renaissance.data.workers import count_workers
from renaissance.engine.checkpoint import load_checkpoint
from renaissance.engine.distributed import Ranks
from renaissance.engine.init_from import initialize, may_keep_encoder
from renaissance.engine.precision import autocast
from renaissance.engine.progress import progress
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts, build
from renaissance.spec.sections import RunSpec


class ImageCollator(Collator):
    """Makes micro-batches of images alone."""

    def __getitem__(self, request: Sequence[tuple[int, int]]) -> MicroBatch:
        """Collate the images of samples; those that cannot be read are reported in the batch."""
        builder = RowBuilder(self.reader)
        samples, bad = [], {}
        for epoch, index in request:
            try:
                sample = self.reader.sample(epoch, index)
                for which in range(len(sample.images)):
                    builder.image(sample, which)
                samples.append(sample)
            except BadSampleError as error:
                bad[index] = str(error)
        batch = builder.micro_batch(samples, {}, bad)
        # Pixels are kept by the worker that has decoded them; nobody needs them here.
        return batch if batch.known_states is not None else attrs.evolve(batch, pixel_values=None)


def build_with_parameters(spec: RunSpec, device: torch.device) -> RunParts:
    """Build a run with the parameters with which it would start or resume.

    Raises:
        RenaissanceError: If the run could not start.
    """
    last, init_from = RunFolder(spec.folder).last, spec.model.init_from
    # A frozen encoder has the parameters that it starts with; pixels need no parameters.
    needs_weights = spec.data.cache == "tokens" and last is None
    load_weights = needs_weights and (init_from is None or may_keep_encoder(spec.model))
    parts = build(spec, 1, load_weights)
    parts.network.to(device)
    if spec.data.cache == "tokens" and last is not None:
        load_checkpoint(last, parts.network, optimizer=None)
    elif needs_weights and init_from is not None:
        initialize(parts.network, init_from, spec)
    return parts


def fill(parts: RunParts, collator: Collator, name: str, ranks: Ranks) -> list[str]:
    """Keep what the cache is to keep of every image of a split; every rank must call it.

    What is there already is only read, so whatever ends this, the next call goes on from there.

    Args:
        parts: The parts of the run.
        collator: That of the split, with its cache.
        name: Name of the split, to show.
        ranks: The processes, which share the images.

    Returns:
        Messages about records that this rank could not read.

    Raises:
        RenaissanceError: On every rank, if it failed on any.
    """
    return ranks.on_all_ranks(lambda: _fill(parts, collator, name, ranks))


def _fill(parts: RunParts, collator: Collator, name: str, ranks: Ranks) -> list[str]:
    spec, training = parts.spec, collator.reader.training
    num_samples, size = len(collator.datasets), spec.evaluate.micro_batch_size
    order = evaluation_order(num_samples, size, ranks.rank, ranks.world_size)
    images = ImageCollator(collator.reader, {}, skip_bad_samples=True)
    loader = MicroBatchLoader(images, order, count_workers(spec.data.num_workers), ranks.device)
    # A frozen encoder stays in evaluation mode.
    network = parts.network.train(training)
    total = sum(map(len, order))
    bad_samples: list[str] = []
    with progress(f"cache, {name}", total, "samples", ranks.is_main, has_terminal=True) as advance:
        for keys, batch in zip(order, loader, strict=True):
            bad_samples.extend(batch.bad_samples.values())
            if batch.known_states is not None:
                with torch.no_grad(), autocast(spec.train.precision, ranks.device, training):
                    network.encode(batch.to(ranks.device))
            advance(len(keys))
    return bad_samples
