"""NLVR2 (Suhr et al., 2019): is a sentence true of a pair of images?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from renaissance.data.prepare.json_lines import json_lines
from renaissance.data.prepare.paths import files_by_split, first_existing
from renaissance.data.prepare.records import ImageFile, LeftOut, Record, Source, text_fault

FILES = {
    "train": "nlvr2/data/train.json",
    "dev": "nlvr2/data/dev.json",
    "test1": "nlvr2/data/test1.json",
} | {
    f"{part}_{split}": f"nlvr2/data/{part}/{part}_{split}.json"
    for part in ("balanced", "unbalanced")
    for split in ("dev", "test1")
}
ANSWERS = ("True", "False")
SCHEMA = pa.schema(
    [
        ("image_0", pa.binary()),
        ("image_1", pa.binary()),
        ("questions", pa.list_(pa.string())),
        ("answers", pa.list_(pa.string())),
        ("identifier", pa.string()),
        # Official identifier of each sentence: its number is not its position.
        ("identifiers", pa.list_(pa.string())),
    ]
)


def nlvr2_source(source: Path, splits: Sequence[str] | None = None) -> Source:
    """List `nlvr2_{split}.arrow`: one row a pair of images with all its sentences.

    Args:
        source: Folder with `images/train/<directory>/`, `dev/`, `test1/` (or these two in
            `images/`) and `nlvr2/data/*.json`.
        splits: The splits to prepare; None for those whose annotations are there.

    Raises:
        DataError: If the annotations cannot be found or used.
    """
    remedy = "Clone github.com/lil-lab/nlvr there, and unpack the images beside it"
    annotations = files_by_split(source, FILES, splits, remedy)

    def records() -> Iterator[Record | LeftOut]:
        for split, path in annotations.items():
            yield from _records(f"nlvr2_{split}", source, split, path)

    return Source(name="nlvr2", path=str(source), schema=SCHEMA, records=records)


def _records(table: str, source: Path, split: str, path: Path) -> Iterator[Record | LeftOut]:
    pairs: dict[str, tuple[Path, list[str], list[str], list[str]]] = {}
    for place, entry in json_lines(path):
        fault = _fault(entry)
        if fault is not None:
            yield LeftOut(table, place, fault, is_row=False)
            continue
        # dev-850-0-1 is sentence 1 about pair dev-850-0.
        pair_id = entry["identifier"].rpartition("-")[0]
        if pair_id not in pairs:
            pairs[pair_id] = (_folder(source, split, entry), [], [], [])
        pairs[pair_id][1].append(entry["sentence"])
        pairs[pair_id][2].append(str(entry["label"]))
        pairs[pair_id][3].append(entry["identifier"])
    for pair_id, (folder, sentences, answers, identifiers) in pairs.items():
        images = {f"image_{i}": ImageFile(str(folder / f"{pair_id}-img{i}.png")) for i in range(2)}
        values = {
            "questions": sentences,
            "answers": answers,
            "identifier": pair_id,
            "identifiers": identifiers,
        }
        yield Record(table, images, values, len(sentences))


def _folder(source: Path, split: str, entry: dict[str, Any]) -> Path:
    if split == "train":
        return source / "images" / "train" / str(entry["directory"])
    name = split.rpartition("_")[2]
    return first_existing([source / name, source / "images" / name])


def _fault(entry: dict[str, Any]) -> str | None:
    identifier = entry.get("identifier")
    if not isinstance(identifier, str) or identifier.count("-") < 3:
        return f"identifier {identifier!r} is not of the form dev-850-0-1"
    if str(entry.get("label")) not in ANSWERS:
        return f"label {entry.get('label')!r} is none of {', '.join(ANSWERS)}"
    fault = text_fault(entry.get("sentence"))
    return fault and f"sentence {fault}"
