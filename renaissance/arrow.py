"""Base classes for datasets in Arrow files, as stable as the names in `renaissance`.

`ImageRows` reads images with lists of texts, `CaptionedImages` images with captions. Both are built
on `ArrowTable` and `CaptionIndex`. `TableRows` reads tables of any format, whatever the names of
their columns.
"""

from renaissance.data.arrow import (
    ArrowTable,
    CaptionIndex,
    is_binary,
    is_list,
    is_text,
    is_texts,
)
from renaissance.data.captioned_images import (
    CaptionedImages,
    CaptionOptions,
    Split,
    SplitOptions,
    numbered_files,
    require_split,
)
from renaissance.data.image_rows import ImageRows, whole_number, written_text
from renaissance.data.open_image import open_image
from renaissance.data.tables.division import TableSplit
from renaissance.data.tables.rows import TableRows

__all__ = [
    "ArrowTable",
    "CaptionIndex",
    "CaptionOptions",
    "CaptionedImages",
    "ImageRows",
    "Split",
    "SplitOptions",
    "TableRows",
    "TableSplit",
    "is_binary",
    "is_list",
    "is_text",
    "is_texts",
    "numbered_files",
    "open_image",
    "require_split",
    "whole_number",
    "written_text",
]
