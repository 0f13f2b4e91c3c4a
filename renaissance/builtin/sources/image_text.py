"""Your own images with captions: a captions file beside images, or WebDataset tars."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import attrs
import pyarrow.parquet as pq

from renaissance import (
    DataError,
    ImageFile,
    LeftOut,
    Record,
    Source,
    SourceContext,
    option,
)
from renaissance.prepare import (
    CAPTION_SCHEMA,
    captioned,
    choose_splits,
    is_address,
    list_addresses,
    open_file,
    tar_records,
)

# Accepted names of the columns of a captions file; the first match is used.
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "filepath", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
ROWS_PER_FILE = 100_000
# Captions may exceed the csv module's default limit.
csv.field_size_limit(1 << 24)


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
    for name, entries in itertools.groupby(_entries(path), key=lambda entry: entry[0]):
        captions = [caption for _, captions in entries for caption in captions]
        is_complete = name.startswith("/") or is_address(name)
        image = ImageFile(name if is_complete else f"{folder}/{name}")
        yield from captioned(table, image, captions, {"image_id": name, "split": "train"})


def _entries(path: str) -> Iterator[tuple[str, list[object]]]:
    """Yield the image and the captions of each line."""
    for record, line in enumerate(_lines(path), start=1):
        image, caption = (
            _value(path, record, line, names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS)
        )
        if not isinstance(image, str) or not image:
            raise DataError(
                f"{path}: record {record}: image is {image!r}; expected the path of an image. "
                "Correct the record, or remove it"
            )
        yield image, list(caption) if isinstance(caption, list | tuple) else [caption]


def _value(path: str, record: int, line: Mapping[str, object], names: Sequence[str]) -> object:
    for name in names:
        if name in line:
            return line[name]
    raise DataError(
        f"{path}: record {record}: has {', '.join(map(str, line))}; expected one of "
        f"{', '.join(names)}. Rename a column"
    )


def _lines(path: str) -> Iterator[Mapping[str, object]]:
    try:
        with open_file(path) as file:
            if path.endswith(".parquet"):
                for batch in pq.ParquetFile(file).iter_batches():
                    yield from batch.to_pylist()
            elif path.endswith(".jsonl"):
                yield from _json_lines(file)
            else:
                yield from _table_lines(path, file)
    # ArrowInvalid is a ValueError.
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected a captions file. "
            "Correct it, or write it again"
        ) from error


def _table_lines(path: str, file: IO[bytes]) -> Iterator[Mapping[str, object]]:
    # Spreadsheet programs begin files with a byte order mark.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    if path.endswith(".tsv"):
        # A quotation mark is part of the text, as in most files of captions.
        lines = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        lines = csv.DictReader(text, strict=True)
    try:
        for line in lines:
            # DictReader puts the fields that have no column under None.
            if None in line:
                columns = lines.fieldnames or ()
                remedy = (
                    "Remove the tabs within texts"
                    if path.endswith(".tsv")
                    else "Put a text with commas in quotation marks"
                )
                raise DataError(
                    f"{path}: line {lines.line_num}: {len(columns) + len(line[None])} fields; "
                    f"expected {len(columns)}: {', '.join(columns)}. {remedy}"
                )
            yield line
    except csv.Error as error:
        raise csv.Error(f"line {lines.reader.line_num}: {error}") from error


def _json_lines(file: IO[bytes]) -> Iterator[Mapping[str, object]]:
    for line_number, line in enumerate(file, start=1):
        if line.strip():
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:
                # Its own message counts lines from the start of this one.
                place = f"line {line_number}, column {error.colno}"
                raise ValueError(f"{place}: {error.msg}") from error
            except UnicodeDecodeError as error:
                raise ValueError(f"line {line_number}: {error}") from error
            if not isinstance(content, dict):
                raise ValueError(f"line {line_number} is not an object")
            yield content
