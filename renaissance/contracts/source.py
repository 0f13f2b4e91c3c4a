"""The contract of sources: data sets as downloaded, for `renaissance data prepare`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from renaissance.contracts.component import Component

if TYPE_CHECKING:
    import pyarrow as pa


@attrs.frozen
class ImageFile:
    """Where the bytes of an image are: a file, part of a file, or an address.

    Attributes:
        path: Path, or an address such as `s3://bucket/key`, which needs fsspec.
        offset: Where the image starts in the file, for members of a tar, bytes.
        size: Bytes from there; None up to the end.
    """

    path: str
    offset: int = 0
    size: int | None = None

    def __str__(self) -> str:
        return self.path if self.size is None else f"{self.path} at byte {self.offset}"


@attrs.frozen
class Record:
    """A row to be written.

    Attributes:
        table: Name of the table.
        images: Image files, by the column that takes their bytes.
        values: The other columns.
        num_texts: How many texts the row holds, for the report.
    """

    table: str
    images: Mapping[str, ImageFile]
    values: Mapping[str, Any]
    num_texts: int


@attrs.frozen
class LeftOut:
    """Something that is not written.

    Attributes:
        table: Name of the table.
        record: What of the source it is.
        reason: Why.
        is_row: True for a whole row, False for one of its texts.
    """

    table: str
    record: str
    reason: str
    is_row: bool = True


@attrs.frozen
class SourceContext:
    """What a source is asked to read.

    Attributes:
        path: The data set as downloaded: a folder, a file, or an address.
        splits: Names of the splits to prepare; empty for all.
    """

    path: str
    splits: tuple[str, ...] = ()


class Source(Component, ABC):
    """Reads the official layout of one data set, for `renaissance data prepare NAME`.

    The docstring of the class is its layout: what must be in the folder.

    Attributes:
        name: Of the data set; its manifest is `{name}_manifest.json`.
        schema: The pyarrow schema of all tables.
        rows_per_file: A table is cut into `{table}_0.arrow`, `{table}_1.arrow` and so on of this
            many rows; None writes it as `{table}.arrow`.
        beside: Further JSON files to write, by name.
    """

    name: str
    schema: "pa.Schema"
    rows_per_file: int | None = None
    beside: Mapping[str, Any] = {}

    def __init__(self, options: Any, context: SourceContext) -> None: ...

    @abstractmethod
    def records(self) -> Iterable[Record | LeftOut]:
        """List the rows, table by table or mixed, and what is left out and why.

        Raises:
            DataError: If the annotations cannot be found or used.
        """
