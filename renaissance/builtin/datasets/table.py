"""Images, texts and labels from your own tables, read where they are."""

from typing import Literal

import attrs

from renaissance import DatasetContext, option
from renaissance.arrow import TableRows, TableSplit


def _parts(instance: object, attribute: "attrs.Attribute[object]", value: dict[str, str]) -> None:
    if not value:
        raise ValueError(
            'got an empty table, expected columns by what they are for: { image = "img", text = '
            '"caption", label = "label" }'
        )
    images = sorted(key for key in value if key.startswith("image"))
    expected = ["image", *(f"image_{count}" for count in range(2, len(images) + 1))]
    if images and images != expected:
        raise ValueError(f"got {', '.join(images)}, expected {', '.join(expected)}")


class Table(TableRows):
    """One sample per row of a csv, tsv, jsonl, Parquet or Arrow file, or of a WebDataset tar.

    Hugging Face `datasets` folders (`save_to_disk`) and addresses that fsspec reads (s3://) work,
    too. Images are paths, relative to the table or to data.root, addresses, or bytes.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `table`."""

        files: str | tuple[str, ...] = option(
            help="Tables: a path, pattern ('photos/*.tar'), folder or address, or a list of them, "
            "relative to data.root."
        )
        columns: dict[str, str] = option(
            help="Names of the columns by what they are for: image, image_2, text, text_pair; any "
            "other key is a label of that name, and the values of id must differ.",
            validator=_parts,
        )
        split: TableSplit | str | None = option(
            None,
            help='Which rows to read: { column = "split", value = "train" }, for which '
            '"train" is short, or { hold_out = 0.1, by = "image" }; all if absent. '
            "`evaluate --split` sets it.",
        )
        on_empty: Literal["error", "skip"] = option(
            "error",
            help="error: refuse tables with empty texts or images; skip: leave out such rows, and "
            "say how many they are.",
        )
        cache: str | None = option(
            None,
            help="Folder for what is made from tables once, so that any row can be read at any "
            "time; by default renaissance/tables in $XDG_CACHE_HOME or ~/.cache.",
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        split = options.split
        super().__init__(
            (options, context),
            context,
            options.files,
            options.columns,
            TableSplit(column="split", value=split) if isinstance(split, str) else split,
            options.on_empty,
            options.cache,
        )
