"""Visual Genome region descriptions."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import (
    CaptionedImages,
    SplitOptions,
    require_split,
)
from renaissance.builtin.formats import VG


class VisualGenome(CaptionedImages):
    """Visual Genome (Krishna et al., 2017): whole images with region phrases as captions.

    The only split is train.
    """

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `vg`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        require_split("vg", options.split_for(context), ("train",))
        super().__init__(options, context, [context.root / VG.file()])
