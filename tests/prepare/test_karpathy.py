import hashlib
import io
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.preparing import source_of

from renaissance import DataError, DatasetContext
from renaissance.builtin.datasets.f30k import Flickr30k
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.data.open_image import ImageLimits
from renaissance.data.prepare import arrow_file, image_files
from renaissance.data.prepare.manifest import Report
from renaissance.data.prepare.writer import PrepareOptions, write_tables


def picture(file_format: str = "JPEG", level: int = 100, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (level, 0, 0)).save(file, file_format, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def entry(name: str, split: str, captions: list[str], **more: Any) -> dict[str, Any]:
    sentences = [{"raw": c, "tokens": c.split(), "imgid": 0, "sentid": 0} for c in captions]
    return {"filename": name, "split": split, "sentences": sentences, "sentids": [0], **more}


def lay_out(
    root: Path, entries: list[dict[str, Any]], dataset: str = "flickr30k", folder: str | None = None
) -> Path:
    """Write the annotations, and an image for every entry."""
    (root / "karpathy").mkdir(parents=True)
    content = {"images": entries, "dataset": dataset}
    (root / "karpathy" / f"dataset_{dataset}.json").write_text(json.dumps(content))
    for number, one in enumerate(entries):
        path = root / one.get("filepath", folder or f"{dataset}-images") / one["filename"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(level=number))
    return root


def many(count: int) -> list[dict[str, Any]]:
    return [entry(f"{i:03d}.jpg", "train", [f"caption {i}", f"again {i}"]) for i in range(count)]


def prepare(source: Path, output: Path, name: str | None = None, **options: Any) -> Report:
    prepare_options = PrepareOptions(output=output, progress=False, **options)
    return write_tables(source_of("karpathy", source, name=name), prepare_options)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with pa.memory_map(str(path)) as mapped:
        return list(pa.ipc.open_file(mapped).read_all().to_pylist())


def test_rows_hold_the_files_bytes_captions_and_names(tmp_path: Path) -> None:
    entries = [*many(9), entry("v.jpg", "val", ["b ", "a", "b "]), entry("t.jpg", "test", ["c"])]
    source = lay_out(tmp_path / "source", entries)
    report = prepare(source, tmp_path / "out")
    names = [f"f30k_caption_karpathy_{split}" for split in ("train", "val", "test")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*(f"{name}.arrow" for name in names), "f30k_caption_karpathy_manifest.json"]
    )
    train, val, test = (rows_of(tmp_path / "out" / f"{name}.arrow") for name in names)
    assert val == [
        {
            "image": (source / "flickr30k-images" / "v.jpg").read_bytes(),
            "caption": ["b ", "a", "b "],
            "image_id": "v.jpg",
            "split": "val",
        }
    ]
    assert [row["image_id"] for row in test] == ["t.jpg"]
    for row in train:
        number = int(row["image_id"][:3])
        assert row["image"] == picture(level=number)
        assert row["caption"] == [f"caption {number}", f"again {number}"]
    counts = {file: (t.rows, t.texts, t.images) for file, t in report.tables.items()}
    assert list(counts.values()) == [(9, 18, 9), (1, 3, 1), (1, 1, 1)]
    assert report.left_out == ()


def test_the_manifest_says_what_the_files_hold(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", many(5))
    report = prepare(source, tmp_path / "out", seed=3)
    manifest = json.loads(report.manifest.read_text())
    path = tmp_path / "out" / "f30k_caption_karpathy_train.arrow"
    assert manifest == {
        "name": "f30k_caption_karpathy",
        "tables": {
            path.name: {
                "table": "f30k_caption_karpathy_train",
                "rows": 5,
                "texts": 10,
                "images": 5,
                "size": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "source": str(source / "karpathy" / "dataset_flickr30k.json"),
                "seed": 3,
                "resize": None,
                "check": False,
                "max_image_pixels": 100_000_000,
                "max_image_bytes": 100_000_000,
                "version": f"renaissance {version('renaissance')}",
            }
        },
        "left_out": [],
    }


def test_rows_are_shuffled_by_the_seed_alone(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", many(40))
    files = []
    for number, seed in enumerate((0, 0, 1)):
        prepare(source, tmp_path / str(number), seed=seed)
        files.append(tmp_path / str(number) / "f30k_caption_karpathy_train.arrow")
    assert files[0].read_bytes() == files[1].read_bytes()
    orders = [[row["image_id"] for row in rows_of(file)] for file in files]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_datasets_read_what_was_prepared(tmp_path: Path) -> None:
    entries = [*many(4), entry("v.jpg", "val", ["b"])]
    prepare(lay_out(tmp_path / "source", entries), tmp_path)
    context = DatasetContext(root=tmp_path, seed=0, training=True)
    known = Flickr30k(Flickr30k.Options(), context)
    own = ImageText(ImageText.Options(files="f30k_caption_karpathy_*.arrow"), context)
    assert (len(known), len(own)) == (8, 9)
    sample = known.sample(5, np.random.default_rng(0))
    assert sample.text is not None
    assert sample.text.startswith("again")
    assert sample.images[0].size == (16, 16)


def test_coco_images_lie_in_two_folders(tmp_path: Path) -> None:
    entries = [
        entry("COCO_train2014_1.jpg", "train", ["a"], filepath="train2014"),
        entry("COCO_val2014_2.jpg", "restval", ["b"], filepath="val2014"),
        entry("COCO_val2014_3.jpg", "val", ["c"], filepath="val2014"),
    ]
    report = prepare(lay_out(tmp_path / "source", entries, "coco"), tmp_path / "out")
    assert list(report.tables) == [
        f"coco_caption_karpathy_{split}.arrow" for split in ("train", "restval", "val")
    ]
    (row,) = rows_of(tmp_path / "out" / "coco_caption_karpathy_restval.arrow")
    assert row["image"] == picture(level=1)


def test_images_are_found_in_any_folder_and_names_can_be_given(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", many(3), "mine", folder="photographs")
    assert list(prepare(source, tmp_path / "a").tables) == ["mine_caption_karpathy_train.arrow"]
    annotations = source / "karpathy" / "dataset_mine.json"
    report = prepare(annotations, tmp_path / "b", name="other")
    assert list(report.tables) == ["other_train.arrow"]


def test_unusable_images_are_left_out_and_listed(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", many(100))
    images = source / "flickr30k-images"
    (images / "003.jpg").unlink()
    (images / "005.jpg").write_bytes(picture()[:-8])
    (images / "007.jpg").write_bytes(b"")
    (images / "009.jpg").write_text("<html>404</html>")
    report = prepare(source, tmp_path / "out", max_missing=0.04)
    left_out = {Path(entry.record).name: entry.reason for entry in report.left_out}
    assert left_out == {
        "003.jpg": "no such file",
        "005.jpg": "cut short: no JPEG end mark",
        "007.jpg": "the file is empty",
        "009.jpg": "not an image that Pillow can read: it starts with b'<html>40'",
    }
    (table,) = report.tables.values()
    assert (table.rows, table.texts, table.images) == (96, 192, 96)
    rows = rows_of(tmp_path / "out" / "f30k_caption_karpathy_train.arrow")
    assert len(rows) == 96
    assert not {row["image_id"] for row in rows} & set(left_out)
    listed = json.loads(report.manifest.read_text())["left_out"]
    assert {entry["reason"] for entry in listed} == set(left_out.values())


def test_empty_captions_are_left_out_and_listed(tmp_path: Path) -> None:
    entries = [*many(10), entry("x.jpg", "train", ["a", " ", "b"]), entry("y.jpg", "train", [""])]
    source = lay_out(tmp_path / "source", entries)
    report = prepare(source, tmp_path / "out", max_missing=0.1)
    rows = rows_of(tmp_path / "out" / "f30k_caption_karpathy_train.arrow")
    assert {row["image_id"]: row["caption"] for row in rows}["x.jpg"] == ["a", "b"]
    assert "y.jpg" not in {row["image_id"] for row in rows}
    listed = [(Path(e.record).name, e.reason, e.is_row) for e in report.left_out]
    assert ("x.jpg", "caption 1 is empty", False) in listed
    assert ("y.jpg", "no caption: caption 0 is empty", True) in listed


def test_too_many_missing_images_stop_it_before_anything_is_written(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", many(100))
    for number in (4, 6):
        (source / "flickr30k-images" / f"{number:03d}.jpg").unlink()
    with pytest.raises(DataError) as error:
        prepare(source, tmp_path / "out")
    folder = source / "flickr30k-images"
    assert str(error.value) == (
        f"{source}/karpathy/dataset_flickr30k.json: 2 of 100 records cannot be used "
        f"({folder}/004.jpg: no such file; {folder}/006.jpg: no such file); expected at most the "
        "fraction 0.01 (--max-missing). Complete the images, or allow more; nothing was written"
    )
    assert not (tmp_path / "out").exists()


def test_a_failure_half_way_leaves_earlier_files_as_they_were(tmp_path: Path) -> None:
    entries = [*many(20), entry("v.jpg", "val", ["b"])]
    source = lay_out(tmp_path / "source", entries)
    prepare(source, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(before) == 3
    (source / "flickr30k-images" / "v.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 of 21 records cannot be used"):
        prepare(source, tmp_path / "out", seed=1)
    after = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    assert after == before
    # What is finished waits for the next attempt; what is not is gone.
    waiting = sorted(p.name for p in (tmp_path / "out" / "f30k_caption_karpathy.partial").iterdir())
    assert waiting == ["f30k_caption_karpathy_train.arrow", "f30k_caption_karpathy_train.json"]


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", many(3))
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(DataError, match=r"out: cannot write \(.*File exists.*another output"):
        prepare(source, tmp_path / "out")


def test_rows_are_written_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lay_out(tmp_path / "source", many(10))
    monkeypatch.setattr(arrow_file, "BATCH_ROWS", 4)
    prepare(source, tmp_path / "rows")
    monkeypatch.setattr(arrow_file, "BATCH_BYTES", len(picture()) * 3 // 2)
    prepare(source, tmp_path / "bytes")

    def batch_sizes(folder: Path) -> list[int]:
        with pa.memory_map(str(folder / "f30k_caption_karpathy_train.arrow")) as mapped:
            reader = pa.ipc.open_file(mapped)
            return [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]

    assert batch_sizes(tmp_path / "rows") == [4, 4, 2]
    assert batch_sizes(tmp_path / "bytes") == [2] * 5


def test_annotations_must_be_there_and_be_one(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no annotation file; expected one karpathy/dataset_\*\.json"
    ):
        prepare(tmp_path, tmp_path / "out")
    (tmp_path / "karpathy").mkdir()
    for name in ("coco", "flickr30k"):
        (tmp_path / "karpathy" / f"dataset_{name}.json").write_text("{}")
    with pytest.raises(DataError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert (
        "several annotation files: karpathy/dataset_coco.json, karpathy/dataset_flickr30k.json; "
        in str(error.value)
    )
    assert str(error.value).endswith("Name one of them as the source")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', r"dataset_x\.json: not valid JSON \(Expecting value at character 12"),
        ("[]", r"dataset_x\.json: no list 'images'; expected Karpathy's annotations"),
        ('{"images": []}', r"dataset_x\.json: no list 'images'"),
        ('{"images": [{"split": "val"}]}', r"images\[0\]: no 'filename'; expected an object"),
        (
            '{"images": [{"filename": "a", "split": "dev", "sentences": []}]}',
            r"images\[0\]: split 'dev'; expected one of train, restval, val, test",
        ),
        (
            '{"images": [{"filename": "a", "split": "val", "sentences": [{"text": "b"}]}]}',
            r"images\[0\]: 'sentences' is not a list of objects with 'raw'",
        ),
    ],
)
def test_annotations_of_another_form(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset_x.json").write_text(content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, tmp_path / "out")


def test_a_folder_without_the_images(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", many(2))
    for path in (source / "flickr30k-images").iterdir():
        path.unlink()
    with pytest.raises(DataError) as error:
        prepare(source, tmp_path / "out")
    assert f"{source}: no folder holds images such as 000.jpg; looked into {source}, " in str(
        error.value
    )
    assert f"expected them in {source}/flickr30k-images. Unpack" in str(error.value)


def image_fault(data: bytes) -> str | None:
    return image_files.image_fault(data, ImageLimits())


def test_whole_images_have_no_fault() -> None:
    assert image_fault(picture("JPEG")) is None
    assert image_fault(picture("JPEG", progressive=True)) is None
    assert image_fault(picture("PNG")) is None
    assert image_fault(picture("GIF")) is None
    # Some cameras and servers append bytes.
    assert image_fault(picture("JPEG") + b"\0" * 100) is None


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    exif = b"Exif\0\0" + picture()
    assert image_fault(picture("JPEG", exif=exif)) is None
    cut = picture("JPEG", exif=exif)[:-8]
    assert image_fault(cut) == "cut short: no JPEG end mark"


def test_pictures_cut_anywhere_are_at_fault() -> None:
    for file_format in ("JPEG", "PNG"):
        whole = picture(file_format)
        for length in range(0, len(whole) - 1, 7):
            cut = whole[:length]
            # What lacks its end alone has all its pixels.
            assert image_fault(cut) is not None or np.array_equal(pixels(cut), pixels(whole))


def test_real_photos_are_prepared_and_read(tmp_path: Path) -> None:
    root = os.environ.get("RENAISSANCE_SHARED_DATA")
    if root is None:
        pytest.skip("RENAISSANCE_SHARED_DATA names no folder of real photos")
    source = Path(root, "flickr8k")
    report = prepare(source, tmp_path)
    counts = [(t.rows, t.texts) for t in report.tables.values()]
    assert counts == [(1400, 7000), (300, 1500), (300, 1500)]
    assert report.left_out == ()
    annotations = json.loads((source / "karpathy" / "dataset_flickr8k.json").read_text())
    captions = {e["filename"]: [s["raw"] for s in e["sentences"]] for e in annotations["images"]}
    for split in ("train", "val", "test"):
        for row in rows_of(tmp_path / f"flickr8k_caption_karpathy_{split}.arrow"):
            assert row["caption"] == captions.pop(row["image_id"])
            assert row["image"] == (source / "flickr8k-images" / row["image_id"]).read_bytes()
    assert not captions
    context = DatasetContext(root=tmp_path, seed=0, training=True)
    dataset = ImageText(ImageText.Options(files="flickr8k_*_val.arrow"), context)
    assert len(dataset) == 1500
    sample = dataset.sample(777, np.random.default_rng(0))
    assert np.asarray(sample.images[0]).shape == (224, 224, 3)
