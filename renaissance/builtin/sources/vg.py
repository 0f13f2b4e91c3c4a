"""Visual Genome: whole images with their region phrases."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import attrs

from renaissance import ImageFile, LeftOut, Record, Source, SourceContext
from renaissance.builtin.formats import VG
from renaissance.prepare import (
    choose_splits,
    find_file,
    first_existing,
    json_elements,
    texts_to_keep,
)

FILES = ("annotations/region_descriptions.json", "region_descriptions.json")
FOLDERS = ("images/VG_100K", "images/VG_100K_2", "VG_100K", "VG_100K_2")
REMEDY = "Unpack region_descriptions.json.zip in annotations, images.zip and images2.zip in images"


class _Region(TypedDict):
    phrase: str
    width: float
    height: float
    x: float
    y: float


class VisualGenome(Source):
    """Visual Genome region descriptions (Krishna et al., 2017).

    The folder holds the images and region_descriptions.json:

        images/VG_100K/  images/VG_100K_2/
        annotations/region_descriptions.json

    Writes `vg.arrow`: one row per image, with its region phrases as captions, and their regions.
    """

    name = VG.name
    schema = VG.schema

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        choose_splits(context, ("train",))
        self._folder = Path(context.path)
        self._annotations = find_file(context.path, FILES, REMEDY)
        self.path = str(self._annotations)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image."""
        for entry in json_elements(self._annotations):
            name = f"{entry['id']}.jpg"
            path = first_existing(self._folder / folder / name for folder in FOLDERS)
            yield from _row(str(entry["id"]), ImageFile(str(path)), entry["regions"])


def _row(image_id: str, image: ImageFile, regions: Sequence[_Region]) -> Iterator[Record | LeftOut]:
    phrases = [region["phrase"] for region in regions]
    indices, left_out = texts_to_keep(VG.table(), str(image), phrases, "phrase")
    yield from left_out
    if not indices:
        yield LeftOut(VG.table(), str(image), "no region phrase")
        return
    kept = [regions[index] for index in indices]
    values = {
        "caption": [region["phrase"] for region in kept],
        "width": [int(region["width"]) for region in kept],
        "height": [int(region["height"]) for region in kept],
        "x": [int(region["x"]) for region in kept],
        "y": [int(region["y"]) for region in kept],
        "image_id": image_id,
    }
    yield Record(VG.table(), {"image": image}, values, len(kept))
