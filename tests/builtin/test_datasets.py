import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from renaissance import DataError, Dataset, DatasetContext
from renaissance.builtin.datasets.coco import Coco
from renaissance.builtin.datasets.f30k import Flickr30k
from renaissance.builtin.datasets.gcc import GCC
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.datasets.sbu import SBU
from renaissance.builtin.datasets.vg import VisualGenome


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (2, 2), level).save(file, "PNG")
    return file.getvalue()


def write(path: Path, captions: list[Any], **columns: list[Any]) -> Path:
    """Write a table whose image of row i is of level i, unless `image` is given."""
    images = {"image": [png(row) for row in range(len(captions))]}
    batch = pa.RecordBatch.from_pydict({**images, "caption": captions, **columns})
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)
    return path


def context(root: Path, training: bool = True) -> DatasetContext:
    return DatasetContext(root=root, seed=0, training=training)


def image_text(root: Path, files: str | tuple[str, ...], captions: str = "each") -> ImageText:
    return ImageText(ImageText.Options(files=files, captions=captions), context(root))


def texts(dataset: Dataset) -> list[str | None]:
    generator = np.random.default_rng(0)
    return [dataset.sample(index, generator).text for index in range(len(dataset))]


def level(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0])


def test_a_sample_a_caption_with_its_image(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", [["one", "two"], ["three"]], image_id=["x.jpg", "y.jpg"])
    dataset = image_text(tmp_path, "a.arrow")
    assert dataset.provides == {"text", "image"}
    samples = [dataset.sample(index, np.random.default_rng(0)) for index in range(3)]
    assert [sample.text for sample in samples] == ["one", "two", "three"]
    assert [level(sample.images[0]) for sample in samples] == [0, 0, 1]
    assert [sample.source for sample in samples] == ["a.arrow: row 0"] * 2 + ["a.arrow: row 1"]
    first, second, third = (sample.image_ids for sample in samples)
    assert first == second != third


def test_repeated_and_empty_captions_stay(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", [["b", "a", "b"], ["", None]])
    assert texts(image_text(tmp_path, "a.arrow")) == ["b", "a", "b", "", ""]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_column_of_single_captions(tmp_path: Path, kind: Any) -> None:
    write(tmp_path / "a.arrow", pa.array(["one", None, "three"], kind))
    assert texts(image_text(tmp_path, "a.arrow")) == ["one", "", "three"]
    assert texts(image_text(tmp_path, "a.arrow", "random")) == ["one", "", "three"]


def test_random_captions_are_drawn_by_the_generator(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", [["a", "b", "c", "d"], ["e"]])
    dataset = image_text(tmp_path, "a.arrow", "random")
    assert len(dataset) == 2

    def drawn(seed: int) -> str | None:
        return dataset.sample(0, np.random.default_rng(seed)).text

    assert {drawn(seed) for seed in range(50)} == {"a", "b", "c", "d"}
    assert [drawn(seed) for seed in range(20)] == [drawn(seed) for seed in range(20)]
    assert dataset.sample(1, np.random.default_rng(0)).text == "e"


def test_rows_without_captions(tmp_path: Path) -> None:
    captions = pa.array([["a"], [], None, ["b"]], pa.list_(pa.string()))
    write(tmp_path / "a.arrow", captions)
    each = image_text(tmp_path, "a.arrow")
    assert texts(each) == ["a", "b"]
    assert each.sample(1, np.random.default_rng(0)).source == "a.arrow: row 3"
    random = image_text(tmp_path, "a.arrow", "random")
    for row in (1, 2):
        with pytest.raises(DataError, match=rf"^a\.arrow: row {row}: no caption to draw from"):
            random.sample(row, np.random.default_rng(0))
    write(tmp_path / "none.arrow", pa.array([[], []], pa.list_(pa.string())))
    with pytest.raises(DataError, match=r"none\.arrow: no caption in 2 rows"):
        image_text(tmp_path, "none.arrow")


def test_image_ids_are_equal_only_for_the_same_image(tmp_path: Path) -> None:
    # Two rows of one image; a missing number as pandas writes it; a null.
    write(tmp_path / "a.arrow", ["a"] * 5, image_id=[7.0, 7.0, float("nan"), float("nan"), None])
    write(tmp_path / "b.arrow", ["b"] * 2, image_id=[7.0, 8.0])
    write(tmp_path / "c.arrow", ["c"] * 2)

    def image_ids(*files: str) -> list[Any]:
        dataset = image_text(tmp_path, files)
        generator = np.random.default_rng(0)
        return [dataset.sample(i, generator).image_ids[0] for i in range(len(dataset))]

    a, b, c = image_ids("a.arrow"), image_ids("b.arrow"), image_ids("c.arrow")
    assert a[0] == a[1]
    assert len({*a, *b, *c}) == 4 + 2 + 2
    # Within one dataset an identifier means the same image in all files.
    together = image_ids("a.arrow", "b.arrow", "c.arrow")
    assert together[0] == together[1] == together[5]
    assert len(set(together)) == 7


def test_files_by_pattern_list_and_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a_1", "a_0", "b", "deep/c"):
        write(tmp_path / f"{name}.arrow", [name])
    assert texts(image_text(tmp_path, "a_*.arrow")) == ["a_0", "a_1"]
    assert texts(image_text(tmp_path, ("b.arrow", "a_*.arrow"))) == ["b", "a_0", "a_1"]
    assert texts(image_text(tmp_path, "**/c.arrow")) == ["deep/c"]
    assert texts(image_text(tmp_path / "deep", str(tmp_path / "b.arrow"))) == ["b"]
    assert texts(image_text(tmp_path / "deep", str(tmp_path / "a_*.arrow"))) == ["a_0", "a_1"]
    write(tmp_path / "d[1].arrow", ["d"])
    assert texts(image_text(tmp_path, "d[1].arrow")) == ["d"]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "photos.arrow", ["a"])
    with pytest.raises(
        DataError, match=r"photo\.arrow: no such file.*Nearest names.*photos\.arrow"
    ):
        image_text(tmp_path, "photo.arrow")
    with pytest.raises(DataError) as error:
        image_text(tmp_path, "x_*.arrow")
    assert str(error.value) == (
        f"image-text: no file matches 'x_*.arrow' in {tmp_path}; expected Arrow files. "
        "Patterns are relative to data.root"
    )
    with pytest.raises(DataError, match="files is an empty list"):
        image_text(tmp_path, ())


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        ("flickr8k_caption_karpathy_val.arrow", "test", "flickr8k_caption_karpathy_test.arrow"),
        ("val/photos_*.arrow", "test", "test/photos_*.arrow"),
        # A word of its own, and the last one.
        ("test/contest-val2017.arrow", "train", "test/contest-train2017.arrow"),
        (("a_dev.arrow", "b_validation.arrow"), "test", ("a_test.arrow", "b_test.arrow")),
    ],
)
def test_another_split_is_in_files_of_that_name(
    tmp_path: Path, files: str | tuple[str, ...], split: str, expected: str | tuple[str, ...]
) -> None:
    for index, name in enumerate((expected,) if isinstance(expected, str) else expected):
        path = tmp_path / name.replace("*", "0")
        path.parent.mkdir(exist_ok=True)
        write(path, [[f"caption {index}"]])
    found = ImageText(ImageText.Options(files=files, split=split), context(tmp_path))
    assert texts(found) == [f"caption {index}" for index in range(len(found))]
    assert len(found) == (1 if isinstance(expected, str) else 2)


def test_a_split_that_no_file_name_tells(tmp_path: Path) -> None:
    write(tmp_path / "photos.arrow", [["a"]])
    options = ImageText.Options(files="photos.arrow", split="test")
    with pytest.raises(DataError, match=r"'photos.arrow' says of no split .* such as photos_val"):
        ImageText(options, context(tmp_path))


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", [1, 2])
    with pytest.raises(
        DataError, match=r"a\.arrow: column 'caption' is int64; expected strings or"
    ):
        image_text(tmp_path, "a.arrow")
    write(tmp_path / "b.arrow", ["a"], image=["photo.jpg"])
    with pytest.raises(DataError, match=r"b\.arrow: column 'image' is string; expected binary"):
        image_text(tmp_path, "b.arrow")


def test_unreadable_images_name_file_and_row(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", ["a", "b", "c"], image=[png(0), b"not an image", None])
    dataset = image_text(tmp_path, "a.arrow")
    generator = np.random.default_rng(0)
    with pytest.raises(DataError, match=r"^a\.arrow: row 1: image cannot be decoded"):
        dataset.sample(1, generator)
    with pytest.raises(DataError, match=r"^a\.arrow: row 2: image is null"):
        dataset.sample(2, generator)
    assert level(dataset.sample(0, generator).images[0]) == 0
    with pytest.raises(IndexError):
        dataset.sample(3, generator)


def test_datasets_survive_pickling(tmp_path: Path) -> None:
    for name in ("train", "restval"):
        write(tmp_path / f"coco_caption_karpathy_{name}.arrow", [[name]])
    for dataset in (image_text(tmp_path, "*train.arrow"), Coco(Coco.Options(), context(tmp_path))):
        copy = pickle.loads(pickle.dumps(dataset))
        assert type(copy) is type(dataset)
        assert texts(copy) == texts(dataset)


COCO_FILES = [f"coco_caption_karpathy_{split}" for split in ("train", "restval", "val", "test")]
F30K_FILES = [f"f30k_caption_karpathy_{split}" for split in ("train", "val", "test")]
GCC_FILES = [f"conceptual_caption_train_{n}" for n in range(12)] + ["conceptual_caption_val_0"]
SBU_FILES = [f"sbu_{number}" for number in range(11)]


@pytest.mark.parametrize(
    ("component", "split", "training", "files"),
    [
        (Coco, None, True, COCO_FILES[:2]),
        (Coco, None, False, COCO_FILES[2:3]),
        (Coco, "test", False, COCO_FILES[3:]),
        (Coco, "validate", True, COCO_FILES[2:3]),
        (Flickr30k, None, True, F30K_FILES[:1]),
        (Flickr30k, None, False, F30K_FILES[1:2]),
        (Flickr30k, "test", False, F30K_FILES[2:]),
        (VisualGenome, None, True, ["vg"]),
        # By number, not by name: 10 comes after 9.
        (SBU, None, True, SBU_FILES),
        (GCC, None, True, GCC_FILES[:-1]),
        (GCC, None, False, GCC_FILES[-1:]),
    ],
)
def test_known_datasets_find_their_files(
    tmp_path: Path, component: Any, split: Any, training: bool, files: list[str]
) -> None:
    for name in (*COCO_FILES, *F30K_FILES, *GCC_FILES, *SBU_FILES, "vg"):
        write(tmp_path / f"{name}.arrow", [[name]])
    dataset = component(component.Options(split=split), context(tmp_path, training))
    assert texts(dataset) == files


@pytest.mark.parametrize("component", [SBU, GCC])
def test_file_names_that_need_not_be_unique_identify_nothing(
    tmp_path: Path, component: Any
) -> None:
    for name in ("sbu_0", "conceptual_caption_train_0"):
        write(tmp_path / f"{name}.arrow", ["a", "b"], image_id=["0.jpg", "0.jpg"])
    dataset = component(component.Options(), context(tmp_path))
    first, second = (dataset.sample(i, np.random.default_rng(0)).image_ids for i in range(2))
    assert first != second


@pytest.mark.parametrize("column", [pa.array([5, 6], pa.int64()), pa.array([5, 6], pa.float64())])
def test_visual_genome_numbers_come_as_integers_or_floats(tmp_path: Path, column: Any) -> None:
    boxes = [[1, 2], [3]]
    write(tmp_path / "vg.arrow", [["a tree", "a car"], ["a cat"]], image_id=column, x=boxes)
    dataset = VisualGenome(VisualGenome.Options(), context(tmp_path))
    assert texts(dataset) == ["a tree", "a car", "a cat"]
    ids = [dataset.sample(i, np.random.default_rng(0)).image_ids for i in range(3)]
    assert ids[0] == ids[1] != ids[2]


def test_splits_that_a_dataset_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        VisualGenome(VisualGenome.Options(), context(tmp_path, training=False))
    assert str(error.value) == (
        "vg: no split 'validate'; it has train. Set split = 'train', or use vg under "
        "[[data.train]] only"
    )
    with pytest.raises(DataError, match="gcc: no split 'test'; it has train, validate"):
        GCC(GCC.Options(split="test"), context(tmp_path))


def test_gaps_in_a_series_of_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sbu_0\.arrow: no such file; 0 of its series are there"):
        SBU(SBU.Options(), context(tmp_path))
    for number in (0, 1, 3):
        write(tmp_path / f"sbu_{number}.arrow", ["a"])
    with pytest.raises(DataError, match=r"sbu_2\.arrow: no such file; 3 of its series are there"):
        SBU(SBU.Options(), context(tmp_path))


def test_a_missing_restval_file_is_no_smaller_dataset(tmp_path: Path) -> None:
    write(tmp_path / "coco_caption_karpathy_train.arrow", ["a"])
    with pytest.raises(DataError, match=r"coco_caption_karpathy_restval\.arrow: no such file"):
        Coco(Coco.Options(), context(tmp_path))
