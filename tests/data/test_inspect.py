import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.preparing import source_of
from typer.testing import CliRunner

from renaissance import DataError
from renaissance.commands.data import app
from renaissance.data.arrow import ArrowTable
from renaissance.data.contact_sheet import CELL, MARGIN, draw_contact_sheet, row_labels
from renaissance.data.inspect import inspect_file
from renaissance.data.prepare.options import PrepareOptions
from renaissance.data.prepare.writer import write_tables


def picture(size: tuple[int, int], file_format: str = "JPEG", level: int = 0) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(level).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(file, file_format)
    return file.getvalue()


def write(path: Path, columns: dict[str, Any]) -> Path:
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)
    return path


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Return a prepared file of ten rows, its manifest beside it."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(10):
        (source / f"{number}.png").write_bytes(picture((16, 16), "PNG", number))
    lines = "\n".join(f'{{"image": "{n}.png", "caption": "photo {n}"}}' for n in range(10))
    (source / "captions.jsonl").write_text(lines)
    options = PrepareOptions(output=tmp_path / "out", progress=False)
    write_tables(source_of("image-text", source, name="mine"), options)
    return tmp_path / "out" / "mine_0.arrow"


def test_what_a_file_holds(tmp_path: Path) -> None:
    columns = {
        "image": [picture((20, 10)), picture((30, 40)), picture((50, 60), "PNG")],
        "caption": [["one two three", "four"], [], ["five six"]],
        "image_id": ["a", "b", "c"],
    }
    found = inspect_file(write(tmp_path / "a.arrow", columns))
    assert found.schema == {
        "image": "binary",
        "caption": "list<item: string>",
        "image_id": "string",
    }
    assert (found.rows, found.num_images) == (3, 3)
    assert found.texts_per_row == (0, 1.0, 2)
    assert found.text_lengths == (1.0, 1.5, 2.0, 2.5, pytest.approx(2.9), 3.0)
    assert found.formats == {"JPEG RGB": 2, "PNG RGB": 1}
    assert (found.widths, found.heights) == ((20, 30, 50), (10, 40, 60))
    # 20 x 10 loses a half, 30 x 40 a quarter, and 50 x 60 a sixth.
    assert found.lost_areas == (pytest.approx((1 / 2 + 1 / 4 + 1 / 6) / 3), 1 / 2)
    assert found.samples[0]["caption"] == "['one two three', 'four']"
    assert found.samples[0]["image"].startswith(f"{len(columns['image'][0])} bytes, sha256 ")
    assert found.faults == ()


def test_a_whole_file_passes_the_check(prepared: Path) -> None:
    assert inspect_file(prepared, check=True).faults == ()
    result = CliRunner().invoke(app, ["inspect", str(prepared), "--check"])
    assert result.exit_code == 0
    assert "ok: 1 files, every image decoded, every checksum as written" in result.stdout
    assert "texts per row\t1 to 1, mean 1.00" in result.stdout


def test_a_flipped_bit_is_named_with_its_row(prepared: Path) -> None:
    table = ArrowTable([prepared], ("image",))
    data = table.value("image", 6).as_py()
    whole = bytearray(prepared.read_bytes())
    # In the compressed pixels, which the PNG has a checksum of.
    place = whole.index(data) + len(data) // 2
    whole[place] ^= 4
    prepared.write_bytes(bytes(whole))
    changed, broken = inspect_file(prepared, check=True).faults
    assert changed == (
        f"{prepared}: its SHA-256 is not the one in mine_manifest.json: its content has changed"
    )
    assert broken.startswith(f"{prepared}: row 6: image: image cannot be decoded (")
    result = CliRunner().invoke(app, ["inspect", str(prepared), "--check"])
    assert isinstance(result.exception, DataError)
    assert "2 faults; prepare or copy again" in str(result.exception)


def test_a_flipped_bit_in_a_text_is_found_by_the_checksum(prepared: Path) -> None:
    whole = prepared.read_bytes()
    prepared.write_bytes(whole.replace(b"photo 3", b"photo 2", 1))
    assert inspect_file(prepared).faults == ()
    (fault,) = inspect_file(prepared, check=True).faults
    assert "its content has changed" in fault


def test_a_cut_file_is_named_with_the_rows_before_the_cut(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renaissance.data.prepare.arrow_file.BATCH_ROWS", 4)
    source = source_of("image-text", prepared.parent.parent / "source", name="mine")
    write_tables(source, PrepareOptions(output=prepared.parent, progress=False))
    with pa.memory_map(str(prepared)) as mapped:
        images = [image.as_py() for image in pa.ipc.open_file(mapped).read_all()["image"]]
    whole = prepared.read_bytes()
    for row, num_whole in ((9, 8), (5, 4)):
        prepared.write_bytes(whole[: whole.index(images[row])])
        with pytest.raises(DataError) as error:
            inspect_file(prepared, check=True)
        assert f"{prepared}: not a whole Arrow file of " in str(error.value)
        assert str(error.value).endswith(f"The first {num_whole} rows are whole")
    prepared.write_bytes(whole[: whole.index(images[3])])
    with pytest.raises(DataError, match=r"copy or prepare it again$"):
        inspect_file(prepared, check=True)


def test_texts_that_are_no_utf8_are_named_with_the_rows_of_their_batch(tmp_path: Path) -> None:
    batches = [pa.RecordBatch.from_pydict({"caption": [f"photo {n}"] * 3}) for n in range(3)]
    with pa.ipc.new_file(tmp_path / "a.arrow", batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    content = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(content.replace(b"photo 1", b"ph\xefto 1", 1))
    with pytest.raises(
        DataError, match=r"a\.arrow: rows 3 to 5: column 'caption' is damaged \(.*8"
    ):
        inspect_file(tmp_path / "a.arrow")


def test_offsets_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"caption": [["ab"], ["cde"], ["f"]]})
    with pa.ipc.new_file(tmp_path / "a.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    content = (tmp_path / "a.arrow").read_bytes()
    offsets, wrong = (np.array(o, np.int32).tobytes() for o in ([0, 2, 5, 6], [0, 2, 5000, 6]))
    assert content.count(offsets) == 1
    (tmp_path / "a.arrow").write_bytes(content.replace(offsets, wrong))
    with pytest.raises(DataError, match=r"a\.arrow: rows 0 to 2: column 'caption' is damaged"):
        inspect_file(tmp_path / "a.arrow")


def test_broken_images_are_named_without_a_full_check(tmp_path: Path) -> None:
    columns = {"image": [picture((4, 4)), b"<html>"], "caption": ["a", "b"]}
    (fault,) = inspect_file(write(tmp_path / "a.arrow", columns)).faults
    assert fault.startswith(f"{tmp_path}/a.arrow: row 1: image: not an image that Pillow")
    faults = inspect_file(tmp_path / "a.arrow", check=True).faults
    assert faults[0] == (
        f"{tmp_path}/a.arrow: no manifest in its folder lists it, so its checksum is unknown"
    )
    assert len(faults) == 2


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", {"n": [1]})
    with pytest.raises(DataError, match=r"a\.arrow: has n; expected one of image, image_0, "):
        inspect_file(path)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"caption": [["a", "b"]]}, ["a", "b"]),
        ({"caption": ["a"]}, ["a"]),
        (
            {"sentences": [[["p", "h"], ["p", "i"]]], "labels": [[0, 2]]},
            ["h [contradiction]", "i [entailment]"],
        ),
        ({"questions": [["a", "b"]], "answers": [["True", "False"]]}, ["a [True]", "b [False]"]),
        (
            {
                "questions": [["why?", "who?"]],
                "answers": [[["yes", "no"], []]],
                "answer_labels": [[[0, 1], []]],
                "answer_scores": [[[1.0, 0.3], []]],
            },
            ["why? yes 1.0, no 0.3", "who? "],
        ),
        (
            {"sentences": [["left man"]], "bboxes": [[[0.0, 0.0, 1.0, 1.0]]], "labels": [0]},
            ["left man"],
        ),
    ],
)
def test_rows_are_described_with_their_labels(
    tmp_path: Path, columns: dict[str, Any], expected: list[str]
) -> None:
    table = ArrowTable([write(tmp_path / "a.arrow", columns)], tuple(columns))
    names = ("contradiction", "neutral", "entailment")
    assert row_labels(table, list(columns), 0, names) == expected


def test_labels_without_a_name_are_shown_as_the_file_has_them(tmp_path: Path) -> None:
    columns = {"sentences": [["a", "b", "c"]], "labels": [[0, 2, -1]]}
    table = ArrowTable([write(tmp_path / "a.arrow", columns)], tuple(columns))
    assert row_labels(table, list(columns), 0) == ["a [0]", "b [2]", "c [-1]"]
    assert row_labels(table, list(columns), 0, ("no", "yes")) == ["a [no]", "b [2]", "c [-1]"]


def test_contact_sheets_show_the_images_and_the_box_that_is_meant(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (CELL, CELL), colour) for colour in ("#400000", "#000040"))
    images = []
    for image in (red, blue):
        file = io.BytesIO()
        image.save(file, "PNG")
        images.append(file.getvalue())
    columns = {
        "image": images,
        "sentences": [["a"], ["b"]],
        "bboxes": [[[20.0, 20.0, 50.0, 50.0], [100.0, 100.0, 50.0, 50.0]]] * 2,
        "labels": [0, 1],
    }
    sheet = draw_contact_sheet(write(tmp_path / "a.arrow", columns))
    pixels = np.asarray(sheet)
    lefts = (MARGIN, 2 * MARGIN + CELL)
    for left, colour in zip(lefts, ((64, 0, 0), (0, 0, 64)), strict=True):
        assert tuple(pixels[MARGIN + CELL - 1, left + CELL - 1]) == colour
    for left, meant in zip(lefts, (20, 100), strict=True):
        other = 120 - meant
        assert tuple(pixels[MARGIN + meant, left + meant + 25]) == (224, 32, 32)
        assert tuple(pixels[MARGIN + other, left + other + 25]) == (154, 154, 154)
    # The texts are black on white.
    below = pixels[MARGIN + CELL : MARGIN + CELL + 40, MARGIN : MARGIN + CELL]
    assert below.min() < 100
    assert below.max() == 255


def test_contact_sheets_say_how_many_texts_have_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        "PIL.ImageDraw.ImageDraw.text", lambda _, place, text, *more: drawn.append(text)
    )
    captions = ["one of them", "a " * 30, "short", "a second " * 20]
    columns = {"image": [picture((9, 9))] * 3, "caption": [captions, captions[:1], ["b " * 999]]}
    draw_contact_sheet(write(tmp_path / "a.arrow", columns))
    second = ["a a a a a a a a a a a a a a a a a", "    a a a a a a a a a a a a a"]
    assert drawn[:6] == ["row 0", "one of them", *second, "short", "and 1 more"]
    assert drawn[6:8] == ["row 1", "one of them"]
    assert drawn[8] == "row 2"
    assert len(drawn) == 9 + 7
    assert drawn[-1].endswith("b ...")
