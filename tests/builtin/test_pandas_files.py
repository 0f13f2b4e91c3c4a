"""Files that others wrote through pandas, as ViLT and METER do, are read as they are."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from renaissance import Dataset, DatasetContext, Sample
from renaissance.builtin.datasets.coco import Coco
from renaissance.builtin.datasets.refcoco import RefCOCOData
from renaissance.builtin.datasets.vqav2 import VQAv2
from renaissance.data.arrow import ArrowTable
from renaissance.data.inspect import inspect_file


def photo(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(frame: pd.DataFrame, path: Path) -> pa.Schema:
    table = pa.Table.from_pandas(frame)
    with pa.OSFile(str(path), "wb") as sink, pa.RecordBatchFileWriter(sink, table.schema) as writer:
        writer.write_table(table)
    assert b"pandas" in table.schema.metadata
    return table.schema


def samples(made: Dataset) -> list[Sample]:
    return [made.sample(i, np.random.default_rng(0)) for i in range(len(made))]


def levels(sample: Sample) -> list[int]:
    return [image.getpixel((0, 0))[0] for image in sample.images]


# Rows numbered by pandas leave no column; rows that were chosen keep their numbers as one.
@pytest.mark.parametrize("chosen", [False, True])
def test_captions(tmp_path: Path, chosen: bool) -> None:
    rows = [[photo(n), [f"caption {n}", f"a second {n}"][: 1 + n % 2], n, "train"] for n in (3, 4)]
    frame = pd.DataFrame(rows, columns=["image", "caption", "image_id", "split"])
    # A number that is missing turns its column into floating point.
    frame["width"] = [640, None]
    if chosen:
        frame = pd.concat([frame, frame])[frame.columns].iloc[[0, 3]]
    for split in ("train", "restval"):
        path = tmp_path / f"coco_caption_karpathy_{split}.arrow"
        schema = write(frame, path)
    assert ("__index_level_0__" in schema.names) == chosen
    assert (schema.field("image_id").type, schema.field("width").type) == (pa.int64(), pa.float64())
    made = Coco(Coco.Options(), DatasetContext(root=tmp_path, seed=0, training=True))
    read = samples(made)
    assert [s.text for s in read] == ["caption 3", "a second 3", "caption 4"] * 2
    assert [levels(s) for s in read] == [[3], [3], [4]] * 2
    assert read[0].image_ids == read[1].image_ids != read[2].image_ids
    table = ArrowTable([path], ["image", "caption"], ["image_id", "width"])
    assert [table.value("image_id", row).as_py() for row in range(2)] == [3, 4]
    assert table.value("width", 0).as_py() == 640.0
    assert inspect_file(path).rows == 2


# Labels of a column that had missing values come back as floating point.
@pytest.mark.parametrize("number", [int, float])
def test_questions(tmp_path: Path, number: Any) -> None:
    rows = [
        [photo(5), ["why?", "who?"], [["yes", "no"], ["me"]], [[0, 1], [2]], [[1.0, 0.3], [0.6]]],
        [photo(6), ["what?"], [["a cat"]], [[3]], [[0.9]]],
    ]
    names = ["image", "questions", "answers", "answer_labels", "answer_scores"]
    frame = pd.DataFrame(rows, columns=names)
    frame["answer_labels"] = [
        [[number(label) for label in labels] for labels in row] for row in frame["answer_labels"]
    ]
    frame["image_id"] = np.array([11, 12], np.int64)
    frame["question_id"] = [np.array([110, 111]), np.array([120])]
    write(frame, tmp_path / "vqav2_train.arrow")
    read = samples(VQAv2(VQAv2.Options(), DatasetContext(root=tmp_path, seed=0, training=True)))
    assert [(s.text, levels(s)) for s in read] == [("why?", [5]), ("who?", [5]), ("what?", [6])]
    assert [s.labels["question_id"] for s in read] == [110, 111, 120]
    assert [s.labels["answer_labels"] for s in read] == [[0, 1], [2], [3]]
    assert [s.labels["answer_scores"] for s in read] == [[1.0, 0.3], [0.6], [0.9]]
    assert [s.labels["answers"] for s in read] == [["yes", "no"], ["me"], ["a cat"]]


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_referring_expressions(tmp_path: Path, kind: Any) -> None:
    boxes = [[0.0, 0.0, 10.0, 10.0], [5.5, 5.0, 20.0, 8.0], [30.0, 20.0, 10.0, 10.0]]
    frame = pd.DataFrame(
        {
            "image": [photo(7), photo(8)],
            "sentences": [["left one", "the left"], ["right one"]],
            "bboxes": [boxes, boxes[:2]],
            "labels": np.array([2, 1], kind),
        }
    )
    write(frame, tmp_path / "refcoco_unc_val.arrow")
    context = DatasetContext(root=tmp_path, seed=0, training=False)
    read = samples(RefCOCOData(RefCOCOData.Options(), context))
    assert [s.text for s in read] == ["left one", "the left", "right one"]
    assert [s.labels["box"] for s in read] == [2, 2, 1]
    assert [levels(s) for s in read] == [[7] * 3, [7] * 3, [8] * 2]
    assert read[0].images[0].size == (10, 10)
