"""Google's Conceptual Captions (Sharma et al., 2018)."""

from collections.abc import Sequence
from pathlib import Path

from renaissance.data.prepare.paths import files_by_split
from renaissance.data.prepare.records import Source
from renaissance.data.prepare.web_captions import pairs_source

FILES = {"train": "train_annot.json", "val": "val_annot.json"}
TABLES = {split: f"conceptual_caption_{split}" for split in FILES}


def gcc_source(source: Path, splits: Sequence[str] | None = None) -> Source:
    """List `conceptual_caption_train_0.arrow` and so on, 100,000 images a file.

    Args:
        source: Folder with `images_train/0000/...`, `images_val/0000/...`, `train_annot.json` and
            `val_annot.json`: lists of [path, caption].
        splits: The splits to prepare; None for those whose annotations are there.

    Raises:
        DataError: If the annotations cannot be found or used.
    """
    remedy = "Write it from the list of addresses as you download the photos"
    annotations = files_by_split(source, FILES, splits, remedy)
    return pairs_source("conceptual_caption", source, annotations, TABLES)
