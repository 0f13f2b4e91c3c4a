"""Preparation of real files, in the layouts of the official downloads."""

import hashlib
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.preparing import prepare

from renaissance.builtin.sources.vqa_answers import normalize_answer
from renaissance.data.prepare.manifest import Report

DATA = os.environ.get("RENAISSANCE_SHARED_DATA")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="RENAISSANCE_SHARED_DATA names no folder of real photos"
)


def write(name: str, source: Path, output: Path) -> Report:
    return prepare(name, source, output, workers=2, check=True)


def rows_of(output: Path, name: str) -> list[dict[str, Any]]:
    with pa.memory_map(str(output / f"{name}.arrow")) as mapped:
        return list(pa.ipc.open_file(mapped).read_all().to_pylist())


def test_coco(tmp_path: Path) -> None:
    source = Path(str(DATA), "coco")
    report = write("coco", source, tmp_path)
    assert report.left_out == ()
    counts = {name: t.rows for name, t in report.tables.items()}
    assert counts == {"coco_caption_train2017.arrow": 80, "coco_caption_val2017.arrow": 79}
    for split in ("train2017", "val2017"):
        annotations = json.loads((source / f"annotations/captions_{split}.json").read_text())
        expected: dict[int, list[str]] = {}
        for annotation in annotations["annotations"]:
            expected.setdefault(annotation["image_id"], []).append(annotation["caption"])
        for row in rows_of(tmp_path, f"coco_caption_{split}"):
            assert row["caption"] == expected.pop(int(Path(row["image_id"]).stem))
            assert row["image"] == (source / split / row["image_id"]).read_bytes()
        assert not expected


def test_snli_ve(tmp_path: Path) -> None:
    report = write("snli-ve", Path(str(DATA), "snli_ve"), tmp_path)
    assert report.left_out == ()
    texts = {name: t.texts for name, t in report.tables.items()}
    assert texts == {"snli_train.arrow": 2569, "snli_dev.arrow": 648}
    assert sum(t.rows for t in report.tables.values()) == 233


def test_vqa_v2(tmp_path: Path) -> None:
    source = Path(str(DATA), "vqa_v2")
    report = write("vqav2", source, tmp_path)
    classes = json.loads((tmp_path / "vqav2_answers.json").read_text())
    annotations = [
        annotation
        for split in ("train", "val")
        for annotation in json.loads(
            (source / f"v2_mscoco_{split}2014_annotations.json").read_text()
        )["annotations"]
    ]
    majority = [normalize_answer(a["multiple_choice_answer"]) for a in annotations]
    assert classes == [c for c in dict.fromkeys(majority) if majority.count(c) >= 9]
    by_id = {a["question_id"]: a for a in annotations}
    asked = 0
    for row in rows_of(tmp_path, "vqav2_train") + rows_of(tmp_path, "vqav2_val"):
        asked += len(row["question_id"])
        for question_id, labels, scores in zip(
            row["question_id"], row["answer_labels"], row["answer_scores"], strict=True
        ):
            given = [a["answer"] for a in by_id[question_id]["answers"]]
            if len(set(given)) > 1:
                given = [normalize_answer(answer) for answer in given]
            for label, score in zip(labels, scores, strict=True):
                count = given.count(classes[label])
                assert score == {1: 0.3, 2: 0.6, 3: 0.9}.get(count, 1.0)
    # Every question is written or on the list.
    assert asked + len(report.left_out) == len(annotations) == 112
    assert {e.reason for e in report.left_out} == {"no answer is among the classes"}


def test_nlvr2_with_generated_photos(tmp_path: Path) -> None:
    source = tmp_path / "nlvr2"
    (source / "nlvr2" / "data").mkdir(parents=True)
    for split in ("dev", "test1"):
        official = Path(str(DATA), "nlvr2/nlvr2/data", f"{split}.json").read_text()
        (source / "nlvr2" / "data" / f"{split}.json").write_text(official)
        (source / split).mkdir()
        for line in official.splitlines():
            pair = json.loads(line)["identifier"].rpartition("-")[0]
            for side in range(2):
                path = source / split / f"{pair}-img{side}.png"
                if not path.exists():
                    colour = tuple(hashlib.sha256(path.name.encode()).digest()[:3])
                    Image.new("RGB", (2, 2), colour).save(path)
    report = write("nlvr2", source, tmp_path / "out")
    assert report.left_out == ()
    texts = {name: t.texts for name, t in report.tables.items()}
    # As many examples as the official splits have.
    assert texts == {"nlvr2_dev.arrow": 6982, "nlvr2_test1.arrow": 6967}
    for row in rows_of(tmp_path / "out", "nlvr2_dev")[:50]:
        for side in range(2):
            name = f"{row['identifier']}-img{side}.png"
            assert row[f"image_{side}"] == (source / "dev" / name).read_bytes()
        assert set(row["answers"]) <= {"True", "False"}


def test_cc12m(tmp_path: Path) -> None:
    path = Path(str(DATA), "cc12m", "cc12m-train-0000.tar")
    report = write("image-text", path, tmp_path)
    assert report.left_out == ()
    rows = rows_of(tmp_path, "image_text_0")
    assert len(rows) == 32
    with tarfile.open(path) as tar:
        for row in rows:
            member, text = (
                tar.extractfile(name)
                for name in (row["image_id"], Path(row["image_id"]).stem + ".txt")
            )
            assert member is not None
            assert text is not None
            assert row["image"] == member.read()
            assert row["caption"] == [text.read().decode()]


def test_refcoco_of_coco_objects(tmp_path: Path) -> None:
    coco = Path(str(DATA), "coco")
    instances = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    (tmp_path / "train2014").symlink_to(coco / "train2017")
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    refs = [
        {
            "ann_id": annotation["id"],
            "image_id": annotation["image_id"],
            "split": ("train", "val", "testA", "testB")[number % 4],
            "sentences": [{"sent": f"object {number}", "raw": "", "tokens": []}],
        }
        for number, annotation in enumerate(instances["annotations"])
    ]
    # The protocol and the strings that Python 2 wrote.
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    report = write("refcoco", tmp_path, tmp_path / "out")
    assert report.left_out == ()
    boxes = {annotation["id"]: annotation["bbox"] for annotation in instances["annotations"]}
    rows = [
        row
        for split in ("train", "val", "test")
        for row in rows_of(tmp_path / "out", f"refcoco_unc_{split}")
    ]
    assert len(rows) == len(refs)
    for row in rows:
        number = int(row["sentences"][0].split()[1])
        assert np.allclose(row["bboxes"][row["labels"]], boxes[refs[number]["ann_id"]])
