from pathlib import Path

import numpy as np
import pytest
from support.table_files import WRITERS, picture, rows_of, write_all, write_photos
from typer.testing import CliRunner

from renaissance import DataError
from renaissance.commands.data import app
from renaissance.data.contact_sheet import CELL, MARGIN
from renaissance.data.tables.inspection import InspectedTable


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_table_holds(tmp_path: Path, name: str) -> None:
    rows = rows_of(20, num_images=13)
    write_all(tmp_path / "data", rows)
    found = InspectedTable(tmp_path / "data" / name, Path()).inspect(check=True)
    assert (found.rows, found.num_images, found.faults) == (20, 20, ())
    assert found.formats == {"PNG RGB": 20}
    assert (found.widths, found.heights) == ((8, 8, 8), (8, 8, 8))
    words = [len(row["caption"].split()) for row in rows]
    assert (found.text_lengths[0], found.text_lengths[-1]) == (min(words), max(words))
    assert found.texts_per_row == (1, 1.0, 1)
    image = "img.png" if name == "t.tar" else "img"
    assert list(found.schema) == [image, "caption", "label"]
    assert found.schema[image].startswith("image: ")
    assert found.samples[1]["label"] == str(rows[1]["label"])


def test_the_command_reads_tables_and_draws_them(tmp_path: Path) -> None:
    rows = rows_of(20)
    write_all(tmp_path / "data", rows)
    sheet = tmp_path / "sheet.png"
    arguments = ["inspect", str(tmp_path / "data/t.csv"), "--check", "--contact-sheet", str(sheet)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "column label\ttext of numbers (int)\n" in result.stdout
    assert "ok: 1 files, every image decoded\n" in result.stdout
    from io import BytesIO

    from PIL import Image

    drawn = np.asarray(Image.open(sheet))
    first = np.asarray(Image.open(BytesIO(picture(rows[0]["img"]))))
    # Small pictures are not enlarged: they are in the middle of their cells.
    start = MARGIN + (CELL - 8) // 2
    assert np.array_equal(drawn[start : start + 8, start : start + 8], first)


def test_images_that_cannot_be_read_are_faults_with_their_rows(tmp_path: Path) -> None:
    rows = rows_of(4)
    write_all(tmp_path, rows)
    (tmp_path / rows[1]["img"]).unlink()
    whole = picture(rows[2]["img"])
    (tmp_path / rows[2]["img"]).write_bytes(whole[: len(whole) // 2])
    (tmp_path / rows[3]["img"]).write_bytes(b"<html>")
    path = tmp_path / "t.jsonl"
    missing, cut, other = InspectedTable(path, Path()).inspect(check=True).faults
    assert missing.startswith(f"{path}: t.jsonl: line 2: column 'img' is 'photos/1.png': no such")
    assert cut.startswith(f"{path}: line 3: img: cut short")
    assert other.startswith(f"{path}: t.jsonl: line 4: image cannot be decoded (")
    result = CliRunner().invoke(app, ["inspect", str(path), "--check"])
    assert isinstance(result.exception, DataError)
    assert str(result.exception).endswith("3 faults; prepare or copy again")


def test_images_relative_to_another_folder(tmp_path: Path) -> None:
    rows = rows_of(3)
    write_photos(tmp_path / "root", rows)
    (tmp_path / "lists").mkdir()
    WRITERS["t.csv"](tmp_path / "lists/t.csv", rows)
    path = str(tmp_path / "lists/t.csv")
    assert CliRunner().invoke(app, ["inspect", path]).exception is not None
    result = CliRunner().invoke(app, ["inspect", path, "--root", str(tmp_path / "root")])
    assert result.exit_code == 0
    assert "formats of 3 images\tPNG RGB: 3" in result.stdout
