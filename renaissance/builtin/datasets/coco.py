"""COCO captions in Karpathy's splits."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import CaptionedImages, Split, SplitOptions

FILES: dict[Split, tuple[str, ...]] = {
    # Karpathy's split trains on what he left of the validation images, too.
    "train": ("coco_caption_karpathy_train.arrow", "coco_caption_karpathy_restval.arrow"),
    "validate": ("coco_caption_karpathy_val.arrow",),
    "test": ("coco_caption_karpathy_test.arrow",),
}


class Coco(CaptionedImages):
    """COCO captions (Lin et al., 2014) in the splits of Karpathy and Fei-Fei (2015)."""

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `coco`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        names = FILES[options.split_for(context)]
        super().__init__(options, context, [context.root / name for name in names])
