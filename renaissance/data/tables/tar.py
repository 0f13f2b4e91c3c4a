"""An index of a WebDataset tar: one row per key, with the position of each image."""

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from renaissance.data.prepare.webdataset import (
    IMAGE_SUFFIXES,
    key_of,
    members_of,
    open_tar,
    suffix_of,
)
from renaissance.data.tables.arrow_rows import KEY, check_unicode, write_objects
from renaissance.data.tables.files import TableFile
from renaissance.errors import DataError, quoted
from renaissance.limits import load_json, read_limits

# The column of a sample's image, whatever its suffix: its only one, or the first by suffix.
IMAGE = "image"


def write_tar_index(table: TableFile, path: Path) -> int:
    """Write the index of a tar as an Arrow file, and return its number of rows.

    The columns are the suffixes of the members, such as jpg and txt, the keys of the objects in
    .json members, and `image`.

    Raises:
        DataError: If it is not a whole tar, or a text in it cannot be read.
    """
    images: set[str] = {IMAGE}
    return write_objects(path, KEY, _samples(table, images), images)


def _samples(table: TableFile, images: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key and the columns of each sample; names of image columns go into `images`."""
    try:
        with open_tar(table.path) as tar:
            for key, members in itertools.groupby(members_of(tar, table.path), key=key_of):
                row: dict[str, Any] = {}
                for member in members:
                    row |= _columns(table, tar, member, images)
                found = [row[suffix] for suffix in IMAGE_SUFFIXES if suffix in row]
                yield key, {**row, **({IMAGE: found[0]} if found else {})}
    # Damaged headers raise all of these.
    except (OSError, tarfile.TarError, ValueError, RecursionError) as error:
        raise DataError(
            f"{table.path}: not a whole tar ({error}); expected an uncompressed tar of key.jpg, "
            "key.txt, key.json. Unpack it if it is compressed, or download it again"
        ) from error


def _columns(
    table: TableFile, tar: tarfile.TarFile, member: tarfile.TarInfo, images: set[str]
) -> dict[str, Any]:
    suffix = suffix_of(member)
    if not member.isfile():
        return {}
    kind = suffix.rpartition(".")[2]
    if kind in IMAGE_SUFFIXES:
        images.add(suffix)
        return {suffix: (member.offset_data, member.size)}
    if kind not in ("txt", "text", "json", "cls"):
        return {}
    text = _text(table, tar, member)
    if kind == "cls":
        return {suffix: int(text) if text.strip().isdecimal() else text.strip()}
    if kind != "json":
        return {suffix: text}
    where = f"{table.path}: {member.name}"
    try:
        content = load_json(text)
    except ValueError as error:
        raise DataError(
            f"{where}: not valid JSON ({error}): {quoted(text)}. Correct it, and write the tar "
            "again"
        ) from error
    check_unicode(content, where)
    if isinstance(content, dict):
        # Where the images are, the tar says.
        taken = (IMAGE, *IMAGE_SUFFIXES)
        return {name: value for name, value in content.items() if name not in taken}
    return {suffix: content}


def _text(table: TableFile, tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    where = f"{table.path}: {member.name}"
    limits = read_limits()
    if member.size > limits.record_bytes:
        raise DataError(
            f"{where}: {member.size:,} bytes; expected a text of {limits.at_most('record_bytes')}. "
            "Leave it out of the tar, or raise the limit"
        )
    file = tar.extractfile(member)
    try:
        return "" if file is None else file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 ({error}); expected a text. Save it as UTF-8, and write the tar "
            "again"
        ) from error
