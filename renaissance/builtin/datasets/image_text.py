"""Images with captions, from your own Arrow files."""

import glob
from pathlib import Path

import attrs

from renaissance import DataError, DatasetContext, option
from renaissance.arrow import CaptionedImages, CaptionOptions


class ImageText(CaptionedImages):
    """Images with captions, from any Arrow files with the columns `image` and `caption`."""

    @attrs.frozen(kw_only=True)
    class Options(CaptionOptions):
        """Options of `image-text`."""

        files: str | tuple[str, ...] = option(
            help="Arrow files: a path or pattern ('photos_*.arrow'), or a list of them, relative "
            "to data.root. The files of a pattern are read in the order of their names."
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        patterns = (options.files,) if isinstance(options.files, str) else options.files
        paths = [path for pattern in patterns for path in _matching(context.root, pattern)]
        if not paths:
            raise DataError(
                "image-text: files is an empty list; expected at least one path or pattern"
            )
        super().__init__(options, context, paths)


def _matching(root: Path, pattern: str) -> list[Path]:
    path = root / pattern
    # A path without wildcards need not exist: the table reports it, with similar names.
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    names = sorted(glob.glob(pattern, root_dir=root, recursive=True))
    if not names:
        raise DataError(
            f"image-text: no file matches {pattern!r} in {root.absolute()}; expected Arrow files. "
            "Patterns are relative to data.root"
        )
    return [root / name for name in names]
