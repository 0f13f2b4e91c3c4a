"""Flickr30k captions in Karpathy's splits."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import CaptionedImages, Split, SplitOptions
from renaissance.builtin.formats import F30K

FILES: dict[Split, str] = {
    "train": F30K.file("train"),
    "validate": F30K.file("val"),
    "test": F30K.file("test"),
}


class Flickr30k(CaptionedImages):
    """Flickr30k (Young et al., 2014) in the splits of Karpathy and Fei-Fei (2015)."""

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `f30k`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        super().__init__(options, context, [context.root / FILES[options.split_for(context)]])
