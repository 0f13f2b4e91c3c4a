"""RefCOCO, RefCOCO+ and RefCOCOg: to which object of an image does an expression refer?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, TypedDict

import attrs

from renaissance import ImageFile, LeftOut, Record, Source, SourceContext
from renaissance.builtin.formats import (
    REFCOCO,
    REFCOCO_PLUS,
    REFCOCOG,
    REFERRING_EXPRESSIONS_SCHEMA,
    Format,
)
from renaissance.prepare import (
    choose_splits,
    find_file,
    first_existing,
    json_elements,
    load_plain_pickle,
    texts_to_keep,
)

SPLITS = ("train", "val", "test")
# Parts of test: images with several people, and images with several other objects.
PARTS = ("testA", "testB")
FOLDERS = ("train2014", "images/train2014", "images/mscoco/images/train2014")


class ReferringExpressions(Source):
    """The base of the three sources: one row per object that is referred to.

    The unpickler refuses everything except plain containers, strings and numbers.
    """

    format: ClassVar[Format]
    # Names of the dataset and its expressions file in the refer toolbox.
    dataset: ClassVar[str]
    refs: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    schema = REFERRING_EXPRESSIONS_SCHEMA

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._splits = choose_splits(context, self.splits)
        remedy = f"Unpack {self.dataset}.zip of the refer toolbox there"
        self._refs, self._instances = (
            find_file(context.path, [name, f"{self.dataset}/{name}"], remedy)
            for name in (self.refs, "instances.json")
        )
        self._images = first_existing(Path(context.path) / name for name in FOLDERS)
        self.name, self.path = self.format.name, str(self._refs)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per object; those of testA and testB belong to test, too."""
        images = _read_images(self._instances)
        for index, ref in enumerate(load_plain_pickle(self._refs)):
            split = str(ref["split"])
            for table in (split, "test") if split in PARTS else (split,):
                if table in self._splits:
                    where = f"{self._refs}: [{index}]"
                    yield from _row(self.format.table(table), where, self._images, images, ref)


class RefCOCO(ReferringExpressions):
    """RefCOCO (Yu et al., 2016), in the UNC splits.

    The folder holds the images of COCO, and refcoco.zip of github.com/lichengunc/refer:

        train2014/
        refs(unc).p  instances.json    (or both in refcoco/)

    Writes `refcoco_unc_{train,val,test,testA,testB}.arrow`; test is testA and testB together.
    """

    format = REFCOCO
    dataset, refs = "refcoco", "refs(unc).p"
    splits = (*SPLITS, *PARTS)


class RefCOCOPlus(ReferringExpressions):
    """RefCOCO+ (Yu et al., 2016), in the UNC splits: expressions without locations.

    The folder holds the images of COCO, and refcoco+.zip of github.com/lichengunc/refer:

        train2014/
        refs(unc).p  instances.json    (or both in refcoco+/)

    Writes `refcoco+_unc_{train,val,test,testA,testB}.arrow`; test is testA and testB together.
    """

    format = REFCOCO_PLUS
    dataset, refs = "refcoco+", "refs(unc).p"
    splits = (*SPLITS, *PARTS)


class RefCOCOg(ReferringExpressions):
    """RefCOCOg (Mao et al., 2016), in the UMD splits: longer expressions.

    The folder holds the images of COCO, and refcocog.zip of github.com/lichengunc/refer:

        train2014/
        refs(umd).p  instances.json    (or both in refcocog/)

    Writes `refcocog_umd_{train,val,test}.arrow`.
    """

    format = REFCOCOG
    dataset, refs = "refcocog", "refs(umd).p"
    splits = SPLITS


class _Sentence(TypedDict):
    sent: str


class _Ref(TypedDict):
    """What is needed of an entry in the refs file."""

    image_id: int
    ann_id: int
    sentences: list[_Sentence]


@attrs.frozen
class _Image:
    """An image of `instances.json`, and its annotated objects."""

    file_name: str
    annotation_ids: list[int] = attrs.field(factory=list)
    boxes: list[list[float]] = attrs.field(factory=list)


def _read_images(instances: Path) -> dict[int, _Image]:
    images = {i["id"]: _Image(i["file_name"]) for i in json_elements(instances, "images")}
    for annotation in json_elements(instances, "annotations"):
        image = images.get(annotation["image_id"])
        if image is not None:
            image.annotation_ids.append(annotation["id"])
            image.boxes.append([float(number) for number in annotation["bbox"]])
    return images


def _row(
    table: str, where: str, folder: Path, images: Mapping[int, _Image], ref: _Ref
) -> Iterator[Record | LeftOut]:
    image = images.get(ref["image_id"])
    if image is None:
        yield LeftOut(table, where, f"image {ref['image_id']} is not in instances.json")
        return
    if ref["ann_id"] not in image.annotation_ids:
        yield LeftOut(table, where, f"object {ref['ann_id']} is not in instances.json")
        return
    sentences = [sentence["sent"] for sentence in ref["sentences"]]
    kept, left_out = texts_to_keep(table, where, sentences, "sentence")
    yield from left_out
    if not kept:
        yield LeftOut(table, where, "no sentence")
        return
    values = {
        "sentences": [sentences[index] for index in kept],
        "bboxes": image.boxes,
        "labels": image.annotation_ids.index(ref["ann_id"]),
    }
    path = folder / image.file_name
    yield Record(table, {"image": ImageFile(str(path))}, values, len(kept))
