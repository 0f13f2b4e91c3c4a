"""Your own images with captions: a captions file beside images, or WebDataset tars."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from renaissance import (
    DataError,
    ImageFile,
    LeftOut,
    Record,
    Source,
    SourceContext,
    option,
)
from renaissance.builtin.sources.captions_file import SUFFIXES, captions_lines
from renaissance.prepare import (
    CAPTION_SCHEMA,
    captioned,
    choose_splits,
    is_address,
    list_addresses,
    tar_records,
)

# Accepted names of the columns of a captions file; the first match is used.
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "filepath", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
ROWS_PER_FILE = 100_000


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
    captions, text or title. Tars hold {key}.jpg with {key}.txt or {key}.json.

    Writes `{name}_0.arrow` and so on, 100,000 images each. Read them with the dataset `image-text`.
    """

    schema = CAPTION_SCHEMA
    rows_per_file = ROWS_PER_FILE

    @attrs.frozen
    class Options:
        """Options of `image-text`."""

        name: str = option("image_text", help="Prefix of the names of the files.")

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        choose_splits(context, ("train",))
        self.name = options.name
        self._files = _find_files(context.path)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image."""
        for path in self._files:
            if path.endswith(".tar"):
                yield from tar_records(self.name, path)
            else:
                yield from _records(self.name, path)


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


def _records(table: str, path: str) -> Iterator[Record | LeftOut]:
    folder = path.rpartition("/")[0] or "."
    for name, group in itertools.groupby(_entries(path), key=lambda entry: entry[0]):
        entries = list(group)
        captions = [caption for _, captions, _ in entries for caption in captions]
        is_complete = name.startswith("/") or is_address(name)
        where = entries[0][2]
        image = ImageFile(name if is_complete else f"{folder}/{name}", listed_at=where)
        yield from captioned(table, image, captions, {"image_id": name, "split": "train"})


def _entries(path: str) -> Iterator[tuple[str, list[object], str]]:
    """Yield the image and the captions of each line, and where the line is."""
    for where, line in captions_lines(path):
        image, caption = (_value(where, line, names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS))
        if not isinstance(image, str) or not image:
            raise DataError(
                f"{where}: image is {image!r}; expected the path of an image. "
                "Correct the record, or remove it"
            )
        yield image, list(caption) if isinstance(caption, list | tuple) else [caption], where


def _value(where: str, line: Mapping[str, object], names: Sequence[str]) -> object:
    for name in names:
        if name in line:
            return line[name]
    raise DataError(
        f"{where}: has {', '.join(map(str, line))}; expected one of "
        f"{', '.join(names)}. Rename a column"
    )
