"""COCO captions in Karpathy's splits."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import CaptionedImages, Split, SplitOptions
from renaissance.builtin.formats import COCO

FILES: dict[Split, tuple[str, ...]] = {
    # restval: the official validation images that are in neither of Karpathy's held-out splits.
    "train": (COCO.file("train"), COCO.file("restval")),
    "validate": (COCO.file("val"),),
    "test": (COCO.file("test"),),
}


class Coco(CaptionedImages):
    """COCO captions (Lin et al., 2014) in the splits of Karpathy and Fei-Fei (2015)."""

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `coco`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        names = FILES[options.split_for(context)]
        super().__init__(options, context, [context.root / name for name in names])
