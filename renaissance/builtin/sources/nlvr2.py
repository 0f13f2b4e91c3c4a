"""NLVR2: is a sentence true of a pair of images?"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from renaissance import ImageFile, LeftOut, Record, Source, SourceContext, quoted
from renaissance.builtin.formats import NLVR2 as FORMAT
from renaissance.builtin.formats import NLVR2_ANSWERS
from renaissance.prepare import files_by_split, first_existing, json_lines, text_fault

FILES = {
    "train": "nlvr2/data/train.json",
    "dev": "nlvr2/data/dev.json",
    "test1": "nlvr2/data/test1.json",
} | {
    f"{part}_{split}": f"nlvr2/data/{part}/{part}_{split}.json"
    for part in ("balanced", "unbalanced")
    for split in ("dev", "test1")
}
REMEDY = "Clone github.com/lil-lab/nlvr there, and unpack the images beside it"


class NLVR2(Source):
    """NLVR2 (Suhr et al., 2019): is a sentence true of a pair of images?

    The folder holds the images, and a clone of github.com/lil-lab/nlvr or its folder nlvr2:

        images/train/<directory>/  dev/  test1/
        nlvr2/data/train.json  dev.json  test1.json
        nlvr2/data/balanced/  unbalanced/

    The images of dev and test1 may also be in images/dev/ and images/test1/. Writes
    `nlvr2_{train,dev,test1}.arrow` and `nlvr2_{balanced,unbalanced}_{dev,test1}.arrow`, each if its
    sentences are there: one row per pair of images.
    """

    name = FORMAT.name
    schema = FORMAT.schema

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._annotations = files_by_split(context, FILES, REMEDY)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per pair of images, with all its sentences."""
        for split, annotations in self._annotations.items():
            yield from _records(Path(self.path), split, annotations)


@attrs.frozen
class _Pair:
    """A pair of images with its sentences."""

    folder: Path
    sentences: list[str] = attrs.field(factory=list)
    answers: list[str] = attrs.field(factory=list)
    identifiers: list[str] = attrs.field(factory=list)


def _records(folder: Path, split: str, annotations: Path) -> Iterator[Record | LeftOut]:
    table = FORMAT.table(split)
    pairs: dict[str, _Pair] = {}
    for where, entry in json_lines(annotations):
        fault = _fault(entry)
        if fault is not None:
            yield LeftOut(table, where, fault, is_row=False)
            continue
        # dev-850-0-1 is sentence 1 about pair dev-850-0.
        pair_id = entry["identifier"].rpartition("-")[0]
        if pair_id not in pairs:
            pairs[pair_id] = _Pair(_image_folder(folder, split, entry))
        pairs[pair_id].sentences.append(entry["sentence"])
        pairs[pair_id].answers.append(str(entry["label"]))
        pairs[pair_id].identifiers.append(entry["identifier"])
    for pair_id, pair in pairs.items():
        images = {
            f"image_{i}": ImageFile(str(pair.folder / f"{pair_id}-img{i}.png")) for i in range(2)
        }
        values = {
            "questions": pair.sentences,
            "answers": pair.answers,
            "identifier": pair_id,
            "identifiers": pair.identifiers,
        }
        yield Record(table, images, values, len(pair.sentences))


def _image_folder(folder: Path, split: str, entry: Mapping[str, object]) -> Path:
    if split == "train":
        return folder / "images" / "train" / str(entry["directory"])
    name = split.rpartition("_")[2]
    return first_existing([folder / name, folder / "images" / name])


def _fault(entry: Mapping[str, object]) -> str | None:
    identifier = entry.get("identifier")
    if not isinstance(identifier, str) or identifier.count("-") < 3:
        return f"identifier {quoted(identifier)} is not of the form dev-850-0-1"
    if str(entry.get("label")) not in NLVR2_ANSWERS:
        return f"label {quoted(entry.get('label'))} is not one of {', '.join(NLVR2_ANSWERS)}"
    fault = text_fault(entry.get("sentence"))
    return fault and f"sentence {fault}"
