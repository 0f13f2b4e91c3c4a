"""Your own images with captions: a captions file beside images, or WebDataset tars."""

import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from renaissance import (
    DataError,
    ImageFile,
    LeftOut,
    Record,
    Source,
    SourceContext,
    option,
    quoted,
    shortened,
)
from renaissance.builtin.sources.captions_file import SUFFIXES, captions_lines
from renaissance.builtin.sources.further_columns import FurtherColumns
from renaissance.prepare import (
    CAPTION_SCHEMA,
    captioned,
    is_address,
    is_held_out,
    list_addresses,
    tar_records,
)

# Accepted names of the columns of a captions file; the first match is used.
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "filepath", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
ROWS_PER_FILE = 100_000
# A split is part of a file's name.
SPLIT_NAME = re.compile(r"[\w-]+")

Line = tuple[str, Mapping[str, object]]


def _fraction(instance: object, attribute: object, value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise ValueError(f"got {value}, expected a fraction between 0 and 1")


class ImageText(Source):
    """Your own images, with a captions file beside them or in WebDataset tars.

    The source is a captions file (.jsonl, .csv, .tsv, .parquet), a tar, a pattern of tars
    ('shards/*.tar'), or a folder that holds one captions file or tars; local, or an address that
    fsspec reads (s3://, gs://, https://).

    A captions file has one line per image, with a caption or a list of captions. Consecutive lines
    with the same image become one row. Image paths are relative to the file:

        {"image": "photos/1.jpg", "caption": ["a dog on a beach", "a wet dog"]}

    In a .csv file, a text with commas or quotation marks is put in quotation marks; in a .tsv file,
    quotation marks are part of the text.

    The columns may be called image, image_path, file_name, filename, filepath or path; and caption,
    captions, text or title. Tars hold {key}.jpg with {key}.txt, or with {key}.json that has the key
    caption or text.

    Further columns are kept, with one value per image, and so are the further keys of {key}.json,
    and {key}.cls as cls; --drop leaves one out. If there is a column
    split, or with --hold-out, each split has files of its own, and --splits chooses among them.

    Writes `{name}_0.arrow` and so on, 100,000 images each; with splits, `{name}_{split}_0.arrow`.
    Read them with the dataset `image-text`.
    """

    schema = CAPTION_SCHEMA
    rows_per_file = ROWS_PER_FILE

    @attrs.frozen
    class Options:
        """Options of `image-text`."""

        name: str = option("image_text", help="Prefix of the names of the files.")
        hold_out: float | None = option(
            None,
            help="Fraction of the images to write as split val, and the others as train: always "
            "the same ones, whatever the order of the lines.",
            validator=_fraction,
        )
        drop: tuple[str, ...] = option((), help="A column to leave out; may be given repeatedly.")

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self.name = options.name
        self._splits = context.splits
        self._hold_out = options.hold_out
        self._dropped = options.drop
        self._further = FurtherColumns(options.drop)
        self._files = _find_files(context.path)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image."""
        found = set()
        for path in self._files:
            is_tar = path.endswith(".tar")
            rows = (
                tar_records(self.name, path, self._of_tar_sample)
                if is_tar
                else self._of_captions_file(path)
            )
            for entry in map(self._divided, rows):
                split = entry.values["split"] if isinstance(entry, Record) else None
                found.add(split)
                if not self._splits or split is None or split in self._splits:
                    yield entry
        self.schema = self._further.schema()
        absent = sorted(set(self._splits) - found)
        if absent:
            known = ", ".join(sorted(split for split in found if split is not None))
            raise DataError(
                f"{self.path}: no split '{absent[0]}'; it has {known}. Choose one of these, add a "
                "column split, or divide it with --hold-out"
            )

    def _of_captions_file(self, path: str) -> Iterator[Record | LeftOut]:
        folder = path.rpartition("/")[0] or "."
        for name, group in itertools.groupby(_entries(path), key=lambda entry: entry[0]):
            entries = list(group)
            captions = [caption for _, captions, _ in entries for caption in captions]
            lines = [line for _, _, line in entries]
            is_complete = name.startswith("/") or is_address(name)
            image = ImageFile(
                name if is_complete else f"{folder}/{name}", listed_at=entries[0][2][0]
            )
            table, split = self._split_of(lines)
            known = [*_used(lines[0][1]), "split", "image_id"]
            values = {"image_id": name, "split": split} | self._further.of_image(lines, known)
            yield from captioned(table, image, captions, values)

    def _of_tar_sample(
        self, where: str, fields: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        lines = [(where, fields)]
        table, split = self._split_of(lines)
        return table, {"split": split} | self._further.of_image(lines, ["split"])

    def _split_of(self, lines: Sequence[Line]) -> tuple[str, str]:
        """Return the table and the split of an image."""
        has_split = "split" in lines[0][1] and "split" not in self._dropped
        splits = {line.get("split") for _, line in lines} if has_split else set()
        where = lines[0][0]
        if not splits:
            return self.name, "train"
        split = splits.pop()
        if splits or not isinstance(split, str) or not SPLIT_NAME.fullmatch(split):
            actual = shortened(", ".join(map(repr, [split, *splits])))
            raise DataError(
                f"{where}: column 'split' is {actual}; expected the name of one split per image, "
                "such as train or val. Correct it, or leave the column out with --drop split"
            )
        if self._hold_out is not None:
            raise DataError(
                f"{where}: has a column split, and --hold-out is given; expected one of them. "
                "Leave out --hold-out, or the column with --drop split"
            )
        return f"{self.name}_{split}", split

    def _divided(self, entry: Record | LeftOut) -> Record | LeftOut:
        """Put a row on its side, with --hold-out."""
        if self._hold_out is None or isinstance(entry, LeftOut):
            return entry
        key = posixpath.normpath(entry.values["image_id"])
        split = "val" if is_held_out(key, self._hold_out) else "train"
        values = {**entry.values, "split": split}
        return attrs.evolve(entry, table=f"{self.name}_{split}", values=values)


def _find_files(source: str) -> list[str]:
    """Return one captions file, or tars."""
    paths = [source] if source.endswith((*SUFFIXES, ".tar")) and "*" not in source else []
    if is_address(source):
        paths = paths or list_addresses(source if "*" in source else f"{source.rstrip('/')}/*")
    elif "*" in source:
        paths = [str(path) for path in Path(source).parent.glob(Path(source).name)]
    elif not paths and Path(source).is_dir():
        paths = [str(path) for path in Path(source).iterdir()]
    captions = sorted(path for path in paths if path.endswith(SUFFIXES))
    tars = sorted(path for path in paths if path.endswith(".tar"))
    if len(captions) == 1 or (tars and not captions):
        return captions or tars
    actual = f"several captions files: {', '.join(captions)}" if captions else "none"
    raise DataError(
        f"{source}: {actual}; expected one captions file ({', '.join(SUFFIXES)}) beside the "
        "images, or tars (.tar). Name one of them as the source"
    )


def _entries(path: str) -> Iterator[tuple[str, list[object], Line]]:
    """Yield the image and the captions of each line, and the line."""
    for where, line in captions_lines(path):
        for names in (IMAGE_COLUMNS, CAPTION_COLUMNS):
            if not any(name in line for name in names):
                raise DataError(
                    f"{where}: has {shortened(', '.join(map(str, line)))}; expected one of "
                    f"{', '.join(names)}. Rename a column"
                )
        image, caption = (line[name] for name in _used(line))
        if not isinstance(image, str) or not image:
            raise DataError(
                f"{where}: image is {quoted(image)}; expected the path of an image. "
                "Correct the record, or remove it"
            )
        captions = list(caption) if isinstance(caption, list | tuple) else [caption]
        yield image, captions, (where, line)


def _used(line: Mapping[str, object]) -> list[str]:
    """Return the columns of image and caption: of the accepted names, the first in each line."""
    return [
        next(name for name in names if name in line) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS)
    ]
