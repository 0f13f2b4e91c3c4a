"""The suites, each read from the files that its authors publish."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from renaissance.errors import DataError, quoted
from renaissance.suites.items import (
    ChoiceItem,
    ItemImage,
    caption_or_foil,
    entries,
    first_folder,
    read_table,
    string,
)

SUGAR_CREPE = (
    "add_att",
    "add_obj",
    "replace_att",
    "replace_obj",
    "replace_rel",
    "swap_att",
    "swap_obj",
)
# Each part of VALSE, and the folder in which its authors keep the images.
VALSE = {
    "existence": "data/visual7w/images",
    "plurals": "data/plurals/test_images",
    "counting-hard": "data/visual7w/images",
    "counting-small-quant": "data/visual7w/images",
    "counting-adversarial": "data/visual7w/images",
    "relations": "data/relations/test_images",
    "action-replacement": "data/actions/images_512",
    "actant-swap": "data/actions/images_512",
    "coreference-standard": "data/coref/release_too_many_is_this_in_color/images",
    "coreference-hard": "data/coref/release_v18/test_images",
    "foil-it": "data/COCO/val2014",
}
# Of three annotators, how many must have chosen the caption and not the foil.
MIN_VOTES = 2
VL_CHECKLIST = "corpus/v1"


@attrs.frozen
class Suite:
    """A suite.

    Attributes:
        read: Reads its items from the folder that `--data` names.
        paper: Where it is described.
        min_of_kind: For each group whose official score is the mean over kinds, how many items a
            kind must have to count.
    """

    read: Callable[[Path], list[ChoiceItem]]
    paper: str
    min_of_kind: Mapping[str, int] = attrs.field(factory=dict)


def read_winoground(folder: Path) -> list[ChoiceItem]:
    """Read data/examples.jsonl, and data/images with the content of images.zip."""
    base = first_folder(folder, ("data", "."), "examples.jsonl")
    items = []
    for number, line in enumerate((base / "examples.jsonl").open(encoding="utf-8"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name = f"examples.jsonl: item {record['id']}"
            images = tuple(_winoground_image(base, str(record[f"image_{i}"])) for i in (0, 1))
            texts = tuple(string(name, f"caption_{i}", record[f"caption_{i}"]) for i in (0, 1))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{base / 'examples.jsonl'}: line {number} cannot be read: "
                f"{type(error).__name__}: {error}; download it again"
            ) from error
        items.append(ChoiceItem(name, "winoground", images, texts, (0, 1)))
    return items


def _winoground_image(base: Path, stem: str) -> ItemImage:
    return ItemImage(base / "images" / (stem if Path(stem).suffix else f"{stem}.png"))


def read_sugar_crepe(folder: Path) -> list[ChoiceItem]:
    """Read data/*.json, and COCO's val2017."""
    base = first_folder(folder, ("data", "."), f"{SUGAR_CREPE[0]}.json")
    return [
        caption_or_foil(
            name,
            group,
            ItemImage(folder / "val2017" / str(record.get("filename"))),
            record.get("caption"),
            record.get("negative_caption"),
        )
        for group in SUGAR_CREPE
        for name, record in _records(base / f"{group}.json")
    ]


def read_aro(folder: Path) -> list[ChoiceItem]:
    """Read visual_genome_relation.json, visual_genome_attribution.json, and images."""
    items = []
    for group in ("relation", "attribution"):
        for name, record in _records(folder / f"visual_genome_{group}.json"):
            image = ItemImage(folder / "images" / str(record.get("image_path")), _box(name, record))
            kind = record.get("relation_name") or "_".join(map(str, record.get("attributes", ())))
            items.append(
                caption_or_foil(
                    name,
                    group,
                    image,
                    record.get("true_caption"),
                    record.get("false_caption"),
                    str(kind),
                )
            )
    return items


def _box(name: str, record: Mapping[str, Any]) -> tuple[int, int, int, int]:
    values = [record.get(f"bbox_{key}") for key in "xywh"]
    if not all(isinstance(value, int) for value in values):
        raise DataError(f"{name}: its box is {quoted(values)}; expected four integers, x, y, w, h")
    x, y, width, height = (int(str(value)) for value in values)
    return x, y, x + width, y + height


def read_vl_checklist(folder: Path) -> list[ChoiceItem]:
    """Read corpus/v1/**/*.yaml, the files in data/ that they name, and the images."""
    corpus = folder / VL_CHECKLIST
    paths = sorted(corpus.rglob("*.yaml"))
    if not paths:
        raise DataError(
            f"--data: there are no .yaml files in {corpus}; expected those of the suite"
        )
    return [item for path in paths for item in _vl_checklist_part(folder, corpus, path)]


def _vl_checklist_part(folder: Path, corpus: Path, path: Path) -> Iterator[ChoiceItem]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        annotations, images = folder / config["ANNO_PATH"], folder / config["IMG_ROOT"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise DataError(
            f"{path}: expected ANNO_PATH and IMG_ROOT ({type(error).__name__}); download it again"
        ) from error
    group = path.relative_to(corpus).with_suffix("").as_posix()
    table = read_table(annotations)
    for index, entry in enumerate(table if isinstance(table, list) else []):
        name = f"{annotations.name}: item {index}"
        try:
            image, texts = entry
            # The first of each, as in the authors' program.
            caption, foil = texts["POS"][0], texts["NEG"][0]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{name}: got {quoted(entry)}, expected [image, {{POS: [text], NEG: [text]}}]"
            ) from error
        yield caption_or_foil(name, group, ItemImage(images / str(image)), caption, foil)


def read_valse(folder: Path) -> list[ChoiceItem]:
    """Read data/*.json, and the images, in images/ or in the folders of the authors' program."""
    base = first_folder(folder, ("data", "."), "existence.json")
    return [
        caption_or_foil(
            name,
            group,
            ItemImage(_valse_image(folder, images, str(record.get("image_file")))),
            record.get("caption"),
            record.get("foil"),
        )
        for group, images in VALSE.items()
        for name, record in _records(base / f"{group}.json")
        if _votes(record) >= MIN_VOTES
    ]


def _valse_image(folder: Path, images: str, file: str) -> Path:
    together = folder / "images" / file
    return together if together.is_file() else folder / images / file


def _votes(record: Mapping[str, Any]) -> int:
    votes = record.get("mturk")
    number = votes.get("caption") if isinstance(votes, dict) else None
    return number if isinstance(number, int) else 0


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return entries(path, read_table(path))


SUITES: Mapping[str, Suite] = {
    "winoground": Suite(read_winoground, "Thrush et al., CVPR 2022"),
    "sugar-crepe": Suite(read_sugar_crepe, "Hsieh et al., NeurIPS 2023"),
    # Only pairs of attributes with 25 items count, as in the authors' program.
    "aro": Suite(read_aro, "Yuksekgonul et al., ICLR 2023", {"relation": 1, "attribution": 25}),
    "vl-checklist": Suite(read_vl_checklist, "Zhao et al., EMNLP 2022"),
    "valse": Suite(read_valse, "Parcalabescu et al., ACL 2022"),
}
