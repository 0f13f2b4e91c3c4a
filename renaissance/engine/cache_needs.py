"""How much room the cache of a run's images takes."""

import math
import shutil
from collections.abc import Iterator

import attrs

from renaissance.data.collate import Collator
from renaissance.engine.image_cache import cache_folder, check_transform, form_of_row
from renaissance.engine.run_parts import RunParts
from renaissance.errors import DataError, SpecError
from renaissance.files import why_not_writable

# Of larger data, images are counted in this many blocks of neighbours, since these share images.
NUM_BLOCKS, BLOCK = 10, 50


@attrs.frozen
class CacheNeeds:
    """What a cache takes.

    Attributes:
        num_images: Distinct images of each split, by its name.
        is_exact: Whether all samples were counted.
        row_bytes: Size of what is kept of an image, bytes.
        warnings: Where it does not fit, in words.
    """

    num_images: dict[str, int]
    is_exact: bool
    row_bytes: int
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        about = "" if self.is_exact else "about "
        total = sum(self.num_images.values())
        splits = ", ".join(f"{name} {count:,}" for name, count in self.num_images.items())
        return (
            f"{about}{total:,} images ({splits}) of {self.row_bytes:,} bytes: "
            f"{size_text(total * self.row_bytes)}"
        )


def cache_needs(parts: RunParts) -> CacheNeeds | None:
    """Return what the cache of a run takes; None without `data.cache`.

    Raises:
        SpecError: If the run cannot have one, or its folder cannot be written.
    """
    if parts.spec.data.cache == "none":
        return None
    check_transform(parts.spec, parts.train.reader.transform)
    folder = cache_folder(parts.spec)
    reason = why_not_writable(folder)
    if reason:
        raise SpecError(
            f"data.cache_folder: cannot write to {folder}: {reason}; name another one, or set "
            "data.cache = 'none'"
        )
    shape, dtype = form_of_row(parts.spec, parts.network)
    row_bytes = math.prod(shape) * dtype.itemsize
    collators = {"train": parts.train, "validate": parts.validate}
    counts = {name: _num_images(c) for name, c in collators.items() if c is not None}
    num_images = {name: count for name, (count, _) in counts.items()}
    is_exact = all(is_exact for _, is_exact in counts.values())
    return CacheNeeds(num_images, is_exact, row_bytes, _warnings(parts, num_images, row_bytes))


def size_text(num_bytes: float) -> str:
    """Return a size, for a message."""
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:,.1f} MiB"
    return f"{num_bytes / 2**30:,.1f} GiB"


def _warnings(parts: RunParts, num_images: dict[str, int], row_bytes: int) -> tuple[str, ...]:
    data, folder = parts.spec.data, cache_folder(parts.spec)
    found = []
    # Each split has a cache of its own.
    needed = max(num_images.values()) * row_bytes
    if needed > data.cache_gib * 2**30:
        found.append(
            f"data.cache_gib: {data.cache_gib:g} GiB, but the images take about "
            f"{size_text(needed)}; those beyond the limit are not kept. Set data.cache_gib = "
            f"{math.ceil(needed / 2**30)}"
        )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free, total = shutil.disk_usage(existing).free, sum(num_images.values()) * row_bytes
    if total > free:
        found.append(
            f"data.cache_folder: {existing} has {size_text(free)} of free space, but the images "
            f"take about {size_text(total)}, unless they are there already. Name a folder on a "
            "larger disk"
        )
    return tuple(found)


def _num_images(collator: Collator) -> tuple[int, bool]:
    """Return the number of distinct images of a split, and whether it is exact."""
    size = len(collator.datasets)
    is_exact = size <= NUM_BLOCKS * BLOCK
    starts = (
        [0] if is_exact else [block * (size - BLOCK) // NUM_BLOCKS for block in range(NUM_BLOCKS)]
    )
    length = size if is_exact else BLOCK
    found = set(_image_keys(collator, starts, length))
    num_samples = len(starts) * length
    return -(-len(found) * size // num_samples), is_exact


def _image_keys(collator: Collator, starts: list[int], length: int) -> Iterator[object]:
    for index in (start + offset for start in starts for offset in range(length)):
        try:
            sample = collator.reader.sample(0, index)
        # The run itself skips or reports a bad record.
        except DataError:
            continue
        for which in range(len(sample.images)):
            yield collator.reader.image_key(sample, which)
