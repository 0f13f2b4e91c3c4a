"""Tables with mistakes: one message, with file, row and value."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.table_files import picture

from renaissance import DataError, DatasetContext
from renaissance.builtin.datasets.table import Table
from renaissance.engine.labels import Question, Split, find_classes, find_distribution
from renaissance.limits import ReadLimits

TEXT = {"text": "w"}


def open_table(root: Path, files: str | tuple[str, ...], **options: Any) -> Table:
    made = Table.Options(**{"columns": TEXT, "cache": str(root / "cache"), **options}, files=files)
    return Table(made, DatasetContext(root=root, seed=0, training=True))


def texts(root: Path, files: str | tuple[str, ...], **options: Any) -> list[str | None]:
    dataset = open_table(root, files, **options)
    return [dataset.sample(i, np.random.default_rng(0)).text for i in range(len(dataset))]


def sources(root: Path, files: str, **options: Any) -> list[str]:
    dataset = open_table(root, files, **options)
    return [dataset.sample(i, np.random.default_rng(0)).source for i in range(len(dataset))]


# --- csv files of every kind that are fine ---


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfw,n\na,1\nb,2\n",
        b"w,n\r\na,1\r\nb,2\r\n",
        b"\xef\xbb\xbfw,n\r\na,1\r\n\r\nb,2",
        b'w,n\n"a",1\n"b","2"\n',
        b"\n\nw,n\na,1\nb,2\n\n\n",
    ],
)
def test_marks_and_line_ends_of_other_programs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    columns = {"text": "w", "label": "n"}
    assert texts(tmp_path, "t.csv", columns=columns) == ["a", "b"]
    assert list(open_table(tmp_path, "t.csv", columns=columns).label_values("label")) == [1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", b"\xef\xbb\xbfw\tn\r\na\t1\r\nb\t2\r\n"),
        ("t.jsonl", b'\xef\xbb\xbf{"w": "a", "n": 1}\r\n\r\n{"w": "b", "n": 2}'),
    ],
)
def test_marks_and_line_ends_in_other_text_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert texts(tmp_path, name, columns={"text": "w", "label": "n"}) == ["a", "b"]


def test_quotes_commas_and_line_breaks_in_cells(tmp_path: Path) -> None:
    expected = ['say "x", y', "two\r\nlines", "日本語 \U0001f600", " spaces "]
    cells = ['"' + text.replace('"', '""') + '"' for text in expected]
    (tmp_path / "t.csv").write_bytes(("w\r\n" + "\r\n".join(cells)).encode())
    assert texts(tmp_path, "t.csv") == expected
    # The second row has two lines, so the third begins in line 5.
    assert sources(tmp_path, "t.csv") == [f"t.csv: line {line}" for line in (2, 3, 5, 6)]


def test_quotes_in_tsv_files_are_text(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('w\tn\na 6" plank\t1\n"quoted"\t2\n')
    assert texts(tmp_path, "t.tsv") == ['a 6" plank', '"quoted"']


# --- what cannot be read ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,n\na,1\n", "no column 'w'; it has 'text', 'n'"),
        ("t.csv", "W,n\na,1\n", "no column 'w'; it has 'W', 'n'"),
        ("t.csv", "w_,n\na,1\n", "no column 'w'; it has 'w_', 'n'; did you mean 'w_'?"),
        ("t.csv", "w,n\na,1\nb\n", "line 3: 1 cell ('b'); expected 2: w, n. Put a text with"),
        ("t.csv", 'w,n\n"a\nb",1\nc,2,3\n', "line 4: 3 cells ("),
        ("t.tsv", "w\tn\na\tb\t1\n", "line 2: 3 cells ('a', 'b', '1'); expected 2: w, n. Remove"),
        ("t.csv", 'w,n\na,1\n"b,2\nc,3\n', "line 3: not a row (unexpected end of data)"),
        ("t.csv", 'w,n\n"b"x,2\n', "line 2: not a row (',' expected after '\"')"),
        ("t.csv", "w,n,w\na,1,b\n", "line 1: two columns are named 'w'; expected a name for each"),
        ("t.csv", "w;n\na;1\n", "line 1: 'w;n' has no comma; expected names of columns with"),
        ("t.csv", "w,n\ra,1\rb,2\r", "line 1: not a row (new-line character seen in unquoted"),
        ("t.csv", "", "line 1: empty; expected the names of the columns. Add them"),
        ("t.csv", "w,n\n", "no rows; expected at least one. Add some, or leave the file out"),
        ("t.jsonl", '{"w": "a"}\n{"w": \n', "line 2: not valid JSON (Expecting value: line"),
        ("t.jsonl", '{"w": "a"}\n[1]\n', "line 2: [1]; expected a JSON object, such as {"),
        ("t.jsonl", '{"w": "\\ud800"}\n', "line 1: a text is not valid Unicode (surrogates not"),
        ("t.jsonl", '{"w": "a", "w": "b"}', "line 1: not valid JSON (the key 'w' is there twice)"),
        ("t.jsonl", "[" * 100_000, "line 1: not valid JSON ("),
        ("t.parquet", "PAR1", "not a whole Parquet file ("),
        ("t.arrow", "ARROW1", "not a whole Arrow file of 6 bytes ("),
        ("t.tar", "no tar " * 1000, "not a whole tar ("),
        ("t.csv.gz", "", "not a known format; expected .csv, .tsv, .jsonl, .ndjson, .parquet, "),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(DataError) as error:
        open_table(tmp_path, name)
    assert str(error.value).startswith(f"{tmp_path}/{name}: {message}")
    # Nothing that is half written is taken for a table later.
    assert "no column" in message or not list((tmp_path / "cache").glob("*.arrow*"))


def test_other_encodings_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("w\nüber\n".encode() + "schön\n".encode("cp1252"))
    with pytest.raises(DataError) as error:
        open_table(tmp_path, "t.csv")
    assert str(error.value) == (
        f"{path}: line 3: byte 4, 0xf6, is not UTF-8 (in b'sch\\xf6n\\n'); expected UTF-8 in the "
        "whole file. Save it as UTF-8; if it was put together from several files, convert those "
        "of another encoding first"
    )
    path.write_bytes("w\na\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"t\.csv: line 1: UTF-16; expected UTF-8\. Save the file"):
        open_table(tmp_path, "t.csv")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.tar"])
def test_huge_cells_are_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    import resource

    size = 100 << 20
    most = "at most 16,777,216 (data.max_record_bytes)"
    huge = "x" * size
    where = {
        "t.csv": "line 3: not a row (field larger than field limit",
        "t.jsonl": f"line 2: longer than 16,777,216 bytes; expected a row of {most}. It begins "
        'with b\'{"w": "xx',
        "t.parquet": "row 1: column 'w' holds a text of 104,857,600 bytes; expected " + most,
        "t.tar": f"b.txt: 104,857,600 bytes; expected a text of {most}. Leave it out",
    }
    path = tmp_path / name
    columns = TEXT
    if name == "t.csv":
        # In lines that are not too long themselves.
        path.write_text('w\na\n"' + f"{huge[: 5 << 20]}\n" * 4 + '"\nb\n')
    elif name == "t.jsonl":
        path.write_text(json.dumps({"w": "a"}) + "\n" + json.dumps({"w": huge}) + "\n")
    elif name == "t.parquet":
        pq.write_table(pa.table({"w": ["a", huge]}), path)
    else:
        (tmp_path / "b.txt").write_text(huge)
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "b.txt", "b.txt")
        columns = {"text": "txt"}
    del huge
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as error:
        open_table(tmp_path, name, columns=columns)
    assert where[name] in str(error.value)
    if name in ("t.csv", "t.jsonl"):
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize(
    ("name", "content", "limits", "message"),
    [
        ("t.csv", "w\nab\n" + "c" * 30, {"record_bytes": 20}, "line 3: longer than 20 bytes; exp"),
        ("t.jsonl", '{"w": [[["x"]]]}', {"nesting": 3}, "line 1: not valid JSON (nested "
         "too deeply; expected at most 3 (data.max_nesting)); expected one object"),
        ("t.tar", "", {"record_bytes": 4}, "a.txt: 5 bytes; expected a text of at most 4 (data."),
        ("t.tar", "", {"nesting": 2}, "b.json: not valid JSON (nested too "
         "deeply; expected at most 2 (data.max_nesting)"),
        ("t.tar", "", {"tar_members": 2}, "more than 2 members; expected at most 2 (data.max_tar_"
         "members). Divide the tar, or raise the limit"),
    ],
)  # fmt: skip
def test_each_limit_has_its_option(
    tmp_path: Path, name: str, content: str, limits: dict[str, int], message: str
) -> None:
    if name == "t.tar":
        members = {"a.txt": b"a dog", "b.json": b'{"w": {"x": []}}', "c.txt": b"c"}
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        (tmp_path / name).write_text(content)
    column = {"t.tar": "__key__"}.get(name, "w")
    options = Table.Options(files=name, columns={"label": column}, cache=str(tmp_path / "cache"))
    context = DatasetContext(root=tmp_path, seed=0, training=True)
    assert len(Table(options, context))
    with pytest.raises(DataError) as error:
        Table(options, attrs.evolve(context, limits=ReadLimits(**limits)))
    assert str(error.value).startswith(f"{tmp_path}/{name}: {message}")


@pytest.mark.parametrize("columns", [TEXT, {"label": "w"}])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_that_is_not_utf_8_in_an_arrow_file_is_named(
    tmp_path: Path, kind: Any, columns: dict[str, str]
) -> None:
    path, table = tmp_path / "t.arrow", pa.table({"w": pa.array(["ab", "cd", "ef"], kind)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    whole = path.read_bytes()
    assert whole.count(b"cd") == 1
    path.write_bytes(whole.replace(b"cd", b"c\xff"))
    place = "rows 0 to 2" if kind == pa.string_view() else "row 1"
    with pytest.raises(DataError, match=rf"t\.arrow: {place}: column 'w' is damaged \("):
        list(open_table(tmp_path, "t.arrow", columns=columns).label_values("label"))


def test_files_that_cannot_be_found(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("w\na\n")
    with pytest.raises(DataError, match=r"trian\.csv: no such file; .*nearest names: train\.csv"):
        open_table(tmp_path, "trian.csv")
    with pytest.raises(DataError, match=r"no file matches '\*\.parquet' in "):
        open_table(tmp_path, "*.parquet")
    with pytest.raises(DataError, match="files is an empty list"):
        open_table(tmp_path, ())
    (tmp_path / "both").mkdir()
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / "both" / name).write_text("w\n")
    with pytest.raises(DataError, match=r"both: has a\.csv, b\.jsonl; expected files of one form"):
        open_table(tmp_path, "both")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"hf: a folder of several splits: train, test; .*hf/train"):
        open_table(tmp_path, "hf")
    (tmp_path / "hf/dataset_dict.json").unlink()
    (tmp_path / "hf/state.json").write_text('{"_indices_data_files": [{"filename": "i.arrow"}]}')
    with pytest.raises(DataError, match=r"hf: its rows are chosen by an index file.*flatten_indi"):
        open_table(tmp_path, "hf")


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"text": "n"}, "t.parquet", "column 'n' is int64; expected text. Name another column"),
        ({"image": "n"}, "t.parquet", "column 'n' is int64; expected the path of an image, the"),
    ],
)
def test_columns_of_another_type(
    tmp_path: Path, columns: dict[str, str], kind: str, message: str
) -> None:
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / kind)
    with pytest.raises(DataError) as error:
        open_table(tmp_path, kind, columns=columns)
    assert str(error.value).startswith(f"{tmp_path}/{kind}: {message}")


def test_a_text_that_is_none_names_its_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"w": "a"}\n\n{"w": ["b", "c"]}\n{"w": 4}\n')
    dataset = open_table(tmp_path, "t.jsonl")
    for index, line, shown in ((1, 3, "['b', 'c']"), (2, 4, "4")):
        with pytest.raises(DataError) as error:
            dataset.sample(index, np.random.default_rng(0))
        assert str(error.value) == (
            f"t.jsonl: line {line}: column 'w' (text) is {shown}; expected one text. Write one row "
            "per text, as text"
        )


# --- labels ---


@pytest.mark.parametrize(
    ("cells", "is_class", "message"),
    [
        ("cat,dog,", True, "t.csv: line 4: label 'label' is missing (None). Correct the row"),
        ("cat,dog, ", True, "t.csv: line 4: label 'label' is missing (' ')."),
        ("1,2,nan", True, "t.csv: line 4: label 'label' is missing (nan)."),
        ("1,2,NaN", False, "t.csv: line 4: label 'label' is missing (nan)."),
        ("1,2,two", False, "t.csv: line 4: label 'label' is 'two', expected a number"),
        ("1,2,0.5", True, "t.csv: line 4: label 'label' is 0.5, expected a class, a text or an"),
        (
            "cat,cat,cat",
            True,
            "objective 'o': label 'label' is 'cat' in all 3 samples of data.train[0]; expected at "
            "least 2 classes, or nothing can be learned",
        ),
        ("7,7,7", False, "objective 'o': label 'label' is 7 in all 3 samples of data.train[0]"),
    ],
)
def test_labels_that_cannot_be_learned_name_their_line(
    tmp_path: Path, cells: str, is_class: bool, message: str
) -> None:
    (tmp_path / "t.csv").write_text("y,w\n" + "".join(f"{cell},a\n" for cell in cells.split(",")))
    dataset = open_table(tmp_path, "t.csv", columns={"text": "w", "label": "y"})
    split = Split((("data.train[0]", dataset),))
    find = find_classes if is_class else find_distribution
    with pytest.raises(DataError) as error:
        find(split, Question("o", "label"))
    assert str(error.value).startswith(message)


# --- images ---


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "lists/own").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(picture("1"))
    (tmp_path / "lists/own/2 ü.png").write_bytes(picture("2"))
    return tmp_path


def image_of(root: Path, written: str) -> Any:
    (root / "lists/t.csv").write_text(f'img\n"{written}"\n')
    dataset = open_table(root, "lists/t.csv", columns={"image": "img"})
    return dataset.sample(0, np.random.default_rng(0)).images[0]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("photos/1.png", "1"),
        ("../photos/1.png", "1"),
        (" photos/1.png ", "1"),
        ("{root}/photos/1.png", "1"),
        ("file://{root}/photos/1.png", "1"),
        ("own/2 ü.png", "2"),
        ("own\\2 ü.png", "2"),
        (".\\own\\2 ü.png", "2"),
    ],
)
def test_paths_of_images(photos: Path, written: str, name: str) -> None:
    from io import BytesIO

    from PIL import Image

    image = image_of(photos, written.format(root=photos))
    assert np.array_equal(image, Image.open(BytesIO(picture(name))))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("photos/3.png", ": no such file; expected {root}/lists/photos/3.png or {root}/photos/3"),
        ("/nowhere/3.png", ": no such file; expected /nowhere/3.png. Paths are relative to the"),
        (
            "C:\\Users\\me\\1.png",
            ", a path of another computer; expected one relative to the table",
        ),
        ("\\\\server\\me\\1.png", ", a path of another computer; expected one relative to the"),
        ("photos", ": no such file; expected "),
        ("photos/1.png\0", ": no such file; expected "),
    ],
)
def test_images_that_are_not_there(photos: Path, written: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        image_of(photos, written)
    shown = f"t.csv: line 2: column 'img' is {written!r}" + message.format(root=photos)
    assert str(error.value).startswith(shown)


def test_images_that_cannot_be_decoded_name_their_row(photos: Path) -> None:
    (photos / "photos/3.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"^t\.csv: line 2: image cannot be decoded \(.*<html>"):
        image_of(photos, "photos/3.png")


def test_a_tar_that_is_cut_short_later_names_the_row(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(name))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            tar.add(tmp_path / name, name)
    dataset = open_table(tmp_path, "t.tar", columns={"image": "image"})
    whole = (tmp_path / "t.tar").read_bytes()
    (tmp_path / "t.tar").write_bytes(whole[: whole.index(picture("b.png")) + 10])
    assert dataset.sample(0, np.random.default_rng(0)).images
    with pytest.raises(DataError, match=r"t\.tar: key b: 10 of \d+ bytes of the image; .*shorter"):
        dataset.sample(1, np.random.default_rng(0))
    # A new start sees that the tar has changed.
    with pytest.raises(DataError, match=r"t\.tar: not a whole tar \(unexpected end of data\)"):
        open_table(tmp_path, "t.tar", columns={"image": "image"})
