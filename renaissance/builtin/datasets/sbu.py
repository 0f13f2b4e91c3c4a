"""SBU captions."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import (
    CaptionedImages,
    SplitOptions,
    numbered_files,
    require_split,
)
from renaissance.builtin.formats import SBU as FORMAT


class SBU(CaptionedImages):
    """SBU captioned photos (Ordonez et al., 2011), from all prepared files.

    The only split is train.
    """

    # image_id is not read: it holds file names, which may repeat across folders of the download.
    optional_columns = ()

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `sbu`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        require_split("sbu", options.split_for(context), ("train",))
        super().__init__(options, context, numbered_files(context.root, FORMAT.series()))
