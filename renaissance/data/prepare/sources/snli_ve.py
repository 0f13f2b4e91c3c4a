"""SNLI-VE (Xie et al., 2019): does an image entail, contradict, or neither, a sentence?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from renaissance.data.prepare.json_lines import json_lines
from renaissance.data.prepare.paths import files_by_split, first_existing
from renaissance.data.prepare.records import ImageFile, LeftOut, Record, Source, text_fault

LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
FILES = {split: f"snli_ve_{split}.jsonl" for split in ("train", "dev", "test")}
FOLDERS = ("Flickr30K/images", "flickr30k-images")
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        # Premise (a caption of the image) and hypothesis.
        ("sentences", pa.list_(pa.list_(pa.string()))),
        ("labels", pa.list_(pa.int64())),
    ]
)


def snli_ve_source(source: Path, splits: Sequence[str] | None = None) -> Source:
    """List `snli_{split}.arrow`: one row an image with all its sentences.

    Args:
        source: Folder with `Flickr30K/images/` and `snli_ve_{train,dev,test}.jsonl`.
        splits: The splits to prepare; None for those whose annotations are there.

    Raises:
        DataError: If the annotations cannot be found or used.
    """
    remedy = "Generate it with the scripts of SNLI-VE, beside Flickr30K/"
    annotations = files_by_split(source, FILES, splits, remedy)
    folder = first_existing(source / name for name in FOLDERS)

    def records() -> Iterator[Record | LeftOut]:
        for split, path in annotations.items():
            yield from _records(f"snli_{split}", folder, path)

    return Source(name="snli", path=str(source), schema=SCHEMA, records=records)


def _records(table: str, folder: Path, annotations: Path) -> Iterator[Record | LeftOut]:
    by_image: dict[str, list[tuple[list[str], int]]] = {}
    for place, entry in json_lines(annotations):
        fault = _fault(entry)
        sentences = by_image.setdefault(entry["Flickr30K_ID"], [])
        if fault is None:
            pair = [entry.get("sentence1") or "", entry["sentence2"]]
            sentences.append((pair, LABELS[entry["gold_label"]]))
        else:
            yield LeftOut(table, place, fault, is_row=False)
    for image_id, sentences in by_image.items():
        image = ImageFile(str(folder / f"{image_id.removesuffix('.jpg')}.jpg"))
        if not sentences:
            yield LeftOut(table, str(image), "no sentence")
            continue
        values = {
            "sentences": [pair for pair, _ in sentences],
            "labels": [label for _, label in sentences],
        }
        yield Record(table, {"image": image}, values, len(sentences))


def _fault(entry: dict[str, Any]) -> str | None:
    if entry.get("gold_label") not in LABELS:
        return f"gold_label {entry.get('gold_label')!r} is none of {', '.join(LABELS)}"
    fault = text_fault(entry.get("sentence2"))
    return fault and f"sentence2 {fault}"
