"""Helpers for sources, the components of `renaissance data prepare`.

As stable as the names in `renaissance`. They read annotations piece by piece, so memory does not
grow with the dataset, and report what cannot be used instead of skipping it silently.
"""

from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.json_lines import bounded_lines, json_lines
from renaissance.data.prepare.parquet import parquet_rows
from renaissance.data.prepare.paths import find_file, first_existing
from renaissance.data.prepare.plain_pickle import load_plain_pickle
from renaissance.data.prepare.remote import is_address, list_addresses, open_file
from renaissance.data.prepare.rows import CAPTION_SCHEMA, captioned, text_fault, texts_to_keep
from renaissance.data.prepare.splits import choose_splits, files_by_split, held_out
from renaissance.data.prepare.webdataset import tar_records
from renaissance.data.tables.division import is_held_out
from renaissance.limits import load_json, read_limits

__all__ = [
    "CAPTION_SCHEMA",
    "bounded_lines",
    "captioned",
    "choose_splits",
    "files_by_split",
    "find_file",
    "first_existing",
    "held_out",
    "is_address",
    "is_held_out",
    "json_elements",
    "json_lines",
    "list_addresses",
    "load_json",
    "load_plain_pickle",
    "open_file",
    "parquet_rows",
    "read_limits",
    "tar_records",
    "text_fault",
    "texts_to_keep",
]
