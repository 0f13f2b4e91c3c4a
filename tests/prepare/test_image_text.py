import csv
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.preparing import source_of

from renaissance import DataError, DatasetContext
from renaissance.arrow import TableSplit
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.datasets.table import Table
from renaissance.data.prepare.manifest import Report
from renaissance.data.prepare.writer import PrepareOptions, write_tables
from renaissance.limits import ReadLimits, reading_within
from renaissance.prepare import tar_records

# Two captions of one image follow each other; a list; a number where a text belongs.
LINES = [("a/0.png", "zero"), ("a/0.png", "again"), ("1.png", ["one", "uno"]), ("2.png", "two")]
EXPECTED = {"a/0.png": ["zero", "again"], "1.png": ["one", "uno"], "2.png": ["two"]}


def picture(level: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def prepare(source: Path | str, output: Path, **options: Any) -> Report:
    return write_tables(
        source_of("image-text", source, **options),
        PrepareOptions(output=output, progress=False, max_missing=0.7),
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    with pa.memory_map(str(path)) as mapped:
        return list(pa.ipc.open_file(mapped).read_all().to_pylist())


def captions_of(path: Path) -> dict[str, list[str]]:
    return {row["image_id"]: row["caption"] for row in rows_of(path)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    for number, name in enumerate(("a/0.png", "1.png", "2.png")):
        (folder / name).write_bytes(picture(number))
    return folder


def write_captions(folder: Path, kind: str) -> Path:
    path = folder / f"captions.{kind}"
    flat = [(i, c) for i, cs in LINES for c in (cs if isinstance(cs, list) else [cs])]
    if kind == "jsonl":
        lines = (json.dumps({"file_name": image, "text": caption}) for image, caption in LINES)
        path.write_text("\n\n".join(lines))
    elif kind == "parquet":
        lists = [c if isinstance(c, list) else [c] for _, c in LINES]
        pq.write_table(pa.table({"image": [i for i, _ in LINES], "captions": lists}), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([("filepath", "title"), *flat])
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_captions_files(images: Path, tmp_path: Path, kind: str) -> None:
    path = write_captions(images, kind)
    report = prepare(images, tmp_path / "out")
    assert captions_of(tmp_path / "out" / "image_text_0.arrow") == EXPECTED
    (table,) = report.tables.values()
    assert (table.rows, table.texts) == (3, 5)
    prepare(path, tmp_path / "named", name="mine")
    assert captions_of(tmp_path / "named" / "mine_0.arrow") == EXPECTED
    context = DatasetContext(root=tmp_path / "named", seed=0, training=True)
    dataset = ImageText(ImageText.Options(files="mine_*.arrow"), context)
    texts = {dataset.sample(i, np.random.default_rng(0)).text for i in range(len(dataset))}
    assert texts == {"zero", "again", "one", "uno", "two"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_addresses_are_read_through_fsspec(images: Path, tmp_path: Path, kind: str) -> None:
    write_captions(images, kind)
    prepare(f"file://{images}/captions.{kind}", tmp_path / "out")
    assert captions_of(tmp_path / "out" / "image_text_0.arrow") == EXPECTED
    prepare(f"file://{images}/", tmp_path / "folder")
    assert captions_of(tmp_path / "folder" / "image_text_0.arrow") == EXPECTED


def test_addresses_without_fsspec_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataError, match=r"s3://b/x\.jsonl: cannot be .*pip install fsspec"):
        prepare("s3://b/x.jsonl", tmp_path / "out")


def test_images_that_are_missing_and_captions_that_are_empty(images: Path, tmp_path: Path) -> None:
    (images / "2.png").unlink()
    lines = [{"image": "1.png", "caption": ["a", ""]}, {"image": "2.png", "caption": "b"}]
    lines += [{"image": "a/0.png", "caption": None}, {"image": "a/0.png", "caption": "c"}]
    (images / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = prepare(images, tmp_path / "out")
    assert captions_of(tmp_path / "out" / "image_text_0.arrow") == {
        "1.png": ["a"],
        "a/0.png": ["c"],
    }
    path = images / "c.jsonl"
    assert [(e.record, e.reason) for e in report.left_out] == [
        (f"{images}/1.png ({path}: line 1)", "caption 1 is empty"),
        (f"{images}/2.png ({path}: line 2)", "no such file"),
        (f"{images}/a/0.png ({path}: line 3)", "caption 0 is not text but NoneType"),
    ]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_missing_or_damaged_image_is_named_with_its_line(
    images: Path, tmp_path: Path, kind: str
) -> None:
    path = write_captions(images, kind)
    (images / "1.png").write_bytes(b"")
    (images / "2.png").unlink()
    report = prepare(images, tmp_path / "out")
    # Counted from 0 without the header; two captions of an image are two lines of text.
    places = ("row 3", "row 2") if kind == "parquet" else ("line 6", "line 4")
    assert [(e.record, e.reason) for e in report.left_out] == [
        (f"{images}/2.png ({path}: {places[0]})", "no such file"),
        (f"{images}/1.png ({path}: {places[1]})", "the file is empty"),
    ]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_nul_characters_are_left_out(images: Path, tmp_path: Path, kind: str) -> None:
    rows = [("image", "caption"), ("1.png", "z\0e\0r\0o"), ("1.png", "one"), ("2\0.png", "two")]
    separator = "," if kind == "csv" else "\t"
    lines = [separator.join(row) for row in rows]
    if kind == "jsonl":
        lines = [json.dumps({"image": image, "text": text}) for image, text in rows[1:]]
    (images / f"c.{kind}").write_text("\n".join(lines))
    report = prepare(images, tmp_path / "out")
    assert captions_of(tmp_path / "out" / "image_text_0.arrow") == {"1.png": ["one"]}
    reasons = [entry.reason for entry in report.left_out]
    assert reasons == ["caption 0 has a NUL character", "no such file"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(
    ("encoding", "line", "fault"),
    [
        ("latin-1", 3, "invalid continuation byte at byte"),
        ("utf-16", 1, "invalid start byte at byte 0"),
    ],
)
def test_a_line_that_is_not_utf_8_is_named(
    images: Path, tmp_path: Path, kind: str, encoding: str, line: int, fault: str
) -> None:
    separator = "," if kind == "csv" else "\t"
    rows = [("image", "caption"), ("1.png", "one"), ("2.png", "caf\u00e9 noir")]
    lines = [separator.join(row) for row in rows]
    if kind == "jsonl":
        lines = [
            "",
            *(json.dumps({"image": i, "text": t}, ensure_ascii=False) for i, t in rows[1:]),
        ]
    path = images / f"c.{kind}"
    path.write_bytes("\n".join(lines).encode(encoding))
    with pytest.raises(DataError) as error:
        prepare(images, tmp_path / "out")
    message = f"{path}: cannot be read (line {line}: not UTF-8: {fault}"
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_breaks_of_any_system(images: Path, tmp_path: Path, newline: str) -> None:
    rows = ["image,caption", '1.png,"a ""red"" dog,\nand a cat"', "", "2.png,two", ""]
    (images / "c.csv").write_text(newline.join(rows), newline="")
    prepare(images, tmp_path / "out")
    assert captions_of(tmp_path / "out" / "image_text_0.arrow") == {
        "1.png": ['a "red" dog,\nand a cat'],
        "2.png": ["two"],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "photo,caption\nx,y\n", r"line 2: has photo, caption; expected one of image, "),
        ("c.csv", "image,words\nx,y\n", r"expected one of caption, captions, text, title\. Rename"),
        ("c.jsonl", '{"image": 3, "text": "x"}', r"line 1: image is 3; expected the path"),
        ("c.jsonl", "{", r"c\.jsonl: cannot be read \(line 1, column 2: Expecting property name"),
        (
            "c.jsonl",
            '{"image": "1.png", "text": "x"}\n\n{"image": "1.png", "text": "x}\n',
            r"c\.jsonl: cannot be read \(line 3, column 31: Invalid control",
        ),
        ("c.jsonl", "[1]", r"c\.jsonl: cannot be read \(line 1 is not an object\)"),
        ("c.parquet", "PAR1", r"c\.parquet: cannot be read \("),
        ("c.tar", "no tar at all" * 100, r"c\.tar: not a whole tar"),
        ("c.txt", "", r"none; expected one captions file \(\.jsonl, \.csv, \.tsv, \.parquet\)"),
    ],
)
def test_sources_of_another_form(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, tmp_path / "out")


def test_quotation_marks_in_tsv_files_are_text(images: Path, tmp_path: Path) -> None:
    captions = ['"a dog', 'a 6" plank', '"Stop" on a sign', 'so called "art"', '"quoted"', 'end "']
    lines = [f"1.png\t{caption}\n" for caption in captions]
    (images / "c.tsv").write_text("image\tcaption\n" + "".join(lines))
    prepare(images, tmp_path / "out")
    assert captions_of(tmp_path / "out" / "image_text_0.arrow") == {"1.png": captions}


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        (
            "csv",
            ["1.png,a dog", "1.png,a dog, a cat, and a bird"],
            "line 3: 4 fields; expected 2: image, caption. Put a text with commas or line "
            "breaks in quotation marks",
        ),
        # The line of the file, which is not the row: a quoted text may have several lines.
        (
            "csv",
            ['1.png,"a dog\nand a cat"', "1.png,one,"],
            "line 4: 3 fields; expected 2: image, caption. Put a text with commas or line "
            "breaks in quotation marks",
        ),
        (
            "tsv",
            ["1.png\ta dog\ta cat"],
            "line 2: 3 fields; expected 2: image, caption. Remove the tabs and line "
            "breaks within texts",
        ),
        (
            "csv",
            ["1.png,one", "2.png"],
            "line 3: 1 field; expected 2: image, caption. Put a text with commas or line breaks in "
            "quotation marks",
        ),
        (
            "tsv",
            ["1.png\ta dog", "and a cat", "2.png\ttwo"],
            "line 3: 1 field; expected 2: image, caption. Remove the tabs and line breaks within "
            "texts",
        ),
        (
            "csv",
            ['1.png,"a dog', "1.png,one", "1.png,two"],
            "cannot be read (line 4: unexpected end of data); expected a captions file. Correct "
            "it, or write it again",
        ),
        (
            "csv",
            ['1.png,"a dog', '1.png,"one"', "1.png,two"],
            "cannot be read (line 3: ',' expected after '\"'); expected a captions file. Correct "
            "it, or write it again",
        ),
    ],
)
def test_rows_that_do_not_fit_the_header_are_named(
    images: Path, tmp_path: Path, kind: str, rows: list[str], message: str
) -> None:
    path = images / f"c.{kind}"
    header = "image\tcaption" if kind == "tsv" else "image,caption"
    path.write_text("\n".join([header, *rows]) + "\n")
    with pytest.raises(DataError) as error:
        prepare(images, tmp_path / "out")
    assert str(error.value) == f"{path}: {message}"


def test_a_column_that_occurs_twice_is_named(images: Path, tmp_path: Path) -> None:
    (images / "c.csv").write_text("image,caption,caption\n1.png,one,two\n")
    with pytest.raises(DataError, match="line 1: columns image, caption, caption; expected each"):
        prepare(images, tmp_path / "out")


def test_several_captions_files_must_be_told_apart(images: Path, tmp_path: Path) -> None:
    write_captions(images, "csv")
    write_captions(images, "jsonl")
    with pytest.raises(DataError, match=r"several captions files: .*csv, .*jsonl; .*Name one"):
        prepare(images, tmp_path / "out")


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_tars(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(
        shards / "b.tar",
        [
            ("x/1.txt", b"one"),
            ("x/1.png", picture(1)),
            ("x/1.json", b'{"caption": "other"}'),
            ("x/2.seg.png", b"no image of the sample"),
            ("x/2.png", picture(2)),
            ("x/2.json", json.dumps({"caption": ["two", "zwei"]}).encode()),
        ],
    )
    write_tar(
        shards / "a.tar",
        [
            ("3.png", picture(3)),
            ("3.txt", b"\xff\xfe"),
            ("4.txt", b"no image"),
            ("5.png", picture(5)),
            ("5.json", b'{"text": "five"}'),
        ],
    )
    report = prepare(shards, tmp_path / "out")
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out" / "image_text_0.arrow")}
    assert {name: row["caption"] for name, row in rows.items()} == {
        "x/1.png": ["one"],
        "x/2.png": ["two", "zwei"],
        "5.png": ["five"],
    }
    assert rows["x/2.png"]["image"] == picture(2)
    assert rows["5.png"]["image"] == picture(5)
    read = "an image (jpg, jpeg, png, webp, gif, bmp, tif, tiff, jp2, avif, ppm), txt, json and cls"
    assert [(e.reason, e.is_row) for e in report.left_out] == [
        ("caption 0 is not valid Unicode", False),
        ("no caption: caption 0 is not valid Unicode", True),
        ("no image among txt", True),
        (f"1 file that is not read; expected {read} of each sample", False),
    ]
    assert report.left_out[-1].record == f"{shards}/b.tar: *.seg.png"
    for source in (f"{shards}/*.tar", f"file://{shards}/*.tar", f"file://{shards}"):
        other = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        prepare(source, other)
        files = [folder / "image_text_0.arrow" for folder in (tmp_path / "out", other)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_files_of_a_tar_that_are_not_read_are_counted(tmp_path: Path) -> None:
    members = [
        (f"{i}.{kind}", picture(i) if kind == "png" else b"text")
        for i in range(3)
        for kind in ("png", "heic", "txt", "npy", "jpg")
    ]
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("3.txt"), io.BytesIO(b""))
        link = tarfile.TarInfo("3.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0.png"
        tar.addfile(link)
    report = prepare(path, tmp_path / "out")
    counts = {entry.record.rpartition(" *.")[2]: entry.reason for entry in report.left_out[1:]}
    assert {kind: reason.partition(";")[0] for kind, reason in counts.items()} == {
        "heic": "3 files that are not read",
        "npy": "3 files that are not read",
        "jpg": "3 files that are not read",
        "png (a link)": "1 file that is not read",
    }
    assert report.left_out[0].reason == "no image among txt, png (a link)"
    assert [entry.is_row for entry in report.left_out] == [True, False, False, False, False]
    assert len(rows_of(tmp_path / "out" / "image_text_0.arrow")) == 3


def test_the_reason_why_a_sample_of_a_tar_is_left_out_is_the_true_one(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [
            *(("0.png", picture()), ("0.txt", b"one")),
            *(("1.heic", b""), ("1.txt", b"one")),
            ("2.png", picture()),
            *(("3.png", picture()), ("3.json", b'{"label": "dog", "url": "http://x"}')),
            *(("4.png", picture()), ("4.json", b"[]")),
            *(("5.png", picture()), ("5.txt", b" ")),
            *(("6.png", picture()), ("6.json", b'{"caption": null}')),
            *(("7.png", picture()), ("7.json", b'{"caption": ')),
            *(("8.tiff", picture()), ("8.json", b'{"text": "a"}')),
            *(("9.png", b""), ("9.txt", b"a")),
        ],
    )
    options = PrepareOptions(output=tmp_path / "out", progress=False, max_missing=1)
    entries = [e for e in write_tables(source_of("image-text", path), options).left_out if e.is_row]
    assert [entry.reason for entry in entries] == [
        "no image among heic, txt",
        "no txt or json among png",
        "no txt, and no caption or text in json, which has label, url",
        "no txt, and no caption or text in json, which is not an object",
        "no caption: caption 0 is empty",
        "no caption: caption 0 is not text but NoneType",
        "json: not valid JSON (Expecting value: line 1 column 13 (char 12))",
        "the file is empty",
    ]
    assert len(rows_of(tmp_path / "out" / "image_text_0.arrow")) == 2


def test_further_keys_of_a_tar_are_kept(tmp_path: Path) -> None:
    def members(key: int, **fields: object) -> list[tuple[str, bytes]]:
        return [(f"{key}.png", picture(key)), (f"{key}.json", json.dumps(fields).encode())]

    path = write_tar(
        tmp_path / "a.tar",
        [
            *members(1, caption="one", split="train", label="dog", score=1),
            ("2.cls", b"7"),
            *members(2, caption="two", text="zwei", split="val", score=0.5),
            ("3.txt", b"three"),
            *members(3, caption="of the text file", split="val"),
        ],
    )
    prepare(path, tmp_path / "out")
    splits = ("train", "val")
    found = {split: rows_of(tmp_path / f"out/image_text_{split}_0.arrow") for split in splits}
    rows = {row["image_id"]: row for of_split in found.values() for row in of_split}
    assert [len(of_split) for of_split in found.values()] == [1, 2]
    assert {name: row["caption"] for name, row in rows.items()} == {
        "1.png": ["one"],
        "2.png": ["two"],
        "3.png": ["three"],
    }
    further = ("label", "score", "cls", "text")
    assert [[rows[f"{i}.png"][name] for name in further] for i in (1, 2, 3)] == [
        ["dog", 1.0, None, None],
        [None, 0.5, 7, "zwei"],
        [None, None, None, None],
    ]
    prepare(path, tmp_path / "dropped", drop=("split", "label", "cls", "text", "score"))
    assert len(rows_of(tmp_path / "dropped/image_text_0.arrow")) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"box": {"x": 1}}, "a.tar: 1: column 'box' is dict; expected text, a number"),
        ({"image": "1.jpg"}, "a.tar: 1: 'image' has the name of a column that is written for"),
        ({"split": 3}, "a.tar: 1: column 'split' is 3; expected the name of one split"),
    ],
)
def test_keys_of_a_tar_that_cannot_be_kept_are_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    content = json.dumps({"caption": "one", **fields}).encode()
    path = write_tar(tmp_path / "a.tar", [("1.png", picture(1)), ("1.json", content)])
    with pytest.raises(DataError) as error:
        prepare(path, tmp_path / "out")
    assert message in str(error.value)
    prepare(path, tmp_path / "out", drop=tuple(fields))


def test_a_sample_of_a_tar_with_damaged_json_is_left_out(tmp_path: Path) -> None:
    members = [("1.png", picture(1)), ("1.txt", b"one"), ("1.json", b'{"label": ')]
    path = write_tar(tmp_path / "a.tar", [*members, ("2.png", picture(2)), ("2.txt", b"two")])
    report = prepare(path, tmp_path / "out")
    (left_out,) = report.left_out
    assert left_out.record == f"{path}: 1"
    assert left_out.reason.startswith("json: not valid JSON (Expecting value")


def test_a_tar_cut_short_is_refused(tmp_path: Path) -> None:
    members = [(f"{i}.{kind}", picture(i) if kind == "png" else b"text") for i in range(20)
               for kind in ("txt", "png")]  # fmt: skip
    path = write_tar(tmp_path / "a.tar", members)
    whole = path.read_bytes()
    place = whole.index(picture(19)) + 10
    path.write_bytes(whole[:place])
    with pytest.raises(DataError, match=r"a\.tar: not a whole tar \(unexpected end of data\)"):
        prepare(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("0.txt", "txt: 8,589,934,592 bytes; expected at most 16,777,216 (--max-record-bytes)"),
        (
            "0.jpg",
            "image file of more than 100000000 bytes, the limit (--max-image-bytes). Compress it, "
            "or raise the limit",
        ),
    ],
)
def test_a_tar_member_of_eight_gigabytes_is_left_out(
    tmp_path: Path, name: str, reason: str
) -> None:
    size = 8 << 30
    whole = [("1.png", picture()), ("1.txt", b"one")]
    other = ("0.txt", b"a") if name == "0.jpg" else ("0.jpg", b"")
    path = write_tar(tmp_path / "a.tar", [*whole, other, (name, b"")])
    with path.open("r+b") as file:
        place = file.read().index(name.encode())
        info = tarfile.TarInfo(name)
        info.size = size
        header = info.tobuf()
        file.seek(place)
        file.write(header)
        # A file with a hole takes no room on the disk.
        file.truncate(place + size + 4096)
    with reading_within(ReadLimits(of_command=True)):
        (entry,) = prepare(path, tmp_path / "out").left_out
    start = ": 0" if name == "0.txt" else f" at byte {place + len(header)}"
    assert (entry.record, entry.reason) == (f"{path}{start}", reason)


def test_a_tar_header_of_eight_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 8 << 30
        with path.open("wb") as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.truncate((8 << 30) + 2048)
        with pytest.raises(DataError, match=r"a\.tar: a header or text of 8,589,934,592 bytes at"):
            list(tar_records("t", str(path)))


def test_tar_headers_that_describe_headers_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 512
    path = tmp_path / "a.tar"
    path.write_bytes((info.tobuf() + b"10 path=ab\n".ljust(512, b"\0")) * 5000)
    with pytest.raises(DataError, match=r"a\.tar: not a whole tar \("):
        list(tar_records("t", str(path)))


# --- further columns, splits ---


def write_csv(folder: Path, *lines: str) -> Path:
    path = folder / "c.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_that_are_not_known_are_kept(images: Path, tmp_path: Path) -> None:
    path = write_csv(
        images,
        "image,caption,label,note",
        "a/0.png,zero,dog,",
        "a/0.png,again,dog,",
        "1.png,one,cat,x",
        "2.png,two,,y",
    )
    prepare(path, tmp_path / "out")
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out/image_text_0.arrow")}
    assert list(rows["1.png"]) == ["image", "caption", "image_id", "split", "label", "note"]
    assert [rows[name]["label"] for name in ("a/0.png", "1.png", "2.png")] == ["dog", "cat", ""]
    assert rows["2.png"]["note"] == "y"
    prepare(path, tmp_path / "dropped", drop=("note",))
    assert "note" not in rows_of(tmp_path / "dropped/image_text_0.arrow")[0]


def test_further_columns_keep_their_types(images: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"image": "1.png", "text": "one", "n": 1, "x": 1, "tags": ["a"], "ok": True, "no": None},
        {"image": "2.png", "text": "two", "x": 0.5, "tags": [], "late": "z"},
    ]
    (images / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare(images / "c.jsonl", tmp_path / "out")
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out/image_text_0.arrow")}
    names = ("n", "x", "tags", "ok", "no", "late")
    assert [rows["1.png"][name] for name in names] == [1, 1.0, ["a"], True, None, None]
    assert [rows["2.png"][name] for name in names] == [None, 0.5, None, None, None, "z"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["1.png,one,a", "1.png,uno,b"],
            "c.csv: line 3: column 'label' is 'b', but 'a' for another caption of the same image",
        ),
        (
            [{"label": 1}, {"label": "x"}],
            "c.jsonl: line 2: column 'label' is 'x', string, but int64 in the lines before",
        ),
        ([{"label": {"a": 1}}], "c.jsonl: line 1: column 'label' is dict; expected text, a"),
        ([{"label": ["a", 1]}], "c.jsonl: line 1: column 'label' is list; expected text, a"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused_by_name(
    images: Path, tmp_path: Path, lines: list[Any], message: str
) -> None:
    if isinstance(lines[0], str):
        path = write_csv(images, "image,caption,label", *lines)
    else:
        path = images / "c.jsonl"
        whole = [{"image": f"{i + 1}.png", "text": "t", **line} for i, line in enumerate(lines)]
        path.write_text("\n".join(map(json.dumps, whole)))
    with pytest.raises(DataError) as error:
        prepare(path, tmp_path / "out")
    assert f"{images}/{message}" in str(error.value)
    assert "Leave the column out with --drop label, or use the dataset `table`" in str(error.value)
    prepare(path, tmp_path / "out", drop=("label",))


def prepare_splits(source: Path, output: Path, *splits: str, **options: Any) -> dict[str, set[str]]:
    """Prepare splits; return the images in each file."""
    made = source_of("image-text", source, splits, **options)
    report = write_tables(made, PrepareOptions(output=output, progress=False))
    for name in report.tables:
        split = name.removeprefix("image_text_").removesuffix("_0.arrow")
        assert {row["split"] for row in rows_of(output / name)} == {split}
    return {name: set(captions_of(output / name)) for name in report.tables}


def test_a_column_of_splits_makes_files_of_each(images: Path, tmp_path: Path) -> None:
    path = write_csv(
        images, "image,caption,split", "a/0.png,zero,train", "1.png,one,test", "2.png,two,train"
    )
    train, test = "image_text_train_0.arrow", "image_text_test_0.arrow"
    assert prepare_splits(path, tmp_path / "all") == {train: {"a/0.png", "2.png"}, test: {"1.png"}}
    assert prepare_splits(path, tmp_path / "one", "test") == {test: {"1.png"}}
    with pytest.raises(DataError, match=r"c\.csv: no split 'val'; it has test, train\. Choose one"):
        prepare_splits(path, tmp_path / "none", "val")
    with pytest.raises(DataError, match=r"has a column split, and --hold-out is given; expected"):
        prepare_splits(path, tmp_path / "none", hold_out=0.5)
    assert captions_of_dropped(path, tmp_path / "dropped") == {"a/0.png", "1.png", "2.png"}


def captions_of_dropped(path: Path, output: Path) -> set[str]:
    prepare(path, output, drop=("split",))
    return set(captions_of(output / "image_text_0.arrow"))


@pytest.mark.parametrize("split", ["", "../x", "a b"])
def test_splits_that_cannot_be_names_of_files(images: Path, tmp_path: Path, split: str) -> None:
    path = write_csv(images, "image,caption,split", f"1.png,one,{split}")
    with pytest.raises(DataError, match=r"line 2: column 'split' is '.*'; expected the name of"):
        prepare(path, tmp_path / "out")
    path = write_csv(images, "image,caption,split", "1.png,one,val", "1.png,uno,train")
    with pytest.raises(DataError, match=r"column 'split' is '(val', 'train|train', 'val)'; exp"):
        prepare(path, tmp_path / "out")


def test_held_out_images_are_those_that_a_table_holds_out(tmp_path: Path) -> None:
    names = [f"p/{number}.png" for number in range(40)]
    (tmp_path / "p").mkdir()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(number))
    write_csv(tmp_path, "image,caption", *(f"{name},x" for name in names))
    files = prepare_splits(tmp_path / "c.csv", tmp_path / "out", hold_out=0.25)
    train, held_out = (files[f"image_text_{split}_0.arrow"] for split in ("train", "val"))
    assert train | held_out == set(names)
    assert 4 < len(held_out) < 16
    write_csv(tmp_path, "image,caption", *(f"./{name},x" for name in reversed(names)))
    again = prepare_splits(tmp_path / "c.csv", tmp_path / "again", "val", hold_out=0.25)
    assert again == {"image_text_val_0.arrow": {f"./{name}" for name in held_out}}
    table = Table(
        Table.Options(
            files="c.csv",
            columns={"image": "image"},
            split=TableSplit(hold_out=0.25, side="held-out"),
            cache=str(tmp_path / "cache"),
        ),
        DatasetContext(root=tmp_path, seed=3, training=True),
    )
    rows = [table.sample(index, np.random.default_rng(0)) for index in range(len(table))]
    assert {str(Path(str(r.image_ids[0])).relative_to(tmp_path)) for r in rows} == held_out
