"""Suites in the files that their authors publish, cut to an item or two."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from renaissance import DataError
from renaissance.data.open_image import ImageLimits
from renaissance.suites.items import ChoiceItem, check_images
from renaissance.suites.layouts import SUGAR_CREPE, SUITES, VALSE


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def _picture(path: Path, size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)


def _read(name: str, folder: Path) -> list[ChoiceItem]:
    items = SUITES[name].read(folder)
    check_images(items)
    return items


def _winoground(folder: Path) -> None:
    record = {
        "id": 7,
        "image_0": "ex_7_img_0",
        "image_1": "ex_7_img_1",
        "caption_0": "an old person kisses a young person",
        "caption_1": "a young person kisses an old person",
        "tag": "Adjective-Age",
    }
    _write(folder / "data/examples.jsonl", json.dumps(record) + "\n\n")
    for image in ("ex_7_img_0", "ex_7_img_1"):
        _picture(folder / f"data/images/{image}.png")


def test_winoground(tmp_path: Path) -> None:
    _winoground(tmp_path)
    (item,) = _read("winoground", tmp_path)
    assert [image.path.name for image in item.images] == ["ex_7_img_0.png", "ex_7_img_1.png"]
    assert item.texts[1] == "a young person kisses an old person"
    assert item.image_of == (0, 1)


def test_sugar_crepe(tmp_path: Path) -> None:
    for group in SUGAR_CREPE:
        record = {"filename": f"{group}.jpg", "caption": "two towels", "negative_caption": "a cow"}
        _write(tmp_path / f"data/{group}.json", {"0": record, "4": record})
        _picture(tmp_path / f"val2017/{group}.jpg")
    items = _read("sugar-crepe", tmp_path)
    assert [item.group for item in items] == [group for group in SUGAR_CREPE for _ in "04"]
    assert items[1].name == "add_att.json: item 4"
    assert items[0].texts == ("two towels", "a cow")
    assert items[0].image_of == (0, None)


def test_aro_crops_the_box(tmp_path: Path) -> None:
    box = {"bbox_x": 4, "bbox_y": 2, "bbox_w": 10, "bbox_h": 5}
    captions = {"true_caption": "the cat is on the mat", "false_caption": "the mat is on the cat"}
    record = {"image_path": "1.jpg", **box, **captions}
    relation = [{**record, "relation_name": "on"}]
    _write(tmp_path / "visual_genome_relation.json", relation)
    attribution = [{**record, "attributes": ["white", "red"]}]
    _write(tmp_path / "visual_genome_attribution.json", attribution)
    _picture(tmp_path / "images/1.jpg")
    items = _read("aro", tmp_path)
    assert [(item.group, item.kind) for item in items] == [
        ("relation", "on"),
        ("attribution", "white_red"),
    ]
    picture = items[0].images[0].picture(ImageLimits())
    expected = Image.open(tmp_path / "images/1.jpg").convert("RGB").crop((4, 2, 14, 7))
    assert isinstance(picture, Image.Image)
    assert picture.tobytes() == expected.tobytes()
    _write(tmp_path / "visual_genome_relation.json", [{**relation[0], "bbox_w": None}])
    with pytest.raises(DataError, match=r"item 0: its box is \[4, 2, None, 5\]; expected four"):
        SUITES["aro"].read(tmp_path)


def test_vl_checklist(tmp_path: Path) -> None:
    config = 'ANNO_PATH: "data/Attribute/vg/color.json"\nIMG_ROOT: "vg"\nTYPE: "TUPLE_JSON"'
    _write(tmp_path / "corpus/v1/Attribute/color/vg.yaml", config)
    texts = {"POS": ["brown knob", "not used"], "NEG": ["teal knob"]}
    _write(tmp_path / "data/Attribute/vg/color.json", [["VG_100K/2.jpg", texts]])
    _picture(tmp_path / "vg/VG_100K/2.jpg")
    (item,) = _read("vl-checklist", tmp_path)
    assert (item.group, item.texts) == ("Attribute/color/vg", ("brown knob", "teal knob"))
    _write(tmp_path / "data/Attribute/vg/color.json", [["VG_100K/2.jpg", {"POS": ["a"]}]])
    with pytest.raises(DataError, match=r"color.json: item 0: got .* expected \[image, \{POS"):
        SUITES["vl-checklist"].read(tmp_path)
    _write(tmp_path / "corpus/v1/Attribute/color/vg.yaml", "nothing")
    with pytest.raises(DataError, match=r"vg.yaml: expected ANNO_PATH and IMG_ROOT"):
        SUITES["vl-checklist"].read(tmp_path)


def test_valse_has_the_items_that_two_annotators_accepted(tmp_path: Path) -> None:
    for group, images in VALSE.items():
        records = {
            f"{group}_{votes}": {
                "image_file": "a.jpg",
                "caption": "a man",
                "foil": "a torso",
                "mturk": {"caption": votes, "foil": 3 - votes},
            }
            for votes in range(4)
        }
        _write(tmp_path / f"data/{group}.json", records)
        _picture(tmp_path / images / "a.jpg")
    items = _read("valse", tmp_path)
    assert [item.name for item in items[:2]] == [
        f"existence.json: item existence_{votes}" for votes in (2, 3)
    ]
    assert len(items) == 2 * len(VALSE)
    # All images in one folder will do, too.
    _picture(tmp_path / "images/a.jpg")
    assert {item.images[0].path for item in _read("valse", tmp_path)} == {tmp_path / "images/a.jpg"}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data: the suite's file is not there; looked for"):
        SUITES["winoground"].read(tmp_path)
    _winoground(tmp_path)
    (tmp_path / "data/images/ex_7_img_1.png").unlink()
    missing = r"images are missing: 1, such as examples.jsonl: item 7: .*ex_7_img_1.png; expected"
    with pytest.raises(DataError, match=missing):
        _read("winoground", tmp_path)
    path = tmp_path / "data/examples.jsonl"
    path.write_text(path.read_text().replace('"caption_1"', '"caption_2"'))
    with pytest.raises(DataError, match=r"examples.jsonl: line 1 cannot be read: KeyError"):
        SUITES["winoground"].read(tmp_path)
    (tmp_path / "data/add_att.json").write_text("[1]")
    with pytest.raises(DataError, match=r"add_att.json: expected a list or an object of objects"):
        SUITES["sugar-crepe"].read(tmp_path)
    (tmp_path / "data/add_att.json").write_text("{")
    with pytest.raises(DataError, match=r"add_att.json: cannot be read as JSON"):
        SUITES["sugar-crepe"].read(tmp_path)
    record = {"filename": "a.jpg", "caption": "a", "negative_caption": None}
    _write(tmp_path / "data/add_att.json", {"3": record})
    with pytest.raises(DataError, match=r"add_att.json: item 3: foil is None; expected a text"):
        SUITES["sugar-crepe"].read(tmp_path)
