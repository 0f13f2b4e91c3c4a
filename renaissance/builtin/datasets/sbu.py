"""SBU captions."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import (
    CaptionedImages,
    SplitOptions,
    numbered_files,
    require_split,
)


class SBU(CaptionedImages):
    """SBU captioned photos (Ordonez et al., 2011), in as many files as were prepared.

    It has no split but train.
    """

    # The column holds file names, which need not differ between folders of the download.
    optional_columns = ()

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `sbu`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        require_split("sbu", options.split_for(context), ("train",))
        super().__init__(options, context, numbered_files(context.root, "sbu_{}.arrow"))
