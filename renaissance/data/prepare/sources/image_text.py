"""People's own images with captions: a captions file beside images, or WebDataset tars."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from renaissance.data.prepare.records import (
    CAPTION_SCHEMA,
    ImageFile,
    LeftOut,
    Record,
    Source,
    captioned,
    choose_splits,
)
from renaissance.data.prepare.remote import is_address, list_addresses, open_address
from renaissance.data.prepare.webdataset import tar_records
from renaissance.errors import DataError

# What the columns of a captions file are called, the first of these that it has.
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "filepath", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
ROWS_PER_FILE = 100_000
# Captions may be longer than what the csv module takes by default.
csv.field_size_limit(1 << 24)


def image_text_source(
    source: str, splits: Sequence[str] | None = None, name: str = "image_text"
) -> Source:
    """List `{name}_0.arrow` and so on, 100,000 images a file, one row an image.

    Lines of a captions file that follow each other and name the same image make one row.

    Args:
        source: A captions file (jsonl, csv, tsv or parquet: image path, and a caption or a list
            of them; paths are relative to the file), a tar or a pattern of tars, or a folder that
            holds one captions file or tars; local, or an address that fsspec reads.
        splits: None, or train, the only one.
        name: Prefix of the files' names.

    Raises:
        DataError: If there is neither a captions file nor a tar.
    """
    choose_splits(Path(source), ("train",), splits)
    paths = _find(source)

    def records() -> Iterator[Record | LeftOut]:
        for path in paths:
            if path.endswith(".tar"):
                yield from tar_records(name, path)
            else:
                yield from _records(name, path)

    return Source(
        name=name,
        path=source,
        schema=CAPTION_SCHEMA,
        records=records,
        rows_per_file=ROWS_PER_FILE,
    )


def _find(source: str) -> list[str]:
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
    found = f"several captions files: {', '.join(captions)}" if captions else "none"
    raise DataError(
        f"{source}: {found}; expected one captions file ({', '.join(SUFFIXES)}) beside the images, "
        "or tars (.tar). Name one of them as the source"
    )


def _records(table: str, path: str) -> Iterator[Record | LeftOut]:
    folder = path.rpartition("/")[0] or "."
    for image_name, entries in itertools.groupby(_entries(path), key=lambda entry: entry[0]):
        captions = [caption for _, captions in entries for caption in captions]
        values = {"image_id": image_name, "split": "train"}
        image = ImageFile(
            image_name
            if image_name.startswith("/") or is_address(image_name)
            else f"{folder}/{image_name}"
        )
        yield from captioned(table, image, captions, values)


def _entries(path: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the image and the captions of each line."""
    for number, line in enumerate(_lines(path), start=1):
        image, caption = (
            _value(path, number, line, names) for names in (IMAGE_COLUMNS, CAPTION_COLUMNS)
        )
        if not isinstance(image, str) or not image:
            raise DataError(
                f"{path}: record {number}: image is {image!r}; expected the path of an image. "
                "Correct the record, or take it out"
            )
        yield image, list(caption) if isinstance(caption, list | tuple) else [caption]


def _value(path: str, number: int, line: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in line:
            return line[name]
    raise DataError(
        f"{path}: record {number}: has {', '.join(map(str, line))}; expected one of "
        f"{', '.join(names)}. Rename a column"
    )


def _lines(path: str) -> Iterator[Mapping[str, Any]]:
    try:
        with open_address(path) if is_address(path) else open(path, "rb") as file:
            if path.endswith(".parquet"):
                for batch in pq.ParquetFile(file).iter_batches():
                    yield from batch.to_pylist()
            elif path.endswith(".jsonl"):
                yield from _json_lines(file)
            else:
                # Spreadsheets put a byte order mark in front.
                text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
                yield from csv.DictReader(text, delimiter="\t" if path.endswith(".tsv") else ",")
    # ArrowInvalid is a ValueError.
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected a captions file. "
            "Correct it, or write it again"
        ) from error


def _json_lines(file: IO[bytes]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            content = json.loads(line)
            if not isinstance(content, dict):
                raise ValueError(f"line {number} is no object")
            yield content
