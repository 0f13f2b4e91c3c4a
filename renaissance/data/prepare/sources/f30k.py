"""Flickr30k captions (Young et al., 2014) in Karpathy's splits."""

from collections.abc import Sequence
from pathlib import Path

from renaissance.data.prepare.paths import find_file
from renaissance.data.prepare.records import Source
from renaissance.data.prepare.sources.karpathy import karpathy_source


def f30k_source(source: Path, splits: Sequence[str] | None = None) -> Source:
    """List Flickr30k.

    Args:
        source: Folder with `flickr30k-images/` and `karpathy/dataset_flickr30k.json`.
        splits: The splits to prepare; None for all.

    Raises:
        DataError: If the annotations or the images cannot be found or used.
    """
    annotations = find_file(
        source,
        ["karpathy/dataset_flickr30k.json", "dataset_flickr30k.json"],
        "Unpack caption_datasets.zip of Karpathy there",
    )
    return karpathy_source(annotations, splits)
