"""Faults of a run spec, collected so that all of them are reported at once."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from renaissance.errors import shortened

KeyPath: TypeAlias = tuple[str | int, ...]


class Fault(NamedTuple):
    """One fault: its key path, and what is wrong."""

    path: KeyPath
    text: str


class FaultsError(Exception):
    """Raised with every fault of one table; the paths start from that table."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{show_path(f.path)}: {f.text}" for f in self.faults))


class Faults:
    """Collects the faults of one table."""

    def __init__(self) -> None:
        self.entries: list[Fault] = []

    def add(self, text: str, *path: str | int) -> None:
        """Add a fault."""
        self.entries.append(Fault(path, text))

    @contextmanager
    def collect(self, *path: str | int) -> Iterator[None]:
        """Record what is raised inside as faults at a path, and continue.

        Validators raise ValueError and TypeError; their text is for the user.
        """
        try:
            yield
        except FaultsError as error:
            self.entries += [Fault((*path, *fault.path), fault.text) for fault in error.faults]
        except (ValueError, TypeError) as error:
            # attrs' own validators raise with further arguments after the text.
            self.add(str(error.args[0]) if error.args else type(error).__name__, *path)

    def raise_any(self) -> None:
        """Raise the faults, if there are any."""
        if self.entries:
            raise FaultsError(self.entries)


def show_path(path: KeyPath) -> str:
    """Return a key path as text: `objectives[1].type`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            # Keys such as "a.b" are quoted in TOML.
            shown = shortened(key if re.fullmatch(r"[\w-]+", key) else f'"{key}"')
            text += f".{shown}" if text else shown
    return text
