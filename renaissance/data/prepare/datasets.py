"""The datasets that can be prepared, by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from renaissance.data.prepare.karpathy import karpathy_source
from renaissance.data.prepare.records import Source

ListSource = Callable[[Path, Sequence[str] | None], Source]

SOURCES: Mapping[str, ListSource] = {
    "karpathy": karpathy_source,
}
