"""RefCOCO, RefCOCO+ and RefCOCOg: which of an image's objects does an expression mean?"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import attrs
import numpy as np
from PIL import Image

from renaissance import DataError, DatasetContext, Sample, option, positive
from renaissance.arrow import ImageRows, is_list, is_texts, whole_number, written_text
from renaissance.builtin.formats import REFCOCO, REFCOCO_PLUS, REFCOCOG, Format

TABLES = {"train": "train", "validate": "val", "test": "test", "testA": "testA", "testB": "testB"}
# How far a box may extend past the edge, pixels: annotated coordinates are fractional.
TOLERANCE = 1.0


class ExpressionOptions(Protocol):
    """What the base reads of each dataset's options."""

    @property
    def split(self) -> str | None:
        """The split, if set."""

    @property
    def max_boxes(self) -> int:
        """Maximum number of boxes in an image."""


@attrs.frozen(kw_only=True)
class BoxOptions:
    """Options of every dataset of referring expressions."""

    max_boxes: int = option(
        20,
        help="Maximum number of boxes in an image. Each box is encoded, so memory grows with it.",
        validator=positive,
    )


class ReferringExpressions(ImageRows):
    """Rows of (image, sentences, bboxes, labels), one row per object that is referred to.

    A sample is a sentence; its images are crops of the boxes, in the order of the file. Labels:
    `box`, the index of the right box; and `identifier`, row and position in the file, such as 12:0.

    Raises:
        DataError: If a file is missing or unreadable, lacks a column, or has an image with more
            than `max_boxes` boxes.
    """

    format: ClassVar[Format]
    provides = frozenset({"text", "image", "box", "identifier"})

    def __init__(self, options: "ExpressionOptions", context: DatasetContext) -> None:
        split = options.split or ("train" if context.training else "validate")
        path = context.root / self.format.file(TABLES[split])
        super().__init__((options, context), [path], "sentences", columns=("bboxes", "labels"))
        self._table.check_type("sentences", is_texts, "lists of strings")
        self._table.check_type("bboxes", is_list, "lists of boxes, each x, y, width, height")
        self._check_counts(options.max_boxes)

    def _check_counts(self, max_boxes: int) -> None:
        # At the start, rather than in the middle of an epoch.
        arrays = self._table.column("bboxes")
        counts = np.concatenate([array.value_lengths().fill_null(0) for array in arrays])
        largest = int(counts.argmax())
        if counts[largest] > max_boxes:
            raise DataError(
                f"{self._table.source(largest)}: {counts[largest]} boxes, and "
                f"{int((counts > max_boxes).sum())} of {len(counts)} rows have more than "
                f"{max_boxes}; expected at most max_boxes = {max_boxes}. Raise max_boxes: "
                f"{counts[largest]} is enough for all rows"
            )

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sentence with the boxes of its image.

        Raises:
            DataError: If the record cannot be read, or a box lies outside the image.
            IndexError: If the sample does not exist.
        """
        row, position = self._texts.locate(index)
        source = f"{self._table.source(row)}, sentence {position}"
        boxes = [box or () for box in self._table.value("bboxes", row).as_py() or ()]
        label = self._table.value("labels", row).as_py()
        image = self._image(row, source)
        return Sample(
            text=written_text(self._item("sentences", row, position, source), source),
            images=tuple(_Crop(image, _corners(box, image.size, source)) for box in boxes),
            image_ids=tuple((self._namespace, row, box) for box in range(len(boxes))),
            labels={
                "box": whole_number(label, "labels", source, len(boxes)),
                "identifier": f"{row}:{position}",
            },
            source=source,
        )


class RefCOCOData(ReferringExpressions):
    """RefCOCO (Yu et al., 2016), in the UNC splits."""

    format = REFCOCO

    @attrs.frozen(kw_only=True)
    class Options(BoxOptions):
        """Options of `refcoco`."""

        split: Literal["train", "validate", "test", "testA", "testB"] | None = option(
            None,
            help="Split; by default train for training and validate for validation. testA has "
            "people, testB other objects, test both.",
        )


class RefCOCOPlus(ReferringExpressions):
    """RefCOCO+ (Yu et al., 2016), in the UNC splits: expressions without locations."""

    format = REFCOCO_PLUS

    @attrs.frozen(kw_only=True)
    class Options(RefCOCOData.Options):
        """Options of `refcoco+`."""


class RefCOCOg(ReferringExpressions):
    """RefCOCOg (Mao et al., 2016), in the UMD splits: longer expressions."""

    format = REFCOCOG

    @attrs.frozen(kw_only=True)
    class Options(BoxOptions):
        """Options of `refcocog`."""

        split: Literal["train", "validate", "test"] | None = option(
            None, help="Split; by default train for training and validate for validation."
        )


class _Crop(Image.Image):
    """A crop of an image that is not decoded yet.

    Opening a sample must not decode its image, but each box is an image of its own. So a crop knows
    its size and mode, and decodes the image, which all its crops share, when it is loaded.

    Args:
        whole: The image.
        corners: Left, top, right, bottom, pixels.
    """

    def __init__(self, whole: Image.Image, corners: tuple[int, int, int, int]) -> None:
        super().__init__()
        self._whole = whole
        self._corners = corners
        left, top, right, bottom = corners
        self._size = (right - left, bottom - top)
        self._mode = whole.mode
        self.info = whole.info

    def load(self) -> Any:
        """Cut the pixels out of the image when they are first needed."""
        if self._im is None:
            part = self._whole.crop(self._corners)
            self.im, self._mode = part.im, part.mode
            self.palette, self.info = part.palette, part.info
        return super().load()


def _corners(
    box: Sequence[float | None], size: tuple[int, int], source: str
) -> tuple[int, int, int, int]:
    """Return a box's corners in whole pixels, at least one pixel wide and high."""
    width, height = size
    numbers = [number for number in box if number is not None]
    # NaN fails every comparison below.
    x, y, w, h = numbers if len(numbers) == len(box) == 4 else [float("nan")] * 4
    if not (
        w >= 0
        and h >= 0
        and -TOLERANCE <= x < width
        and -TOLERANCE <= y < height
        and x + w <= width + TOLERANCE
        and y + h <= height + TOLERANCE
    ):
        raise DataError(
            f"{source}: box {list(box)} does not lie in the image of {width} x {height} pixels; "
            "expected x, y, width, height. Fix the boxes and prepare the data again, or let the "
            "run skip it with data.max_bad_samples"
        )
    left, top = min(max(round(x), 0), width - 1), min(max(round(y), 0), height - 1)
    right, bottom = max(round(x + w), left + 1), max(round(y + h), top + 1)
    return left, top, min(right, width), min(bottom, height)
