"""WebDataset tars: members `{key}.jpg`, `{key}.txt`, `{key}.json` of a sample follow each other."""

import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from renaissance.contracts.source import ImageFile, LeftOut, Record
from renaissance.data.prepare.remote import open_file
from renaissance.data.prepare.rows import captioned
from renaissance.errors import DataError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
# Keys under which the JSON of a sample may hold its caption, if it has no text file.
CAPTION_KEYS = ("caption", "text")


def tar_records(table: str, path: str) -> Iterator[Record | LeftOut]:
    """Yield the records of one tar; images are read from the tar later.

    Args:
        table: Name of the table.
        path: The tar, or its address; not compressed.

    Raises:
        DataError: If it is not a whole tar.
    """
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for key, members in itertools.groupby(members_of(tar), key=key_of):
                parts = {suffix_of(member): member for member in members}
                yield from _sample(table, path, key, tar, parts)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path}: not a whole tar ({error}); expected an uncompressed tar of key.jpg, key.txt, "
            "key.json. Unpack it if it is compressed, or download it again"
        ) from error


def members_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar, in their order."""
    while (member := tar.next()) is not None:
        # tarfile would keep all members in memory.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isfile():
            yield member


def key_of(member: tarfile.TarInfo) -> str:
    """Return the key of the sample that a file belongs to."""
    path = PurePosixPath(member.name)
    # Up to the first dot of the name, as WebDataset does.
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def suffix_of(member: tarfile.TarInfo) -> str:
    """Return what a file is of its sample: "jpg", "json", "left.png"."""
    return PurePosixPath(member.name).name.partition(".")[2].lower()


def _sample(
    table: str, path: str, key: str, tar: tarfile.TarFile, parts: Mapping[str, tarfile.TarInfo]
) -> Iterator[Record | LeftOut]:
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in parts), None)
    if suffix is None:
        yield LeftOut(table, f"{path}: {key}", f"no image among {', '.join(parts)}")
        return
    image = ImageFile(path, parts[suffix].offset_data, parts[suffix].size)
    values = {"image_id": f"{key}.{suffix}", "split": "train"}
    yield from captioned(table, image, _captions(tar, parts), values)


def _captions(tar: tarfile.TarFile, parts: Mapping[str, tarfile.TarInfo]) -> list[Any]:
    if "txt" in parts:
        return [_read(tar, parts["txt"]).decode("utf-8-sig", errors="surrogateescape")]
    if "json" in parts:
        try:
            content = json.loads(_read(tar, parts["json"]))
        except ValueError:
            return []
        for key in CAPTION_KEYS:
            if isinstance(content, dict) and key in content:
                caption = content[key]
                return caption if isinstance(caption, list) else [caption]
    return []


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()
