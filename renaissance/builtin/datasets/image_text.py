"""Images with captions, from your own Arrow files."""

import glob
import re
from pathlib import Path

import attrs

from renaissance import DataError, DatasetContext, option, quoted
from renaissance.arrow import CaptionedImages, CaptionOptions

# The last of these in a file's name, as a word of its own, is the split that it holds.
SPLIT = re.compile(r"(?<![a-z])(train|restval|val|valid|validate|validation|dev|test)(?![a-z])")


class ImageText(CaptionedImages):
    """Images with captions, from any Arrow files with the columns `image` and `caption`."""

    @attrs.frozen(kw_only=True)
    class Options(CaptionOptions):
        """Options of `image-text`."""

        files: str | tuple[str, ...] = option(
            help="Arrow files: a path or pattern ('photos_*.arrow'), or a list of them, relative "
            "to data.root. The files of a pattern are read in the order of their names."
        )
        split: str | None = option(
            None,
            help="Read the files of another split, whose names differ in that word alone: with "
            "test, photos_test.arrow in place of photos_val.arrow. `evaluate --split` sets it.",
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        patterns = (options.files,) if isinstance(options.files, str) else options.files
        if options.split is not None:
            patterns = tuple(_of_split(pattern, options.split) for pattern in patterns)
        paths = [path for pattern in patterns for path in _matching(context.root, pattern)]
        if not paths:
            raise DataError(
                "image-text: files is an empty list; expected at least one path or pattern"
            )
        super().__init__(options, context, paths)


def _of_split(pattern: str, split: str) -> str:
    """Return the path or pattern of another split's files."""
    named = list(SPLIT.finditer(pattern))
    if not named:
        raise DataError(
            f"image-text: {pattern!r} says of no split that it holds it, so where the split "
            f"{split!r} is cannot be told; expected a name such as photos_val.arrow. Set files to "
            "the files of that split"
        )
    start, end = named[-1].span()
    return pattern[:start] + split + pattern[end:]


def _matching(root: Path, pattern: str) -> list[Path]:
    path = root / pattern
    # A path without wildcards need not exist: the table reports it, with similar names.
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    names = sorted(glob.glob(pattern, root_dir=root, recursive=True))
    if not names:
        raise DataError(
            f"image-text: no file matches {quoted(pattern)} in {root.absolute()}; expected "
            "Arrow files. Patterns are relative to data.root"
        )
    return [root / name for name in names]
