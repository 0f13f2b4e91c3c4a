"""SNLI-VE: does an image entail a sentence, contradict it, or neither?"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from renaissance import ImageFile, LeftOut, Record, Source, SourceContext, quoted
from renaissance.builtin.formats import SNLI_VE as FORMAT
from renaissance.builtin.formats import SNLI_VE_CLASSES
from renaissance.prepare import files_by_split, first_existing, json_lines, text_fault

FILES = {split: f"snli_ve_{split}.jsonl" for split in ("train", "dev", "test")}
FOLDERS = ("Flickr30K/images", "flickr30k-images")
REMEDY = "Generate it with the scripts of SNLI-VE, beside Flickr30K/"


class SNLIVE(Source):
    """SNLI-VE (Xie et al., 2019): does an image entail a sentence, contradict it, or neither?

    The folder holds the images of Flickr30k, and the files that the scripts of
    github.com/necla-ml/SNLI-VE generate:

        Flickr30K/images/   (or flickr30k-images/)
        snli_ve_train.jsonl  snli_ve_dev.jsonl  snli_ve_test.jsonl

    Writes `snli_{train,dev,test}.arrow`: one row per image, with pairs of premise and hypothesis
    and their labels (0 contradiction, 1 neutral, 2 entailment).
    """

    name = FORMAT.name
    schema = FORMAT.schema

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._annotations = files_by_split(context, FILES, REMEDY)
        self._images = first_existing(Path(context.path) / name for name in FOLDERS)

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image, with all its sentences."""
        for split, annotations in self._annotations.items():
            yield from _records(FORMAT.table(split), self._images, annotations)


def _records(table: str, folder: Path, annotations: Path) -> Iterator[Record | LeftOut]:
    by_image: dict[str, list[tuple[list[str], int]]] = {}
    for where, entry in json_lines(annotations):
        fault = _fault(entry)
        sentences = by_image.setdefault(entry["Flickr30K_ID"], [])
        if fault is None:
            pair = [entry.get("sentence1") or "", entry["sentence2"]]
            sentences.append((pair, SNLI_VE_CLASSES.index(entry["gold_label"])))
        else:
            yield LeftOut(table, where, fault, is_row=False)
    for image_id, sentences in by_image.items():
        image = ImageFile(str(folder / f"{image_id.removesuffix('.jpg')}.jpg"))
        if not sentences:
            yield LeftOut(table, str(image), "no sentence")
            continue
        values = {
            "sentences": [pair for pair, _ in sentences],
            "labels": [label for _, label in sentences],
        }
        yield Record(table, {"image": image}, values, len(sentences))


def _fault(entry: Mapping[str, object]) -> str | None:
    if entry.get("gold_label") not in SNLI_VE_CLASSES:
        label = quoted(entry.get("gold_label"))
        return f"gold_label {label} is not one of {', '.join(SNLI_VE_CLASSES)}"
    fault = text_fault(entry.get("sentence2"))
    return fault and f"sentence2 {fault}"
