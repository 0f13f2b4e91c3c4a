"""Files at addresses such as s3://bucket/key, through fsspec, which is an optional extra."""

from typing import IO, Any, cast

from renaissance.errors import DataError


def is_address(path: str) -> bool:
    """Return whether a path is an address rather than a local path."""
    return "://" in path


def read_address(address: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read a file, or its bytes from `start` up to, but not including, `end`.

    Raises:
        DataError: If fsspec, or what it needs for this kind of address, is not installed.
        OSError: If it cannot be read.
    """
    filesystem, path = _resolve(address)
    return bytes(filesystem.cat_file(path, start=start, end=end))


def open_file(path: str) -> IO[bytes]:
    """Open a local file, or one at an address, for reading.

    Raises:
        DataError: If fsspec, or what it needs for this kind of address, is not installed.
        OSError: If it cannot be read.
    """
    if not is_address(path):
        return open(path, "rb")
    filesystem, path = _resolve(path)
    return cast(IO[bytes], filesystem.open(path, "rb"))


def address_state(address: str) -> str:
    """Return a string that changes when the file does.

    Raises:
        DataError: If fsspec, or what it needs for this kind of address, is not installed.
        OSError: If it cannot be reached.
    """
    filesystem, path = _resolve(address)
    return str(filesystem.ukey(path))


def list_addresses(pattern: str) -> list[str]:
    """Return the addresses that match a pattern with `*`, sorted.

    Raises:
        DataError: If fsspec, or what it needs for this kind of address, is not installed.
        OSError: If they cannot be listed.
    """
    filesystem, path = _resolve(pattern)
    return sorted(str(filesystem.unstrip_protocol(match)) for match in filesystem.glob(path))


def _resolve(address: str) -> tuple[Any, str]:
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{address}: cannot be reached ({error}); expected fsspec with what this kind of "
            "address needs. Run pip install fsspec (and s3fs for s3://, gcsfs for "
            "gs://, aiohttp for https://), or copy the files to a local folder"
        ) from error
    return filesystem, str(path)
