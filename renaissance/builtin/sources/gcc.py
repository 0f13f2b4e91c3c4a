"""Google's Conceptual Captions."""

from collections.abc import Iterator
from pathlib import Path

import attrs

from renaissance import LeftOut, Record, Source, SourceContext
from renaissance.builtin.formats import GCC as FORMAT
from renaissance.builtin.sources.web_captions import REMEDY, ROWS_PER_FILE, pair_records
from renaissance.prepare import files_by_split

FILES = {"train": "train_annot.json", "val": "val_annot.json"}


class GCC(Source):
    """Conceptual Captions 3M (Sharma et al., 2018).

    The folder holds the photos that you downloaded, and lists of [path, caption]:

        images_train/0000/...  train_annot.json
        images_val/0000/...    val_annot.json

    Only the last folder and the file name of a path are used, so paths from another machine work.
    Writes `conceptual_caption_train_0.arrow` and so on, and `conceptual_caption_val_0.arrow`,
    100,000 images each.
    """

    name = FORMAT.name
    schema = FORMAT.schema
    rows_per_file = ROWS_PER_FILE

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._annotations = files_by_split(context, FILES, REMEDY)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per photo."""
        for split, annotations in self._annotations.items():
            yield from pair_records(FORMAT.table(split), Path(self.path), split, annotations)
