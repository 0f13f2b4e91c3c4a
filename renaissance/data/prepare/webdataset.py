"""WebDataset tars: members `{key}.jpg`, `{key}.txt`, `{key}.json` of a sample follow each other."""

import contextlib
import itertools
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import IO, Any, TypeAlias, cast

from renaissance.contracts.source import ImageFile, LeftOut, Record
from renaissance.data.prepare.remote import open_file
from renaissance.data.prepare.rows import captioned
from renaissance.errors import DataError, shortened
from renaissance.limits import load_json, read_limits

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jp2", "avif", "ppm")
TEXT_SUFFIXES = ("txt", "json", "cls")
# Keys under which the JSON of a sample may hold its caption, if it has no text file.
CAPTION_KEYS = ("caption", "text")
# Kinds of files that are reported by name.
MAX_KINDS = 20


# From where a sample is, for messages, and its further values, to its table and what to write.
Describe: TypeAlias = Callable[[str, Mapping[str, Any]], tuple[str, Mapping[str, Any]]]


def tar_records(
    table: str, path: str, describe: Describe | None = None
) -> Iterator[Record | LeftOut]:
    """Yield the records of one tar; images are read from the tar later.

    Args:
        table: Name of the table.
        path: The tar, or its address; not compressed.
        describe: Called with where a sample is, for messages, and what it has besides image and
            captions: the keys of its JSON, and `cls`. Returns the sample's table and further values
            to write. Without it, there are none.

    Raises:
        DataError: If it is not a whole tar.
    """
    ignored: Counter[str] = Counter()
    try:
        with open_tar(path) as tar:
            for key, members in itertools.groupby(members_of(tar, path), key=key_of):
                parts, kinds = _parts(members, ignored)
                yield from _sample(table, path, key, tar, parts, kinds, describe)
    # Damaged headers raise all of these.
    except (OSError, tarfile.TarError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not a whole tar ({error}); expected an uncompressed tar of key.jpg, key.txt, "
            "key.json. Unpack it if it is compressed, or download it again"
        ) from error
    for kind, count in ignored.items():
        files = "1 file that is not read" if count == 1 else f"{count:,} files that are not read"
        expected = f"an image ({', '.join(IMAGE_SUFFIXES)}), txt, json and cls of each sample"
        yield LeftOut(table, f"{path}: {kind}", f"{files}; expected {expected}", is_row=False)


class _Bounded:
    """A file that refuses to read more at once than a record may have.

    tarfile reads long names and extended headers whole, whatever size the archive gives them.
    """

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file, self._path = file, path
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        limits = read_limits()
        if size > max(limits.record_bytes, tarfile.RECORDSIZE):
            raise DataError(
                f"{self._path}: a header or text of {size:,} bytes at byte {self.tell()}; expected "
                f"{limits.at_most('record_bytes')}. Download the tar again, leave it out, or raise "
                "the limit"
            )
        return self._file.read(size)


@contextlib.contextmanager
def open_tar(path: str) -> Iterator[tarfile.TarFile]:
    """Open a tar, given its path or address, to be read in bounded memory.

    Raises:
        DataError: While it is read, if a header is larger than a record may be.
        OSError: If it cannot be read.
        tarfile.TarError: If it is not a tar.
    """
    with open_file(path) as file:
        bounded = cast(IO[bytes], _Bounded(file, path))
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            yield tar


def members_of(tar: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    """Yield the files and links in a tar, in their order.

    Raises:
        DataError: If it has more members than the limits allow.
    """
    limits = read_limits()
    for count in itertools.count(1):
        member = tar.next()
        if member is None:
            return
        if count > limits.tar_members:
            raise DataError(
                f"{path}: more than {limits.tar_members:,} members; expected "
                f"{limits.at_most('tar_members')}. Divide the tar, or raise the limit"
            )
        # tarfile would keep all members in memory.
        tar.members.clear()  # type: ignore[attr-defined]
        if not member.isdir():
            yield member


def key_of(member: tarfile.TarInfo) -> str:
    """Return the key of the sample that a file belongs to."""
    path = PurePosixPath(member.name)
    # Up to the first dot of the name, as WebDataset does.
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def suffix_of(member: tarfile.TarInfo) -> str:
    """Return what a file is of its sample: "jpg", "json", "left.png"."""
    return PurePosixPath(member.name).name.partition(".")[2].lower()


def _parts(
    members: Iterable[tarfile.TarInfo], ignored: Counter[str]
) -> tuple[dict[str, tarfile.TarInfo], list[str]]:
    """Return the files of a sample that are read, and the kinds of all; count the others."""
    parts: dict[str, tarfile.TarInfo] = {}
    kinds: list[str] = []
    for member in members:
        suffix = suffix_of(member)
        kind = suffix if member.isfile() else f"{suffix} (a link)"
        if len(kinds) < MAX_KINDS:
            kinds.append(kind)
        has_image = not parts.keys().isdisjoint(IMAGE_SUFFIXES)
        if kind in TEXT_SUFFIXES or (kind in IMAGE_SUFFIXES and not has_image):
            parts[kind] = member
        else:
            name = f"*.{kind}"
            ignored[name if name in ignored or len(ignored) < MAX_KINDS else "others"] += 1
    return parts, kinds


def _sample(
    table: str,
    path: str,
    key: str,
    tar: tarfile.TarFile,
    parts: Mapping[str, tarfile.TarInfo],
    kinds: Sequence[str],
    describe: Describe | None,
) -> Iterator[Record | LeftOut]:
    where = f"{path}: {key}"
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in parts), None)
    if suffix is None:
        yield LeftOut(table, where, f"no image among {shortened(', '.join(kinds))}")
        return
    limits = read_limits()
    for name in TEXT_SUFFIXES:
        if name in parts and parts[name].size > limits.record_bytes:
            expected = limits.at_most("record_bytes")
            yield LeftOut(table, where, f"{name}: {parts[name].size:,} bytes; expected {expected}")
            return
    try:
        fields = _fields(tar, parts)
    except ValueError as error:
        yield LeftOut(table, where, f"json: not valid JSON ({shortened(str(error))})")
        return
    captions = _captions(tar, parts, fields)
    if not captions:
        yield LeftOut(table, where, _no_caption(kinds, fields))
        return
    image = ImageFile(path, parts[suffix].offset_data, parts[suffix].size)
    values = {"image_id": f"{key}.{suffix}", "split": "train"}
    if describe is not None:
        table, further = describe(where, fields)
        values |= further
    yield from captioned(table, image, captions, values)


def _fields(tar: tarfile.TarFile, parts: Mapping[str, tarfile.TarInfo]) -> dict[str, Any]:
    """Return the class of a sample and the keys of its JSON; what is no object is "json"."""
    fields: dict[str, Any] = {}
    if "cls" in parts:
        text = _read(tar, parts["cls"]).decode("utf-8-sig", errors="surrogateescape").strip()
        fields["cls"] = int(text) if text.isdecimal() else text
    if "json" in parts:
        content = load_json(_read(tar, parts["json"]))
        fields |= content if isinstance(content, dict) else {"json": content}
    return fields


def _captions(
    tar: tarfile.TarFile, parts: Mapping[str, tarfile.TarInfo], fields: dict[str, Any]
) -> list[Any]:
    """Return the captions, of the text file or else of the JSON, and take them out of `fields`."""
    key = next((key for key in CAPTION_KEYS if key in fields), None)
    caption = [] if key is None else fields.pop(key)
    if "txt" in parts:
        return [_read(tar, parts["txt"]).decode("utf-8-sig", errors="surrogateescape")]
    return caption if isinstance(caption, list) else [caption]


def _no_caption(kinds: Sequence[str], fields: Mapping[str, Any]) -> str:
    if "json" in kinds:
        keys = f"has {shortened(', '.join(fields) or 'nothing')}"
        has = "is not an object" if "json" in fields else keys
        return f"no txt, and no {' or '.join(CAPTION_KEYS)} in json, which {has}"
    return f"no txt or json among {shortened(', '.join(kinds))}"


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()
