"""Images with captions in the splits of Karpathy and Fei-Fei (2015)."""

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from renaissance import (
    DataError,
    ImageFile,
    LeftOut,
    Record,
    Source,
    SourceContext,
    option,
    quoted,
)
from renaissance.builtin.formats import karpathy_format
from renaissance.prepare import CAPTION_SCHEMA, captioned, choose_splits, json_elements

SPLITS = ("train", "restval", "val", "test")
# From the key in dataset_{key}.json to the usual name in the names of files.
SHORT_NAMES = {"flickr30k": "f30k"}
# Images to look for when searching for their folder.
NUM_PROBES = 100


class Karpathy(Source):
    """Flickr8k and other datasets in the splits of Karpathy and Fei-Fei (2015).

    The folder holds Karpathy's file, from his caption_datasets.zip, and the images, which may be
    in any folder beside it:

        karpathy/dataset_flickr8k.json
        flickr8k-images/

    Writes `{name}_{split}.arrow` for each of the splits train, restval, val and test that the file
    has. Read them with the dataset `image-text`.
    """

    schema = CAPTION_SCHEMA

    @attrs.frozen
    class Options:
        """Options of `karpathy`."""

        name: str | None = option(
            None,
            help="Prefix of the names of the files; by default derived from the JSON file, such as "
            "flickr8k_caption_karpathy for dataset_flickr8k.json.",
        )

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._splits = choose_splits(context, SPLITS)
        self._annotations = _find_annotations(Path(context.path))
        self.path = str(self._annotations)
        dataset = self._annotations.stem.removeprefix("dataset_")
        self.name = options.name or karpathy_format(SHORT_NAMES.get(dataset, dataset)).name

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image."""
        return karpathy_records(self._annotations, self.name, self._splits)


def karpathy_records(
    annotations: Path, name: str, splits: Collection[str]
) -> Iterator[Record | LeftOut]:
    """Yield one row per image: its file, its captions in order, its file name and split.

    Args:
        annotations: Karpathy's file, in the folder `karpathy` or beside the folders of images.
        name: Prefix of the names of the tables.
        splits: The splits to list.

    Raises:
        DataError: If the file has another form, or no folder holds the images.
    """
    for entry, path in _entries_with_paths(annotations):
        split = entry["split"]
        if split in splits:
            values = {"image_id": entry["filename"], "split": split}
            yield from captioned(
                f"{name}_{split}", ImageFile(str(path)), entry["sentences"], values
            )


def _find_annotations(source: Path) -> Path:
    if source.is_file():
        return source
    files = [
        *sorted(source.glob("karpathy/dataset_*.json")),
        *sorted(source.glob("dataset_*.json")),
    ]
    if len(files) == 1:
        return files[0]
    names = ", ".join(str(path.relative_to(source)) for path in files)
    raise DataError(
        f"{source}: {f'several annotation files: {names}' if files else 'no annotation file'}; "
        "expected one karpathy/dataset_*.json beside the folders of images. "
        f"{'Name one of them as the source' if files else 'Unpack caption_datasets.zip there'}"
    )


def _entries(annotations: Path) -> Iterator[dict[str, Any]]:
    index = -1
    for index, entry in enumerate(json_elements(annotations, "images", _keep_needed)):
        _check_entry(annotations, index, entry)
        yield entry
    if index < 0:
        raise DataError(
            f"{annotations}: no list 'images'; expected Karpathy's annotations: "
            '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}'
        )


def _keep_needed(node: dict[str, object]) -> object:
    # Called for each object as it is parsed, so that tokens, most of the file, are never kept.
    if "raw" in node:
        return node["raw"]
    return {key: value for key, value in node.items() if key not in ("tokens", "sentids")}


def _check_entry(annotations: Path, index: int, entry: object) -> None:
    def fault(actual: str, expected: str) -> DataError:
        return DataError(
            f"{annotations}: images[{index}]: {actual}; expected {expected}. "
            "Correct the entry, or download the file again"
        )

    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        raise fault("no 'filename'", "an object with the name of an image file")
    if entry.get("split") not in SPLITS:
        raise fault(f"split {quoted(entry.get('split'))}", f"one of {', '.join(SPLITS)}")
    sentences = entry.get("sentences")
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise fault(
            "'sentences' is not a list of objects with 'raw'", "one such object per caption"
        )


def _entries_with_paths(annotations: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    is_in_folder = annotations.parent.name == "karpathy"
    root = annotations.parent.parent if is_in_folder else annotations.parent
    entries = _entries(annotations)
    first = list(itertools.islice(entries, NUM_PROBES))
    names = [entry["filename"] for entry in first if not entry.get("filepath")]
    folder = _image_folder(root, annotations, names) if names else root
    for entry in itertools.chain(first, entries):
        parent = root / entry["filepath"] if entry.get("filepath") else folder
        yield entry, parent / entry["filename"]


def _image_folder(root: Path, annotations: Path, names: Sequence[str]) -> Path:
    """Return the first folder that holds one of the named images."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    for folder in folders:
        if any((folder / name).is_file() for name in names):
            return folder
    expected = re.sub(r"dataset_(.*)", r"\1-images", annotations.stem)
    raise DataError(
        f"{root}: no folder holds images such as {names[0]}; looked into "
        f"{', '.join(map(str, folders))}; expected them in {root / expected}. "
        "Unpack the images there"
    )
