import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.answering import (
    POOLED,
    all_samples,
    collate,
    dataset,
    forward,
    objective,
    write_table,
)
from support.collating import imagenet
from support.tasks import TASKS

from renaissance import DataError
from renaissance.builtin.datasets.refcoco import RefCOCOData, RefCOCOg, RefCOCOPlus
from renaissance.builtin.objectives.refcoco import RefCOCO
from renaissance.plugins.loading import load_plugins
from renaissance.testing import check_dataset


def gradient() -> bytes:
    """Return a picture of 16 x 12 whose red is x and whose green is y."""
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[..., 0] = np.arange(16)
    pixels[..., 1] = np.arange(12)[:, None]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


BOXES = [[0.0, 0.0, 16.0, 12.0], [2.4, 3.6, 4.0, 5.0], [15.0, 11.0, 1.0, 1.0]]


def table(**columns: Any) -> dict[str, Any]:
    return {
        "image": [gradient(), gradient()],
        "sentences": [["two elephants", "a photo"], ["one"]],
        "bboxes": [BOXES, BOXES[:2]],
        "labels": [1, 0],
        **columns,
    }


@pytest.mark.parametrize("labels", [[1, 0], [1.0, 0.0]])
def test_one_sample_per_sentence_with_its_boxes(tmp_path: Path, labels: list[float]) -> None:
    for split in ("train", "val"):
        write_table(tmp_path / f"refcoco_unc_{split}.arrow", table(labels=labels))
    check_dataset(RefCOCOData, root=tmp_path)
    samples = all_samples(dataset(RefCOCOData, tmp_path))
    assert [s.text for s in samples] == ["two elephants", "a photo", "one"]
    assert [s.labels for s in samples] == [
        {"box": 1, "identifier": "0:0"},
        {"box": 1, "identifier": "0:1"},
        {"box": 0, "identifier": "1:0"},
    ]
    assert [len(s.images) for s in samples] == [3, 3, 2]
    assert samples[0].image_ids == samples[1].image_ids
    assert len({i for s in samples for i in s.image_ids}) == 5


def test_boxes_are_cut_out(tmp_path: Path) -> None:
    write_table(tmp_path / "refcoco_unc_train.arrow", table())
    images = all_samples(dataset(RefCOCOData, tmp_path))[0].images
    whole = np.zeros((12, 16, 3), np.uint8)
    whole[..., 0], whole[..., 1] = np.arange(16), np.arange(12)[:, None]
    assert [image.size for image in images] == [(16, 12), (4, 5), (1, 1)]
    for image, part in zip(images, (whole, whole[4:9, 2:6], whole[11:, 15:]), strict=True):
        assert np.array_equal(np.asarray(image), part)


def test_cut_boxes_of_pictures_with_a_palette_and_of_greys(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 12), "red")
    picture.paste("blue", (8, 0, 16, 12))
    transform = imagenet(size=8, training=False)
    for mode in ("P", "L", "RGBA"):
        file = io.BytesIO()
        picture.convert(mode).save(file, "PNG")
        boxes = [[8.0, 0.0, 8.0, 8.0]]
        row = table(image=[file.getvalue()] * 2, bboxes=[boxes] * 2, labels=[0, 0])
        write_table(tmp_path / "refcoco_unc_train.arrow", row)
        cut = all_samples(dataset(RefCOCOData, tmp_path))[0].images[0]
        expected = picture.convert(mode).convert("RGB").getpixel((12, 4))
        pixels = transform.pixels(cut, np.random.default_rng(0))
        assert (pixels == np.array(expected)[:, None, None]).all()


def test_boxes_at_the_edge_are_cut_to_the_image(tmp_path: Path) -> None:
    # A box may have no width, and reach over the edge by a rounding error.
    boxes = [[-0.4, 0.0, 3.0, 3.0], [16.0 - 0.3, 4.0, 0.0, 0.0], [10.0, 5.0, 6.7, 7.4]]
    write_table(tmp_path / "refcoco_unc_train.arrow", table(bboxes=[boxes, boxes]))
    images = all_samples(dataset(RefCOCOData, tmp_path))[0].images
    assert [np.asarray(image).shape for image in images] == [(3, 3, 3), (1, 1, 3), (7, 6, 3)]


@pytest.mark.parametrize(
    ("component", "training", "split", "file"),
    [
        (RefCOCOData, True, None, "refcoco_unc_train"),
        (RefCOCOData, False, None, "refcoco_unc_val"),
        (RefCOCOData, False, "test", "refcoco_unc_test"),
        (RefCOCOData, False, "testA", "refcoco_unc_testA"),
        (RefCOCOPlus, False, "testB", "refcoco+_unc_testB"),
        (RefCOCOPlus, True, None, "refcoco+_unc_train"),
        (RefCOCOg, False, "test", "refcocog_umd_test"),
    ],
)
def test_splits(
    tmp_path: Path, component: type, training: bool, split: str | None, file: str
) -> None:
    write_table(tmp_path / f"{file}.arrow", table())
    assert len(dataset(component, tmp_path, training, split=split)) == 3


def test_the_three_are_registered() -> None:
    registry = load_plugins().registry
    found = {name: registry.find("dataset", name) for name in ("refcoco", "refcoco+", "refcocog")}
    components = [registration and registration.component for registration in found.values()]
    assert components == [RefCOCOData, RefCOCOPlus, RefCOCOg]


def test_too_many_boxes_are_refused_at_once(tmp_path: Path) -> None:
    write_table(
        tmp_path / "refcoco_unc_train.arrow",
        table(bboxes=[BOXES[:1], BOXES[:1] * 21], labels=[0, 20]),
    )
    with pytest.raises(DataError) as error:
        dataset(RefCOCOData, tmp_path)
    assert str(error.value) == (
        "refcoco_unc_train.arrow: row 1: 21 boxes, and 1 of 2 rows have more than 20; expected at "
        "most max_boxes = 20. Raise max_boxes: 21 is enough for all rows"
    )
    made = dataset(RefCOCOData, tmp_path, max_boxes=21)
    assert len(all_samples(made)[2].images) == 21


@pytest.mark.parametrize(
    "box",
    [
        [17.0, 0.0, 1.0, 1.0],
        [0.0, 0.0, 18.0, 3.0],
        [0.0, 5.0, 3.0, 9.0],
        [-2.0, 0.0, 4.0, 4.0],
        [4.0, 4.0, -2.0, 2.0],
        [4.0, 4.0, math.nan, 2.0],
        [4.0, 4.0, None, 2.0],
        [4.0, 4.0, 2.0],
    ],
)
def test_boxes_outside_the_image(tmp_path: Path, box: list[float]) -> None:
    write_table(tmp_path / "refcoco_unc_train.arrow", table(bboxes=[BOXES, [*BOXES[:1], box]]))
    made = dataset(RefCOCOData, tmp_path)
    with pytest.raises(DataError) as error:
        made.sample(2, np.random.default_rng(0))
    assert str(error.value).startswith(
        f"refcoco_unc_train.arrow: row 1, sentence 0: box {box} does not lie in the image of "
        "16 x 12 pixels; expected x, y, width, height."
    )


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    bad = table(sentences=[["two elephants", ""], ["one"]], labels=[3, None])
    write_table(tmp_path / "refcoco_unc_train.arrow", bad)
    made = dataset(RefCOCOData, tmp_path)
    for index, message in (
        (0, r"row 0, sentence 0: column 'labels' holds 3.0; expected a whole number from 0 to 2"),
        (1, r"^refcoco_unc_train\.arrow: row 0, sentence 1: the text is ''; expected at least one"),
        (2, r"row 1, sentence 0: column 'labels' holds nan"),
    ):
        with pytest.raises(
            DataError, match=message.replace("3.0", r"3(\.0)?").replace("nan", ".*")
        ):
            made.sample(index, np.random.default_rng(0))


def test_a_damaged_image_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    whole = gradient()
    write_table(tmp_path / "refcoco_unc_train.arrow", table(image=[gradient(), whole[:-30]]))
    last = all_samples(dataset(RefCOCOData, tmp_path))[2]
    with pytest.raises(DataError, match=r"^refcoco_unc_train\.arrow: row 1.*cannot be decoded"):
        collate(objective(RefCOCO), [last])


def test_an_image_is_decoded_once_for_all_its_boxes(tmp_path: Path) -> None:
    write_table(tmp_path / "refcoco_unc_train.arrow", table())
    images = all_samples(dataset(RefCOCOData, tmp_path))[0].images
    wholes = {id(image._whole) for image in images}  # type: ignore[attr-defined]
    assert len(wholes) == 1


def test_only_real_boxes_are_paired_and_each_is_encoded_once() -> None:
    micro_batch = collate(objective(RefCOCO), TASKS["refcoco"].samples)
    pairs = micro_batch.objectives["task"].fused_pairs
    assert micro_batch.pixel_values is not None
    # The first two sentences are about the same three boxes.
    assert len(micro_batch.pixel_values) == 3 + 1 + 2
    assert pairs.text_rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3]
    assert pairs.image_rows.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5]


def test_a_single_box_is_certain_and_has_no_gradient() -> None:
    task = TASKS["refcoco"]
    made = objective(RefCOCO, head=task.head)
    batch = collate(made, task.samples).objectives["task"]
    pooled = task.pooled.clone().requires_grad_()
    forward(made, batch, pooled).loss_sum.backward()
    assert pooled.grad is not None
    assert pooled.grad.isfinite().all()
    assert pooled.grad[6].tolist() == [0.0] * POOLED
    assert pooled.grad[:6, 0].abs().min() > 0


@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ,
    reason="RENAISSANCE_SHARED_DATA names no folder of real photos",
)
def test_real_photos_and_boxes(tmp_path: Path) -> None:
    coco = Path(os.environ["RENAISSANCE_SHARED_DATA"], "coco")
    instances = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "sentences", "bboxes", "labels")}
    for image in instances["images"]:
        boxes = [a["bbox"] for a in instances["annotations"] if a["image_id"] == image["id"]]
        if boxes:
            rows["image"].append((coco / "train2017" / image["file_name"]).read_bytes())
            rows["sentences"].append(["the last one"])
            rows["bboxes"].append(boxes)
            rows["labels"].append(len(boxes) - 1)
    write_table(tmp_path / "refcocog_umd_train.arrow", rows)
    most = max(map(len, rows["bboxes"]))
    with pytest.raises(DataError, match=rf"Raise max_boxes: {most}"):
        dataset(RefCOCOg, tmp_path)
    made = dataset(RefCOCOg, tmp_path, max_boxes=most)
    for index in range(0, len(made), 8):
        read = made.sample(index, np.random.default_rng(0))
        whole = np.asarray(Image.open(io.BytesIO(rows["image"][index])).convert("RGB"))
        for (x, y, w, h), cut in zip(rows["bboxes"][index], read.images, strict=True):
            if w > 1 and h > 1:
                part = whole[round(y) : round(y + h), round(x) : round(x + w)]
                assert np.array_equal(np.asarray(cut.convert("RGB")), part)
