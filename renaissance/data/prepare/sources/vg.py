"""Visual Genome (Krishna et al., 2017): whole images with their region phrases."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.paths import find_file, first_existing
from renaissance.data.prepare.records import (
    ImageFile,
    LeftOut,
    Record,
    Source,
    choose_splits,
    texts_to_keep,
)

TABLE = "vg"
FOLDERS = ("images/VG_100K", "images/VG_100K_2", "VG_100K", "VG_100K_2")
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("caption", pa.list_(pa.string())),
        # Of each phrase's region, pixels.
        ("width", pa.list_(pa.int64())),
        ("height", pa.list_(pa.int64())),
        ("x", pa.list_(pa.int64())),
        ("y", pa.list_(pa.int64())),
        ("image_id", pa.string()),
    ]
)


def vg_source(source: Path, splits: Sequence[str] | None = None) -> Source:
    """List `vg.arrow`: one row an image, its region phrases as captions, and their regions.

    Args:
        source: Folder with `images/VG_100K/`, `images/VG_100K_2/` and
            `annotations/region_descriptions.json`.
        splits: None, or train, the only one.

    Raises:
        DataError: If the annotations cannot be found or used.
    """
    choose_splits(source, ("train",), splits)
    annotations = find_file(
        source,
        ["annotations/region_descriptions.json", "region_descriptions.json"],
        "Unpack region_descriptions.json.zip in annotations, images.zip and images2.zip in images",
    )

    def records() -> Iterator[Record | LeftOut]:
        for entry in json_elements(annotations):
            name = f"{entry['id']}.jpg"
            path = first_existing(source / folder / name for folder in FOLDERS)
            yield from _row(str(entry["id"]), ImageFile(str(path)), entry["regions"])

    return Source(name=TABLE, path=str(annotations), schema=SCHEMA, records=records)


def _row(
    image_id: str, image: ImageFile, regions: Sequence[dict[str, Any]]
) -> Iterator[Record | LeftOut]:
    phrases = [region["phrase"] for region in regions]
    kept = []
    for position, fault in texts_to_keep(TABLE, str(image), phrases, "phrase"):
        if fault is None:
            kept.append(regions[position])
        else:
            yield fault
    if not kept:
        yield LeftOut(TABLE, str(image), "no region phrase")
        return
    values: dict[str, Any] = {"caption": [region["phrase"] for region in kept]}
    for column in ("width", "height", "x", "y"):
        values[column] = [int(region[column]) for region in kept]
    yield Record(TABLE, {"image": image}, {**values, "image_id": image_id}, len(kept))
