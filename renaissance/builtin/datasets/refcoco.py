"""RefCOCO, RefCOCO+ and RefCOCOg: which of an image's objects does an expression mean?"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
from PIL import Image

from renaissance import DataError, DatasetContext, Sample, option, positive
from renaissance.arrow import ImageRows, is_list, is_texts, whole_number, written_text

FILES = {"train": "train", "validate": "val", "test": "test", "testA": "testA", "testB": "testB"}
# How far a box may reach over the edge, pixels: annotators' coordinates are fractional.
TOLERANCE = 1.0


@attrs.frozen(kw_only=True)
class BoxOptions:
    """Options of every dataset of referring expressions."""

    max_boxes: int = option(
        20,
        help="Most boxes that an image may have; each is encoded, so memory grows with them.",
        validator=positive,
    )


class ReferringExpressions(ImageRows):
    """Rows of (image, sentences, bboxes, labels), one row an object that is referred to.

    A sample is a sentence; its images are the boxes cut out, in the order of the file. Labels:
    `box`, which of them is meant; and `identifier`, row and position in the file, such as 12:0.

    Raises:
        DataError: If a file is missing or unreadable, lacks a column, or has an image with more
            than `max_boxes` boxes.
    """

    prefix: ClassVar[str]
    provides = frozenset({"text", "image", "box", "identifier"})

    def __init__(self, options: Any, context: DatasetContext) -> None:
        split = options.split or ("train" if context.training else "validate")
        path = context.root / f"{self.prefix}_{FILES[split]}.arrow"
        super().__init__((options, context), [path], "sentences", columns=("bboxes", "labels"))
        self._table.check_type("sentences", is_texts, "lists of strings")
        self._table.check_type("bboxes", is_list, "lists of boxes, each x, y, width, height")
        self._check_number(options.max_boxes)

    def _check_number(self, max_boxes: int) -> None:
        # Now rather than in the middle of an epoch.
        arrays = self._table.column("bboxes")
        counts = np.concatenate([array.value_lengths().fill_null(0) for array in arrays])
        largest = int(counts.argmax())
        if counts[largest] > max_boxes:
            raise DataError(
                f"{self._table.source(largest)}: {counts[largest]} boxes, and "
                f"{int((counts > max_boxes).sum())} of {len(counts)} rows have more than "
                f"{max_boxes}; expected at most max_boxes = {max_boxes}. Raise max_boxes: "
                f"{counts[largest]} lets all of them be told apart"
            )

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sentence with the boxes of its image.

        Raises:
            DataError: If the record cannot be read, or a box lies outside the image.
            IndexError: If there is no such sample.
        """
        row, position = self._texts.locate(index)
        source = f"{self._table.source(row)}, sentence {position}"
        boxes = [box or () for box in self._table.value("bboxes", row).as_py() or ()]
        label = self._table.value("labels", row).as_py()
        image = self._image(row, source)
        return Sample(
            text=written_text(self._item("sentences", row, position, source), source),
            images=tuple(_Crop(image, _corners(box, image.size, source)) for box in boxes),
            image_ids=tuple((self._namespace, row, number) for number in range(len(boxes))),
            labels={
                "box": whole_number(label, "labels", source, len(boxes)),
                "identifier": f"{row}:{position}",
            },
            source=source,
        )


class RefCOCOData(ReferringExpressions):
    """RefCOCO (Yu et al., 2016), in the division of UNC."""

    prefix = "refcoco_unc"

    @attrs.frozen(kw_only=True)
    class Options(BoxOptions):
        """Options of `refcoco`."""

        split: Literal["train", "validate", "test", "testA", "testB"] | None = option(
            None,
            help="Split; train for training and validate for validation where absent; testA has "
            "people, testB other objects, test both.",
        )


class RefCOCOPlus(ReferringExpressions):
    """RefCOCO+ (Yu et al., 2016), in the division of UNC: expressions that name no place."""

    prefix = "refcoco+_unc"

    @attrs.frozen(kw_only=True)
    class Options(RefCOCOData.Options):
        """Options of `refcoco+`."""


class RefCOCOg(ReferringExpressions):
    """RefCOCOg (Mao et al., 2016), in the division of UMD: longer expressions."""

    prefix = "refcocog_umd"

    @attrs.frozen(kw_only=True)
    class Options(BoxOptions):
        """Options of `refcocog`."""

        split: Literal["train", "validate", "test"] | None = option(
            None, help="Split; train for training and validate for validation where absent."
        )


class _Crop(Image.Image):
    """A part of an image that is decoded when the first of its parts is.

    Args:
        whole: The image, which all its parts share.
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
        """See the base class."""
        if self._im is None:
            part = self._whole.crop(self._corners)
            self.im, self._mode = part.im, part.mode
            self.palette, self.info = part.palette, part.info
        return super().load()


def _corners(box: Sequence[Any], size: tuple[int, int], source: str) -> tuple[int, int, int, int]:
    """Return a box's corners in whole pixels, at least one pixel wide and high."""
    width, height = size
    x, y, w, h = box if len(box) == 4 and None not in box else (float("nan"),) * 4
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
            "expected x, y, width, height. Mend the boxes and prepare the data again, or let the "
            "run skip it with data.max_bad_samples"
        )
    left, top = min(max(round(x), 0), width - 1), min(max(round(y), 0), height - 1)
    right, bottom = max(round(x + w), left + 1), max(round(y + h), top + 1)
    return left, top, min(right, width), min(bottom, height)
