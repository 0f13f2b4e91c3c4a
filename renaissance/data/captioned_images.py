"""The base of datasets of images with captions in Arrow tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import attrs
import numpy as np

from renaissance import DataError, DatasetContext, Sample, option
from renaissance.data.arrow import is_list, is_text, is_texts
from renaissance.data.image_rows import ImageRows
from renaissance.data.mapped_arrow import ArrowType

Split = Literal["train", "validate", "test"]


@attrs.frozen(kw_only=True)
class CaptionOptions:
    """Options of every caption dataset."""

    captions: Literal["each", "random"] = option(
        "each",
        help="each: one sample per caption; random: one sample per image, with a caption drawn "
        "anew each epoch.",
    )


@attrs.frozen(kw_only=True)
class SplitOptions(CaptionOptions):
    """Options of a caption dataset with known files for each split."""

    split: Split | None = option(
        None, help="Split; by default train for training and validate for validation."
    )

    def split_for(self, context: DatasetContext) -> Split:
        """Return the split: the option, or by default train or validate, as the run uses it."""
        return self.split or ("train" if context.training else "validate")


def require_split(dataset: str, split: Split, known: Sequence[str]) -> None:
    """Check that a dataset has a split.

    Raises:
        DataError: If it does not.
    """
    if split not in known:
        raise DataError(
            f"{dataset}: no split '{split}'; it has {', '.join(known)}. Set split = '{known[0]}', "
            f"or use {dataset} under [[data.train]] only"
        )


def numbered_files(root: Path, pattern: str) -> list[Path]:
    """Return the files of a numbered series, in numerical order.

    Args:
        root: Folder that holds them.
        pattern: File name with `{}` for the number, which counts from 0.

    Raises:
        DataError: If there are none, or there is a gap in the series.
    """
    before, after = pattern.split("{}")
    numbers = [p.name[len(before) : -len(after)] for p in root.glob(f"{before}*{after}")]
    present = {int(number) for number in numbers if number.isdecimal()}
    missing = sorted(set(range(max(present, default=0) + 1)) - present)
    if missing:
        raise DataError(
            f"{root / pattern.format(missing[0])}: no such file; "
            f"{len(present)} of its series are there; expected {pattern.format(0)} and those that "
            "follow without a gap. Set data.root to the folder that holds them"
        )
    return [root / pattern.format(number) for number in sorted(present)]


class CaptionedImages(ImageRows):
    """Rows of (image, captions, image_id), one row per image.

    Captions keep the order of the file, repeated ones included; a null counts as empty.

    Args:
        options: The dataset's options.
        context: What the dataset may need to know about the run.
        paths: Arrow files.

    Raises:
        DataError: If a file is missing or unreadable, lacks a column, or has one of another type.
    """

    provides = frozenset({"text", "image"})
    # Columns to read from the files that have them.
    optional_columns: ClassVar[tuple[str, ...]] = ("image_id",)

    def __init__(
        self, options: CaptionOptions, context: DatasetContext, paths: Sequence[Path]
    ) -> None:
        arguments = (options, context)
        super().__init__(arguments, paths, "caption", optional_columns=self.optional_columns)
        self._table.check_type("caption", _holds_captions, "strings or lists of strings")
        self._draws_caption = options.captions == "random"

    def __len__(self) -> int:
        return len(self._table) if self._draws_caption else super().__len__()

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sample; `generator` draws the caption if `captions` is "random".

        Raises:
            DataError: If the image is unreadable, or no caption can be drawn.
            IndexError: If the sample does not exist.
        """
        if self._draws_caption:
            row, position = index, self._drawn_caption(index, generator)
        else:
            row, position = self._texts.locate(index)
        source = self._table.source(row)
        return Sample(
            text=self._caption(row, position),
            images=(self._image(row, source),),
            image_ids=(self._image_id(row),),
            source=source,
        )

    def _drawn_caption(self, row: int, generator: np.random.Generator) -> int:
        caption = self._table.value("caption", row)
        if not is_list(caption.type):
            return 0
        num_captions = len(caption.values) if caption.is_valid else 0
        if num_captions == 0:
            raise DataError(
                f"{self._table.source(row)}: no caption to draw from; expected at least one. "
                "Set captions = 'each', which skips such rows, or prepare the data again"
            )
        return int(generator.integers(num_captions))

    def _caption(self, row: int, position: int) -> str:
        caption = self._table.value("caption", row)
        if is_list(caption.type):
            caption = caption.values[position]
        return caption.as_py() or ""


def _holds_captions(arrow_type: ArrowType) -> bool:
    return is_text(arrow_type) or is_texts(arrow_type)
