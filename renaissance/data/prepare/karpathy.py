"""COCO, Flickr30k, Flickr8k and the like: images with captions in the splits of Karpathy."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from renaissance.data.prepare.shards import LeftOut, Record, Report, write_tables
from renaissance.errors import DataError

SPLITS = ("train", "restval", "val", "test")
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("caption", pa.list_(pa.string())),
        ("image_id", pa.string()),
        ("split", pa.string()),
    ]
)
# dataset_{key}.json to the name that existing files of the dataset bear.
SHORT_NAMES = {"flickr30k": "f30k"}
NUM_PROBES = 100


def prepare_karpathy(
    source: Path,
    output: Path,
    *,
    name: str | None = None,
    seed: int = 0,
    max_missing: float = 0.01,
    progress: bool = True,
) -> Report:
    """Write `{name}_{split}.arrow` for every split, and `{name}_manifest.json`.

    One row an image: its file's bytes untouched, its captions in order, its file name and split.

    Args:
        source: Folder that holds `karpathy/dataset_*.json` and the images, or that JSON file.
        output: Folder for the files.
        name: Prefix of the files' names; where absent, by the JSON file's name:
            `coco_caption_karpathy`, `f30k_caption_karpathy` and so on.
        seed: Of the order of rows.
        max_missing: Largest fraction of images that may be missing, broken or without captions.
        progress: Whether to show progress on standard error.

    Raises:
        DataError: If the JSON or the images cannot be found or used.
    """
    annotations = _find_annotations(source)
    dataset = annotations.stem.removeprefix("dataset_")
    name = name or f"{SHORT_NAMES.get(dataset, dataset)}_caption_karpathy"
    tables, left_out = _list_records(annotations, name)
    return write_tables(
        tables,
        schema=SCHEMA,
        output=output,
        name=name,
        source=annotations,
        left_out=left_out,
        seed=seed,
        max_missing=max_missing,
        progress=progress,
    )


def _list_records(annotations: Path, name: str) -> tuple[dict[str, list[Record]], list[LeftOut]]:
    entries = _read_entries(annotations)
    tables: dict[str, list[Record]] = {}
    left_out: list[LeftOut] = []
    for entry, path in zip(entries, _image_paths(annotations, entries), strict=True):
        table = f"{name}_{entry['split']}"
        records = tables.setdefault(table, [])
        captions = []
        for position, caption in enumerate(entry["sentences"]):
            if caption.strip():
                captions.append(caption)
            else:
                reason = f"caption {position} is empty"
                left_out.append(LeftOut(table, str(path), reason, is_row=False))
        if captions:
            values = {
                "caption": captions,
                "image_id": entry["filename"],
                "split": entry["split"],
            }
            records.append(Record({"image": path}, values, len(captions)))
        else:
            left_out.append(LeftOut(table, str(path), "no caption"))
    return tables, left_out


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


def _read_entries(annotations: Path) -> list[dict[str, Any]]:
    try:
        with annotations.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_keep_needed)
    except ValueError as error:
        raise DataError(
            f"{annotations}: not valid JSON ({error}); expected Karpathy's annotations. "
            "Unpack or download the file again"
        ) from error
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f"{annotations}: no list 'images'; expected Karpathy's annotations: "
            '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}'
        )
    for number, entry in enumerate(entries):
        _check_entry(annotations, number, entry)
    return entries


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


def _image_paths(annotations: Path, entries: Sequence[Mapping[str, Any]]) -> list[Path]:
    in_own_folder = annotations.parent.name == "karpathy"
    root = annotations.parent.parent if in_own_folder else annotations.parent
    names = [entry["filename"] for entry in entries if not entry.get("filepath")]
    folder = _image_folder(root, annotations, names) if names else root
    return [
        root / entry["filepath"] / entry["filename"]
        if entry.get("filepath")
        else folder / entry["filename"]
        for entry in entries
    ]


def _image_folder(root: Path, annotations: Path, names: Sequence[str]) -> Path:
    """Return the folder of images: the one under `root` that holds some of the named files."""
    for folder in _folders(root):
        if any((folder / name).is_file() for name in names[:NUM_PROBES]):
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
