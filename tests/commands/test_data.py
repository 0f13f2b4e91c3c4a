import io
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from renaissance.commands.data import app
from renaissance.errors import DataError


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    lines = []
    for index in range(count):
        Image.new("RGB", (40, 30), (index, 0, 0)).save(folder / f"{index}.jpg")
        lines.append(json.dumps({"image": f"{index}.jpg", "caption": f"photo {index}"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def test_image_text_with_every_option(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", 20)
    (source / "3.jpg").write_bytes(b"<html>")
    command = ["prepare", "image-text", "--source", str(source), "--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, DataError)
    assert "1 of 20 records cannot be used" in str(refused.exception)
    options = ["--name", "mine", "--workers", "3", "--resize", "15", "--check"]
    finished = CliRunner().invoke(app, [*command, *options, "--max-missing", "0.1"])
    assert finished.exit_code == 0
    assert "mine_0.arrow\t19\t19\t19\t" in finished.stdout
    assert "mine\t1\tnot an image that Pillow can read" in finished.stdout
    inspected = CliRunner().invoke(
        app,
        [
            *("inspect", str(tmp_path / "out" / "mine_0.arrow"), "--check"),
            *("--contact-sheet", str(tmp_path / "sheet.png")),
        ],
    )
    assert inspected.exit_code == 0
    assert "widths\t20 to 20, median 20" in inspected.stdout
    assert Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())).format == "PNG"


def test_splits_are_separated_by_commas(tmp_path: Path) -> None:
    photos(tmp_path / "train2017", 1)
    for split in ("train2017", "val2017"):
        content = {
            "images": [{"id": 0, "file_name": "0.jpg"}],
            "annotations": [{"image_id": 0, "caption": "a"}],
        }
        path = tmp_path / "annotations" / f"captions_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    command = ["prepare", "coco", "--source", str(tmp_path), "--output", str(tmp_path / "out")]
    finished = CliRunner().invoke(app, [*command, "--splits", "train2017"])
    assert finished.exit_code == 0
    assert [path.name for path in (tmp_path / "out").glob("*.arrow")] == [
        "coco_caption_train2017.arrow"
    ]
    refused = CliRunner().invoke(app, [*command, "--splits", "train2017, dev"])
    with pytest.raises(DataError, match="no split 'dev'"):
        raise refused.exception or AssertionError
