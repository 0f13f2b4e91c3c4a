"""RefCOCO, RefCOCO+ (Yu et al., 2016) and RefCOCOg (Mao et al., 2016): which object is meant?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa

from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.paths import find_file, first_existing
from renaissance.data.prepare.plain_pickle import load_plain_pickle
from renaissance.data.prepare.records import (
    ImageFile,
    LeftOut,
    Record,
    Source,
    choose_splits,
    texts_to_keep,
)

# Who divided the dataset.
DIVISIONS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
SPLITS = ("train", "val", "test")
# Parts of test: images with several people, images with several other objects.
PARTS = ("testA", "testB")
FOLDERS = ("train2014", "images/train2014", "images/mscoco/images/train2014")
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("sentences", pa.list_(pa.string())),
        # x, y, width, height, pixels, of every annotated object of the image.
        ("bboxes", pa.list_(pa.list_(pa.float64()))),
        # Which of them is meant.
        ("labels", pa.int64()),
    ]
)


@attrs.frozen
class _Image:
    """An image of `instances.json`, and its annotated objects."""

    file_name: str
    annotation_ids: list[int] = attrs.field(factory=list)
    boxes: list[list[float]] = attrs.field(factory=list)


def refcoco_source(dataset: str, source: Path, splits: Sequence[str] | None = None) -> Source:
    """List `{dataset}_{division}_{split}.arrow`: one row an object that is referred to.

    RefCOCO and RefCOCO+ have two test sets, testA and testB; `test` holds both.

    Args:
        dataset: refcoco, refcoco+ or refcocog.
        source: Folder with `refs(unc).p` (`refs(umd).p` of refcocog), `instances.json` and
            `train2014/`; the first two may lie in a folder named like the dataset.
        splits: The splits to prepare; None for all.

    Raises:
        DataError: If the annotations cannot be found or used, or the pickle asks for more than
            plain containers, strings and numbers.
    """
    division = DIVISIONS[dataset]
    known = SPLITS if dataset == "refcocog" else (*SPLITS, *PARTS)
    chosen = choose_splits(source, known, splits)
    remedy = f"Unpack {dataset}.zip of the refer toolbox there"
    refs, instances = (
        find_file(source, [name, f"{dataset}/{name}"], remedy)
        for name in (f"refs({division}).p", "instances.json")
    )
    folder = first_existing(source / name for name in FOLDERS)

    def records() -> Iterator[Record | LeftOut]:
        images = _read_images(instances)
        for number, ref in enumerate(load_plain_pickle(refs)):
            split = str(ref["split"])
            tables = (split, "test") if split in PARTS else (split,)
            for table in tables:
                if table in chosen:
                    place = f"{refs}: [{number}]"
                    yield from _row(f"{dataset}_{division}_{table}", place, folder, images, ref)

    return Source(name=f"{dataset}_{division}", path=str(refs), schema=SCHEMA, records=records)


def _read_images(instances: Path) -> dict[int, _Image]:
    images = {i["id"]: _Image(i["file_name"]) for i in json_elements(instances, "images")}
    for annotation in json_elements(instances, "annotations"):
        image = images.get(annotation["image_id"])
        if image is not None:
            image.annotation_ids.append(annotation["id"])
            image.boxes.append([float(number) for number in annotation["bbox"]])
    return images


def _row(
    table: str, place: str, folder: Path, images: dict[int, _Image], ref: dict[str, Any]
) -> Iterator[Record | LeftOut]:
    image = images.get(ref["image_id"])
    if image is None:
        yield LeftOut(table, place, f"image {ref['image_id']} is not in instances.json")
        return
    if ref["ann_id"] not in image.annotation_ids:
        yield LeftOut(table, place, f"object {ref['ann_id']} is not in instances.json")
        return
    sentences = [sentence["sent"] for sentence in ref["sentences"]]
    kept = []
    for position, fault in texts_to_keep(table, place, sentences, "sentence"):
        if fault is None:
            kept.append(sentences[position])
        else:
            yield fault
    if not kept:
        yield LeftOut(table, place, "no sentence")
        return
    values = {
        "sentences": kept,
        "bboxes": image.boxes,
        "labels": image.annotation_ids.index(ref["ann_id"]),
    }
    path = folder / image.file_name
    yield Record(table, {"image": ImageFile(str(path))}, values, len(kept))
