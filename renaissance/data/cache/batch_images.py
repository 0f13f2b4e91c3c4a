"""The images of one micro-batch: as pixels, or as the token states that a cache holds of them."""

from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from torch import Tensor

from renaissance.contracts.samples import KeyedSample
from renaissance.data.cache.image_key import image_key

if TYPE_CHECKING:
    from renaissance.data.sample_reader import SampleReader


@attrs.frozen
class KnownStates:
    """Which images of a micro-batch need not be encoded again; `pixel_values` has the others.

    Attributes:
        rows: Image rows whose states are known, (known,), int64.
        hidden_states: Their states, (known, tokens, hidden).
        other_rows: The other image rows, (others,), int64.
        keys: Keys of the others, by which their states are kept, (others, 16), uint8.
        origins: Index of a sample that shows it, and which of its images it is, for each image
            row, (images, 2), int64.
    """

    rows: Tensor
    hidden_states: Tensor
    other_rows: Tensor
    keys: Tensor
    origins: Tensor


class BatchImages:
    """Collects the images of one micro-batch.

    Args:
        reader: Reads the samples, and names the caches.
    """

    def __init__(self, reader: "SampleReader") -> None:
        self._reader = reader
        self._pixels: list[Tensor] = []
        # To be kept once the micro-batch is complete: all at once, since each write takes a lock.
        self._new_pixels: dict[bytes, Tensor] = {}
        self._states: dict[int, Tensor] = {}
        self._keys: dict[int, bytes] = {}
        self._origins: list[tuple[int, int]] = []

    def add(self, sample: KeyedSample, which: int) -> int:
        """Add one of a sample's images, and return its row.

        Raises:
            BadSampleError: If it cannot be decoded, or is too large.
        """
        row = len(self._origins)
        cache = self._reader.state_cache
        if cache is None:
            self._pixels.append(self._read(sample, which))
        else:
            key = image_key(sample.images[which])
            states = cache.get(key) if self._reader.is_within_limits(sample, which) else None
            if states is None:
                self._pixels.append(self._decode(sample, which))
                self._keys[row] = key
            else:
                self._states[row] = states
        self._origins.append((sample.index, which))
        return row

    def pixel_values(self) -> Tensor | None:
        """Return the pixels, (images, 3, image_size, image_size), uint8; None if there are none."""
        if self._reader.pixel_cache is not None:
            self._reader.pixel_cache.put(self._new_pixels)
        return torch.stack(self._pixels) if self._pixels else None

    def known_states(self) -> KnownStates | None:
        """Return which images are not among the pixels; None without a cache of states."""
        cache = self._reader.state_cache
        if cache is None or not self._origins:
            return None
        states = list(self._states.values())
        return KnownStates(
            rows=torch.tensor(list(self._states), dtype=torch.int64),
            hidden_states=torch.stack(states)
            if states
            else torch.empty((0, *cache.shape), dtype=cache.dtype),
            other_rows=torch.tensor(list(self._keys), dtype=torch.int64),
            keys=torch.tensor(list(map(list, self._keys.values())), dtype=torch.uint8),
            origins=torch.tensor(self._origins, dtype=torch.int64),
        )

    def _read(self, sample: KeyedSample, which: int) -> Tensor:
        cache = self._reader.pixel_cache
        if cache is None or not self._reader.is_within_limits(sample, which):
            return self._decode(sample, which)
        key = image_key(sample.images[which])
        pixels = self._new_pixels.get(key)
        if pixels is None:
            pixels = cache.get(key)
        if pixels is None:
            pixels = self._new_pixels[key] = self._decode(sample, which)
        return pixels

    def _decode(self, sample: KeyedSample, which: int) -> Tensor:
        pixels = self._reader.pixels(sample, which)
        # torch warns of an array that cannot be written.
        return torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
