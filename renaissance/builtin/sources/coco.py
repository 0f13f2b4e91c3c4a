"""COCO captions: in Karpathy's splits, or in the official ones."""

from collections.abc import Iterator
from pathlib import Path

import attrs

from renaissance import ImageFile, LeftOut, Record, Source, SourceContext
from renaissance.builtin.formats import COCO, COCO_OFFICIAL
from renaissance.builtin.sources.karpathy import SPLITS, karpathy_records
from renaissance.prepare import (
    CAPTION_SCHEMA,
    captioned,
    choose_splits,
    files_by_split,
    find_file,
    json_elements,
)

KARPATHY_FILES = ("karpathy/dataset_coco.json", "dataset_coco.json")
OFFICIAL_FILES = {
    split: f"annotations/captions_{split}.json"
    for split in ("train2014", "val2014", "train2017", "val2017")
}
REMEDY = (
    "Unpack caption_datasets.zip of Karpathy as karpathy/, or annotations_trainval2014.zip or "
    "annotations_trainval2017.zip of COCO, beside the folders of images"
)


class Coco(Source):
    """COCO captions (Lin et al., 2014).

    The folder holds the images of 2014 and Karpathy's file, from his caption_datasets.zip:

        train2014/  val2014/
        karpathy/dataset_coco.json

    Writes `coco_caption_karpathy_{train,restval,val,test}.arrow`.

    Without Karpathy's file, or if you name official splits (`--splits train2017,val2017`), the
    official captions are read:

        train2017/  val2017/
        annotations/captions_train2017.json  annotations/captions_val2017.json

    Writes `coco_caption_{split}.arrow` for each of train2014, val2014, train2017 and val2017 whose
    captions are there. Read them with the dataset `image-text`.
    """

    schema = CAPTION_SCHEMA

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._karpathy: Path | None = None
        if _uses_karpathy(context):
            self._splits = choose_splits(context, SPLITS)
            self._karpathy = find_file(context.path, KARPATHY_FILES, REMEDY)
            self.name, self.path = COCO.name, str(self._karpathy)
        else:
            self._annotations = files_by_split(context, OFFICIAL_FILES, REMEDY)
            self.name = COCO_OFFICIAL.name

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image."""
        if self._karpathy is not None:
            yield from karpathy_records(self._karpathy, self.name, self._splits)
            return
        for split, annotations in self._annotations.items():
            yield from _records(Path(self.path), split, annotations)


def _uses_karpathy(context: SourceContext) -> bool:
    folder = Path(context.path)
    has_file = folder.is_file() or any((folder / name).is_file() for name in KARPATHY_FILES)
    return set(context.splits or (SPLITS if has_file else OFFICIAL_FILES)) <= set(SPLITS)


def _records(folder: Path, split: str, annotations: Path) -> Iterator[Record | LeftOut]:
    table = COCO_OFFICIAL.table(split)
    # The captions of one image are scattered over the file, so all are collected first.
    captions: dict[int, list[str]] = {}
    for annotation in json_elements(annotations, "annotations"):
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in json_elements(annotations, "images"):
        values = {"image_id": image["file_name"], "split": split}
        path = folder / split / image["file_name"]
        texts = captions.pop(image["id"], [])
        yield from captioned(table, ImageFile(str(path)), texts, values)
    for image_id, texts in captions.items():
        reason = f"{len(texts)} captions of an image that is not listed"
        yield LeftOut(table, f"{annotations}: image {image_id}", reason)
