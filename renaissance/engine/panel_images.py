"""The pictures of an evaluation's panel, with what the objectives say about them."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.monitor import Guess, PanelImage
from renaissance.contracts.objective import ObjectiveOutput, PanelEntry
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.tokenizer import readable
from renaissance.engine.multi_objective import MultiObjective

# Pixels.
SIZE = 224


class PanelImages:
    """Chooses pictures, as many of each group of each objective as it can.

    Args:
        network: Model and objectives.
        tokenizer: The run's tokenizer.
        panel: The list to add pictures to.
        limit: How many pictures to choose.
        pixels_of: Returns the pixels of an image row of a micro-batch, (3, size, size), uint8.
    """

    def __init__(
        self,
        network: MultiObjective,
        tokenizer: PreTrainedTokenizerFast,
        panel: list[PanelImage],
        limit: int,
        pixels_of: Callable[[MicroBatch, int], NDArray[np.uint8]],
    ) -> None:
        self._objectives = network.named_objectives()
        self._tokenizer = tokenizer
        self._panel = panel
        self._limit = limit
        self._pixels_of = pixels_of
        self._num_shown: Counter[tuple[str, str]] = Counter()

    def add(self, batch: MicroBatch, outputs: Mapping[str, ObjectiveOutput]) -> None:
        """Add pictures of a micro-batch, until there are enough.

        Args:
            batch: The micro-batch.
            outputs: What the objectives returned.
        """
        if not batch.has_images or len(self._panel) >= self._limit:
            return
        texts = readable(self._tokenizer, batch.input_ids)
        # By image row, then by objective.
        entries_of: dict[int, dict[str, list[PanelEntry]]] = {}
        for name, output in outputs.items():
            for entry in self._objectives[name].panel(batch.objectives[name], output, texts):
                entries_of.setdefault(entry.image_row, {}).setdefault(name, []).append(entry)
        while entries_of and len(self._panel) < self._limit:
            row = min(sorted(entries_of), key=lambda row: self._times_shown(entries_of[row]))
            entries = entries_of.pop(row)
            self._num_shown.update(_groups(entries))
            pixels = self._pixels_of(batch, row).transpose(1, 2, 0)
            image = ImageOps.contain(Image.fromarray(pixels), (SIZE, SIZE))
            self._panel.append(PanelImage(image, _lines(entries)))

    def _times_shown(self, entries: Mapping[str, list[PanelEntry]]) -> int:
        """Return how often the rarest of an image's groups has been shown."""
        return min(self._num_shown[group] for group in _groups(entries))


def _groups(entries: Mapping[str, list[PanelEntry]]) -> set[tuple[str, str]]:
    return {(name, entry.group) for name, of_one in entries.items() for entry in of_one}


def _lines(entries: Mapping[str, list[PanelEntry]]) -> tuple[str | Guess, ...]:
    """Return an image's lines.

    An image may have several texts. The objectives take turns, so that each gets a line before the
    space under the image is full.
    """
    return tuple(
        line
        for turn in itertools.zip_longest(*entries.values())
        for entry in turn
        if entry is not None
        for line in entry.lines
    )
