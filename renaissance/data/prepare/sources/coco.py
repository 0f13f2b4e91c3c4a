"""COCO captions (Lin et al., 2014): in Karpathy's splits, or in the official ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.paths import files_by_split
from renaissance.data.prepare.records import (
    CAPTION_SCHEMA,
    ImageFile,
    LeftOut,
    Record,
    Source,
    captioned,
)
from renaissance.data.prepare.sources.karpathy import SPLITS, karpathy_source

OFFICIAL_FILES = {
    split: f"annotations/captions_{split}.json"
    for split in ("train2014", "val2014", "train2017", "val2017")
}
REMEDY = (
    "Unpack caption_datasets.zip of Karpathy as karpathy/, or annotations_trainval2014.zip or "
    "annotations_trainval2017.zip of COCO, beside the folders of images"
)


def coco_source(source: Path, splits: Sequence[str] | None = None) -> Source:
    """List COCO: Karpathy's splits where his file is there, the official ones otherwise.

    Args:
        source: Folder with `train2014/`, `val2014/` and `karpathy/dataset_coco.json`; or with
            `train2017/` and so on and `annotations/captions_train2017.json`.
        splits: The splits to prepare, of one kind; None for all.

    Raises:
        DataError: If the annotations or the images cannot be found or used.
    """
    has_karpathy = source.is_file() or (source / "karpathy" / "dataset_coco.json").is_file()
    if set(splits or (SPLITS if has_karpathy else OFFICIAL_FILES)) <= set(SPLITS):
        return karpathy_source(source, splits)
    annotations = files_by_split(source, OFFICIAL_FILES, splits, REMEDY)

    def records() -> Iterator[Record | LeftOut]:
        for split, path in annotations.items():
            yield from _records(source, split, path)

    return Source(name="coco_caption", path=str(source), schema=CAPTION_SCHEMA, records=records)


def _records(source: Path, split: str, annotations: Path) -> Iterator[Record | LeftOut]:
    table = f"coco_caption_{split}"
    # Captions of an image lie apart, in the order in which they were collected.
    captions: dict[int, list[str]] = {}
    for annotation in json_elements(annotations, "annotations"):
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in json_elements(annotations, "images"):
        values = {"image_id": image["file_name"], "split": split}
        path = source / split / image["file_name"]
        texts = captions.pop(image["id"], [])
        yield from captioned(table, ImageFile(str(path)), texts, values)
    for image_id, texts in captions.items():
        reason = f"{len(texts)} captions of an image that is not listed"
        yield LeftOut(table, f"{annotations}: image {image_id}", reason)
