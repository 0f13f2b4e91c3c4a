"""SBU captioned photos (Ordonez et al., 2011)."""

from collections.abc import Sequence
from pathlib import Path

from renaissance.data.prepare.paths import find_file
from renaissance.data.prepare.records import Source, choose_splits
from renaissance.data.prepare.web_captions import pairs_source


def sbu_source(source: Path, splits: Sequence[str] | None = None) -> Source:
    """List `sbu_0.arrow` and so on, 100,000 images a file.

    Args:
        source: Folder with `images_train/0000/...` and `annot.json`, a list of [path, caption].
        splits: None, or train, the only one.

    Raises:
        DataError: If the annotations cannot be found or used.
    """
    choose_splits(source, ("train",), splits)
    remedy = "Write it from the list of addresses as you download the photos"
    annotations = find_file(source, ["annot.json"], remedy)
    return pairs_source("sbu", source, {"train": annotations}, {"train": "sbu"})
