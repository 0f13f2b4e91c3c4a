"""SBU captions."""

from collections.abc import Iterator
from pathlib import Path

import attrs

from renaissance import LeftOut, Record, Source, SourceContext
from renaissance.builtin.formats import SBU as FORMAT
from renaissance.builtin.sources.web_captions import REMEDY, ROWS_PER_FILE, pair_records
from renaissance.prepare import choose_splits, find_file


class SBU(Source):
    """SBU captioned photos (Ordonez et al., 2011).

    The folder holds the photos that you downloaded, and a list of [path, caption]:

        images_train/0000/...
        annot.json

    Only the last folder and the file name of a path are used, so paths from another machine work.
    Writes `sbu_0.arrow` and so on, 100,000 images each.
    """

    name = FORMAT.name
    schema = FORMAT.schema
    rows_per_file = ROWS_PER_FILE

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        choose_splits(context, ("train",))
        self._annotations = find_file(context.path, ["annot.json"], REMEDY)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per photo."""
        return pair_records(FORMAT.table(), Path(self.path), "train", self._annotations)
