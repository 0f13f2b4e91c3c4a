"""A folder that an export writes: there whole, or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from renaissance.errors import SpecError
from renaissance.files import PARTIAL, remove


def check_new(output: Path) -> None:
    """Check that a folder can be made, before work that takes a while.

    Raises:
        SpecError: If something is there, or the folder that it would be in is not.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise SpecError(
            f"--output: {output} is not empty; expected a folder that is new or empty. Delete it, "
            "or choose another"
        )
    if not output.parent.is_dir():
        raise SpecError(f"--output: there is no folder {output.parent}; make it first")


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes `output` once it is whole.

    Raises:
        SpecError: If something is there already, or it cannot be written.
    """
    output = output.absolute()
    check_new(output)
    partial = output.with_name(f".{output.name}{PARTIAL}")
    try:
        remove(partial)
        partial.mkdir()
        yield partial
        if output.is_dir():
            output.rmdir()
        partial.rename(output)
    except OSError as error:
        raise SpecError(
            f"--output: cannot write {output}: {error}; free space, or choose another folder"
        ) from error
    finally:
        remove(partial)
