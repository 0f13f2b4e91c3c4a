"""How to prepare a dataset."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from renaissance.data.open_image import COMMAND_LIMITS, ImageLimits
from renaissance.errors import SpecError, quoted

T = TypeVar("T")
PART = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


@attrs.frozen
class Part:
    """A share of the files of a preparation, for one of several machines.

    Attributes:
        index: Which share, counted from 1.
        count: How many there are.
    """

    index: int
    count: int

    @classmethod
    def of_text(cls, text: str) -> "Part":
        """Return the part that a text such as 3/64 names.

        Raises:
            SpecError: If it names none.
        """
        found = PART.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise SpecError(
                f"--part: got {quoted(text)}, expected INDEX/COUNT, counted from 1, such as 3/64"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return this share of some items."""
        return items[self.index - 1 :: self.count]


@attrs.frozen(kw_only=True)
class PrepareOptions:
    """How to prepare, the same for every dataset.

    Attributes:
        output: Folder for the files; created if missing.
        seed: Shuffles the rows, so that reading in order is as good as reading at random.
        workers: Number of threads that read and check images.
        resize: Shorter side to scale images down to, pixels; None leaves their bytes as they are.
        check: Whether to decode each image fully.
        limits: Larger images are left out.
        max_missing: Largest fraction of rows that may be left out.
        progress: Whether to show progress on standard error.
        part: Which share of the files to write; None for all.
    """

    output: Path
    seed: int = 0
    workers: int = 1
    resize: int | None = None
    check: bool = False
    limits: ImageLimits = COMMAND_LIMITS
    max_missing: float = 0.01
    progress: bool = True
    part: Part | None = None

    def of_rows(self) -> dict[str, Any]:
        """Return the options that determine what is written."""
        return {
            "seed": self.seed,
            "resize": self.resize,
            "check": self.check,
            "max_image_pixels": self.limits.max_pixels,
            "max_image_bytes": self.limits.max_bytes,
        }
