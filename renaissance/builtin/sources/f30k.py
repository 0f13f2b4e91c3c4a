"""Flickr30k captions."""

from collections.abc import Iterator

import attrs

from renaissance import LeftOut, Record, Source, SourceContext
from renaissance.builtin.formats import F30K
from renaissance.builtin.sources.karpathy import SPLITS, karpathy_records
from renaissance.prepare import choose_splits, find_file

FILES = ("karpathy/dataset_flickr30k.json", "dataset_flickr30k.json")
REMEDY = "Unpack caption_datasets.zip of Karpathy there"


class Flickr30k(Source):
    """Flickr30k captions (Young et al., 2014) in the splits of Karpathy and Fei-Fei (2015).

    The folder holds the images and Karpathy's file, from his caption_datasets.zip:

        flickr30k-images/
        karpathy/dataset_flickr30k.json

    Writes `f30k_caption_karpathy_{train,val,test}.arrow`.
    """

    name = F30K.name
    schema = F30K.schema

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._splits = choose_splits(context, SPLITS)
        self._annotations = find_file(context.path, FILES, REMEDY)
        self.path = str(self._annotations)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image."""
        return karpathy_records(self._annotations, self.name, self._splits)
