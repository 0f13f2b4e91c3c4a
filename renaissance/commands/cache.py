"""`renaissance data cache`, and what `renaissance check` says of the cache."""

import statistics
import time

from renaissance.commands.output import print_line
from renaissance.data.collate import Collator
from renaissance.engine.cache_needs import CacheNeeds, cache_needs, size_text
from renaissance.engine.distributed import Ranks
from renaissance.engine.estimate import Estimate
from renaissance.engine.fill_cache import build_with_parameters, fill
from renaissance.engine.image_cache import cache_folder, with_cache
from renaissance.engine.messages import say
from renaissance.engine.run_parts import RunParts
from renaissance.errors import DataError, SpecError
from renaissance.spec.sections import RunSpec

# Of which the time to decode them is measured.
NUM_MEASURED = 16


def fill_cache(spec: RunSpec) -> None:
    """Keep what a run's cache is to keep of every image; every rank must call it.

    Raises:
        RenaissanceError: If the run could not start, or cannot have a cache.
    """
    if spec.data.cache == "none":
        raise SpecError(
            "data.cache: 'none', so there is nothing to keep; expected 'pixels' or 'tokens'. Set "
            "it in the spec, or here: data.cache=pixels"
        )
    ranks = Ranks(spec.train.device)
    try:
        parts = ranks.on_all_ranks(lambda: build_with_parameters(spec, ranks.device))
        needs = ranks.on_all_ranks(lambda: cache_needs(parts))
        cached = ranks.on_all_ranks(lambda: with_cache(parts))
        if ranks.is_main and needs is not None:
            print_line(f"cache: {spec.data.cache} of {needs}")
            for warning in needs.warnings:
                print_line(f"warning: {warning}")
        for name, collator in {"train": cached.train, "validate": cached.validate}.items():
            if collator is not None:
                _fill(cached, collator, name, ranks)
    finally:
        ranks.close()


def _fill(parts: RunParts, collator: Collator, name: str, ranks: Ranks) -> None:
    for message in fill(parts, collator, name, ranks):
        say(f"left out (rank {ranks.rank}): {message}")
    for rows in (collator.reader.pixel_cache, collator.reader.state_cache):
        if rows is not None and ranks.is_main:
            size = size_text(len(rows) * rows.row_bytes)
            print_line(f"cache: {name}: {len(rows):,} images, {size}, in {rows.folder}")


def cache_lines(parts: RunParts, needs: CacheNeeds, costs: Estimate | None) -> list[str]:
    """Return what the cache takes and saves, for `renaissance check`."""
    kept = parts.spec.data.cache
    lines = [f"cache: {kept} of {needs}, in {cache_folder(parts.spec)}"]
    seconds = _seconds_per_image(parts)
    if seconds is not None:
        lines.append(f"cache: saves decoding, {seconds * 1000:.1f} ms per image here")
    if kept == "tokens" and costs is not None:
        saved, total = costs.flops.get("image_encoder", 0), sum(costs.flops.values())
        lines.append(f"cache: saves {saved / 1e9:.3f} of {total / 1e9:.3f} GFLOP per sample")
    return lines


def _seconds_per_image(parts: RunParts) -> float | None:
    """Return how long this machine takes to decode an image; None if none could be."""
    reader, size = parts.train.reader, len(parts.train.datasets)
    seconds = []
    for index in range(0, size, -(-size // NUM_MEASURED)):
        try:
            sample = reader.sample(0, index)
            for which in range(len(sample.images)):
                start = time.perf_counter()
                reader.pixels(sample, which)
                seconds.append(time.perf_counter() - start)
        # The run itself skips or reports a bad record.
        except DataError:
            continue
    return statistics.median(seconds) if seconds else None
