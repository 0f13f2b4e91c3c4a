"""Google's Conceptual Captions."""

import attrs

from renaissance import DatasetContext
from renaissance.arrow import (
    CaptionedImages,
    Split,
    SplitOptions,
    numbered_files,
    require_split,
)
from renaissance.builtin.formats import GCC as FORMAT

FILES: dict[Split, str] = {
    "train": FORMAT.series("train"),
    "validate": FORMAT.series("val"),
}


class GCC(CaptionedImages):
    """Conceptual Captions 3M (Sharma et al., 2018), from all prepared files."""

    # image_id is not read: it holds file names, which may repeat across folders of the download.
    optional_columns = ()

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `gcc`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        split = options.split_for(context)
        require_split("gcc", split, tuple(FILES))
        super().__init__(options, context, numbered_files(context.root, FILES[split]))
