"""COCO, Flickr30k, Flickr8k and the like: images with captions in the splits of Karpathy."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.records import (
    CAPTION_SCHEMA,
    ImageFile,
    LeftOut,
    Record,
    Source,
    captioned,
    choose_splits,
)
from renaissance.errors import DataError

SPLITS = ("train", "restval", "val", "test")
# dataset_{key}.json to the name that existing files of the dataset bear.
SHORT_NAMES = {"flickr30k": "f30k"}
NUM_PROBES = 100


def karpathy_source(
    source: Path, splits: Sequence[str] | None = None, name: str | None = None
) -> Source:
    """List `{name}_{split}.arrow` for every split.

    One row an image: its file's bytes, its captions in order, its file name and split.

    Args:
        source: Folder that holds `karpathy/dataset_*.json` and the images, or that JSON file.
        splits: The splits to prepare; None for all.
        name: Prefix of the files' names; where absent, by the JSON file's name:
            `coco_caption_karpathy`, `f30k_caption_karpathy` and so on.

    Raises:
        DataError: If the JSON or the images cannot be found or used.
    """
    annotations = _find_annotations(source)
    chosen = choose_splits(annotations, SPLITS, splits)
    dataset = annotations.stem.removeprefix("dataset_")
    name = name or f"{SHORT_NAMES.get(dataset, dataset)}_caption_karpathy"

    def records() -> Iterator[Record | LeftOut]:
        for entry, path in _entries_with_paths(annotations):
            if entry["split"] in chosen:
                values = {"image_id": entry["filename"], "split": entry["split"]}
                table = f"{name}_{entry['split']}"
                yield from captioned(table, ImageFile(str(path)), entry["sentences"], values)

    return Source(name=name, path=str(annotations), schema=CAPTION_SCHEMA, records=records)


def _find_annotations(source: Path) -> Path:
    if source.is_file():
        return source
    found = [
        *sorted(source.glob("karpathy/dataset_*.json")),
        *sorted(source.glob("dataset_*.json")),
    ]
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path.relative_to(source)) for path in found)
    raise DataError(
        f"{source}: {f'several annotation files: {names}' if found else 'no annotation file'}; "
        "expected one karpathy/dataset_*.json beside the folders of images. "
        f"{'Name one of them as the source' if found else 'Unpack caption_datasets.zip there'}"
    )


def _entries(annotations: Path) -> Iterator[dict[str, Any]]:
    number = -1
    for number, entry in enumerate(json_elements(annotations, "images", _keep_needed)):
        _check_entry(annotations, number, entry)
        yield entry
    if number < 0:
        raise DataError(
            f"{annotations}: no list 'images'; expected Karpathy's annotations: "
            '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}'
        )


def _keep_needed(node: dict[str, Any]) -> Any:
    # Called for every object as it is parsed: the tokens, most of the file, are let go at once.
    if "raw" in node:
        return node["raw"]
    return {key: value for key, value in node.items() if key not in ("tokens", "sentids")}


def _check_entry(annotations: Path, number: int, entry: Any) -> None:
    def fault(found: str, expected: str) -> DataError:
        return DataError(
            f"{annotations}: images[{number}]: {found}; expected {expected}. "
            "Correct the entry, or download the file again"
        )

    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        raise fault("no 'filename'", "an object with the name of an image file")
    if entry.get("split") not in SPLITS:
        raise fault(f"split {entry.get('split')!r}", f"one of {', '.join(SPLITS)}")
    sentences = entry.get("sentences")
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise fault("'sentences' is no list of objects with 'raw'", "one such object a caption")


def _entries_with_paths(annotations: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    in_own_folder = annotations.parent.name == "karpathy"
    root = annotations.parent.parent if in_own_folder else annotations.parent
    entries = _entries(annotations)
    first = list(itertools.islice(entries, NUM_PROBES))
    names = [entry["filename"] for entry in first if not entry.get("filepath")]
    folder = _image_folder(root, annotations, names) if names else root
    for entry in itertools.chain(first, entries):
        yield (
            entry,
            (root / entry["filepath"] if entry.get("filepath") else folder) / entry["filename"],
        )


def _image_folder(root: Path, annotations: Path, names: Sequence[str]) -> Path:
    """Return the folder of images: the one under `root` that holds some of the named files."""
    for folder in _folders(root):
        if any((folder / name).is_file() for name in names):
            return folder
    expected = re.sub(r"dataset_(.*)", r"\1-images", annotations.stem)
    raise DataError(
        f"{root}: no folder holds images such as {names[0]}; looked into "
        f"{', '.join(str(folder) for folder in _folders(root))}; expected them in "
        f"{root / expected}. Unpack the images there"
    )


def _folders(root: Path) -> Iterator[Path]:
    yield root
    yield from sorted(path for path in root.iterdir() if path.is_dir())
