"""The contract of sources: datasets as downloaded, for `renaissance data prepare`."""

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
        offset: Where the image starts in the file, bytes; not 0 for members of a tar.
        size: Length of the image, bytes; None to read to the end of the file.
        listed_at: Where the annotations name it, such as a file and a line, for messages.
    """

    path: str
    offset: int = 0
    size: int | None = None
    listed_at: str = attrs.field(default="", eq=False)

    def __str__(self) -> str:
        place = self.path if self.size is None else f"{self.path} at byte {self.offset}"
        return f"{place} ({self.listed_at})" if self.listed_at else place


@attrs.frozen
class Record:
    """A row to write.

    Attributes:
        table: Name of the table.
        images: Image files, by the columns that hold their bytes.
        values: The other columns, as plain lists, strings and numbers.
        num_texts: Number of texts in the row, for the report.
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
        record: What is left out: its file and position there, or its identifier.
        reason: Why, in a few words.
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
        path: The dataset as downloaded: a folder, a file, or an address.
        splits: Names of the splits to prepare; empty for all.
    """

    path: str
    splits: tuple[str, ...] = ()


class Source(Component, ABC):
    """Reads the official layout of one dataset, for `renaissance data prepare NAME`.

    The docstring of the class is the command's help: its first line names the dataset, the rest
    says what the folder must hold and which files are written.

    Attributes:
        name: Name of the dataset; its manifest is `{name}_manifest.json`.
        path: Where the rows come from, for the manifest and for messages: `context.path`, unless
            the source sets something more specific, such as the annotation file.
        schema: The pyarrow schema of all tables.
        rows_per_file: Number of rows per file, with which a table is written as `{table}_0.arrow`,
            `{table}_1.arrow` and so on; None to write one file, `{table}.arrow`.
        beside: Further JSON files to write: content by file name.

    Raises:
        DataError: If the annotations cannot be found, or a split does not exist.
    """

    name: str
    path: str
    schema: "pa.Schema"
    rows_per_file: int | None = None
    beside: Mapping[str, Any] = {}

    def __init__(self, options: object, context: SourceContext) -> None:
        self.path = context.path

    @abstractmethod
    def records(self) -> Iterable[Record | LeftOut]:
        """Yield the rows, in any order of tables, and what is left out and why.

        Records only name their images, which are read and checked later. A row whose image file is
        missing or damaged is left out then, so do not check for that here.

        Raises:
            DataError: If the annotations cannot be used.
        """
