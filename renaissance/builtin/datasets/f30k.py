"""Flickr30k captions in Karpathy's splits."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import CaptionedImages, Split, SplitOptions

FILES: dict[Split, str] = {
    "train": "f30k_caption_karpathy_train.arrow",
    "validate": "f30k_caption_karpathy_val.arrow",
    "test": "f30k_caption_karpathy_test.arrow",
}


class Flickr30k(CaptionedImages):
    """Flickr30k (Young et al., 2014) in the splits of Karpathy and Fei-Fei (2015)."""

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `f30k`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        super().__init__(options, context, [context.root / FILES[options.split_for(context)]])
