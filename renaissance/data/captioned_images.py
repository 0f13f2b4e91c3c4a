"""Images with captions in Arrow tables: what all caption datasets share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from renaissance import DataError, DatasetContext, Sample, option
from renaissance.data.arrow import is_list, is_text, is_texts
from renaissance.data.image_rows import ImageRows

Split = Literal["train", "validate", "test"]


@attrs.frozen(kw_only=True)
class CaptionOptions:
    """Options of every caption dataset."""

    captions: Literal["each", "random"] = option(
        "each",
        help="each: a sample a caption; random: a sample an image, with another of its captions "
        "drawn each epoch.",
    )


@attrs.frozen(kw_only=True)
class SplitOptions(CaptionOptions):
    """Options of a caption dataset that knows its files by split."""

    split: Split | None = option(
        None, help="Split; train for training and validate for validation where absent."
    )

    def split_for(self, context: DatasetContext) -> Split:
        """Return the split, chosen by what the dataset is for where the option is absent."""
        return self.split or ("train" if context.training else "validate")


def require_split(dataset: str, split: Split, known: Sequence[str]) -> None:
    """Check that a dataset has a split.

    Raises:
        DataError: If it has not.
    """
    if split not in known:
        raise DataError(
            f"{dataset}: no split '{split}'; it has {', '.join(known)}. Set split = '{known[0]}', "
            f"or use {dataset} under [[data.train]] only"
        )


def numbered_files(root: Path, pattern: str) -> list[Path]:
    """Return the files of a numbered series, in the order of their numbers.

    Args:
        root: Folder that holds them.
        pattern: Name with `{}` for the number, which counts from 0.

    Raises:
        DataError: If there are none, or one between the first and the last is missing.
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
    """Rows of (image, captions, image_id), one row an image.

    Captions come as they are written: in order, repeated ones too; a null counts as empty.

    Args:
        options: The dataset's options.
        context: The run's side.
        paths: Arrow files.

    Raises:
        DataError: If a file is missing or unreadable, or has not the columns and types needed.
    """

    provides = frozenset({"text", "image"})
    # Columns to read where a file has them.
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
            IndexError: If there is no such sample.
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
                "Set captions = 'each', which passes over such rows, or prepare the data again"
            )
        return int(generator.integers(num_captions))

    def _caption(self, row: int, position: int) -> str:
        caption = self._table.value("caption", row)
        if is_list(caption.type):
            caption = caption.values[position]
        return caption.as_py() or ""


def _holds_captions(arrow_type: Any) -> bool:
    return is_text(arrow_type) or is_texts(arrow_type)
