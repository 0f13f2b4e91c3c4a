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

FILES: dict[Split, str] = {
    "train": "conceptual_caption_train_{}.arrow",
    "validate": "conceptual_caption_val_{}.arrow",
}


class GCC(CaptionedImages):
    """Conceptual Captions 3M (Sharma et al., 2018), in as many files as were prepared."""

    # The column holds file names, which need not differ between folders of the download.
    optional_columns = ()

    @attrs.frozen(kw_only=True)
    class Options(SplitOptions):
        """Options of `gcc`."""

    def __init__(self, options: Options, context: DatasetContext) -> None:
        split = options.split_for(context)
        require_split("gcc", split, tuple(FILES))
        super().__init__(options, context, numbered_files(context.root, FILES[split]))
