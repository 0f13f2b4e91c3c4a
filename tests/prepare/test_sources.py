import io
import json
import pickle
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from support.preparing import prepare

from renaissance import DataError
from renaissance.builtin.sources.gcc import GCC
from renaissance.builtin.sources.sbu import SBU
from renaissance.builtin.sources.vqa_answers import (
    SPELLINGS,
    answer_vocabulary,
    normalize_answer,
    soft_scores,
)
from renaissance.data.prepare.manifest import Report
from renaissance.plugins.loading import load_plugins
from renaissance.prepare import held_out, load_plain_pickle


def picture(level: int = 0, file_format: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(file, file_format)
    return file.getvalue()


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def rows_of(output: Path, name: str) -> list[dict[str, Any]]:
    with pa.memory_map(str(output / f"{name}.arrow")) as mapped:
        return list(pa.ipc.open_file(mapped).read_all().to_pylist())


def schema_of(output: Path, name: str) -> dict[str, str]:
    with pa.memory_map(str(output / f"{name}.arrow")) as mapped:
        return {field.name: str(field.type) for field in pa.ipc.open_file(mapped).schema}


CAPTIONS = {
    "image": "binary",
    "caption": "list<item: string>",
    "image_id": "string",
    "split": "string",
}


def reasons(report: Report) -> list[tuple[str, bool]]:
    return [(entry.reason, entry.is_row) for entry in report.left_out]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    source = tmp_path / "coco"
    for split in ("train2017", "val2017"):
        images = [{"id": 10 + i, "file_name": f"{10 + i:012d}.jpg"} for i in range(3)]
        # Captions of an image do not follow each other in the official files.
        captions = [
            {"id": k, "image_id": 10 + i, "caption": f"{split} {i} {k}"}
            for k in range(2)
            for i in range(3)
        ]
        content = {"info": {"year": 2017}, "images": images, "annotations": captions}
        put(source / "annotations" / f"captions_{split}.json", content)
        for image in images:
            put(source / split / image["file_name"], picture(image["id"]))
    return source


def test_official_coco_captions(coco: Path, tmp_path: Path) -> None:
    report = prepare("coco", coco, tmp_path / "out")
    assert sorted(report.tables) == [
        "coco_caption_train2017.arrow",
        "coco_caption_val2017.arrow",
    ]
    assert schema_of(tmp_path / "out", "coco_caption_val2017") == CAPTIONS
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out", "coco_caption_val2017")}
    assert rows["000000000011.jpg"] == {
        "image": picture(11),
        "caption": ["val2017 1 0", "val2017 1 1"],
        "image_id": "000000000011.jpg",
        "split": "val2017",
    }


def test_captions_without_an_image_and_images_without_captions(coco: Path, tmp_path: Path) -> None:
    path = coco / "annotations" / "captions_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["image_id"] = 99
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 12]
    put(path, content)
    report = prepare("coco", coco, tmp_path / "out", ["val2017"], max_missing=0.5)
    assert list(report.tables) == ["coco_caption_val2017.arrow"]
    assert reasons(report) == [
        ("no caption", True),
        ("1 captions of an image that is not listed", True),
    ]


def test_coco_takes_karpathys_splits_where_his_file_is(coco: Path, tmp_path: Path) -> None:
    entry = {
        "filename": "000000000010.jpg",
        "filepath": "val2017",
        "split": "restval",
        "sentences": [{"raw": "a", "tokens": ["a"]}],
    }
    put(coco / "karpathy" / "dataset_coco.json", {"images": [entry], "dataset": "coco"})
    assert list(prepare("coco", coco, tmp_path / "a").tables) == [
        "coco_caption_karpathy_restval.arrow"
    ]
    assert list(prepare("coco", coco, tmp_path / "b", ["train2017"]).tables) == [
        "coco_caption_train2017.arrow"
    ]
    with pytest.raises(DataError, match=r"no split 'dev'; it has train2014, val2014, train2017"):
        prepare("coco", coco, tmp_path / "c", ["dev"])


def test_visual_genome(tmp_path: Path) -> None:
    source, output = tmp_path / "vg", tmp_path / "out"
    region = {"region_id": 1, "width": 3, "height": 4, "x": 5, "y": 6, "phrase": "a red bus"}
    other = region | {"phrase": " ", "x": 7}
    last = region | {"phrase": "sky", "width": 30}
    entries = [
        {"id": 1, "regions": [region, other, last]},
        {"id": 2, "regions": [region]},
        {"id": 3, "regions": []},
    ]
    put(source / "annotations" / "region_descriptions.json", entries)
    put(source / "images" / "VG_100K" / "1.jpg", picture(1))
    put(source / "images" / "VG_100K_2" / "2.jpg", picture(2))
    report = prepare("vg", source, output, max_missing=0.5)
    rows = {row["image_id"]: row for row in rows_of(output, "vg")}
    assert rows["1"] == {
        "image": picture(1),
        "caption": ["a red bus", "sky"],
        "width": [3, 30],
        "height": [4, 4],
        "x": [5, 5],
        "y": [6, 6],
        "image_id": "1",
    }
    assert rows["2"]["image"] == picture(2)
    assert schema_of(output, "vg")["width"] == "list<item: int64>"
    assert reasons(report) == [("phrase 1 is empty", False), ("no region phrase", True)]


def test_sbu_and_gcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for component in (SBU, GCC):
        monkeypatch.setattr(component, "rows_per_file", 2)
    pairs = [
        ["images_train/0000/a.jpg", "one"],
        ["0000/b.jpg", "two"],
        ["/elsewhere/images_train/0001/c.jpg", "three"],
        ["0001/gone.jpg", "four"],
        ["0001/c.jpg"],
    ]
    for dataset, name in (("sbu", "annot.json"), ("gcc", "train_annot.json")):
        source = tmp_path / dataset
        put(source / name, pairs)
        for number, path in enumerate(("0000/a.jpg", "0000/b.jpg", "0001/c.jpg")):
            put(source / "images_train" / path, picture(number))
        report = prepare(dataset, source, tmp_path / "out", max_missing=0.5)
        stem = {"sbu": "sbu", "gcc": "conceptual_caption_train"}[dataset]
        assert list(report.tables) == [f"{stem}_0.arrow", f"{stem}_1.arrow"]
        rows = [row for i in range(2) for row in rows_of(tmp_path / "out", f"{stem}_{i}")]
        found = sorted((row["image_id"], row["caption"], row["split"]) for row in rows)
        assert found == [
            ("a.jpg", ["one"], "train"),
            ("b.jpg", ["two"], "train"),
            ("c.jpg", ["three"], "train"),
        ]
        assert schema_of(tmp_path / "out", f"{stem}_0") == CAPTIONS
        assert sorted(reasons(report)) == [
            ("no such file", True),
            ("not a pair of path and caption: ['0001/c.jpg']", True),
        ]


def vqa(source: Path, answers: list[list[str]]) -> None:
    """Write VQA of `answers`, a question each, two to an image, the first half for training."""
    half = len(answers) // 2
    for split, start, stop in (("train2014", 0, half), ("val2014", half, len(answers))):
        questions, annotations = [], []
        for number in range(start, stop):
            image_id, question_id = number // 2, 1000 + number
            ids = {"image_id": image_id, "question_id": question_id}
            questions.append({**ids, "question": f"question {number}?"})
            majority = max(answers[number], key=answers[number].count)
            given = [{"answer": answer, "answer_id": 1} for answer in answers[number]]
            annotations.append({**ids, "answers": given, "multiple_choice_answer": majority})
            put(source / split / f"COCO_{split}_{image_id:012d}.jpg", picture(number))
        put(source / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        put(source / f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})


def test_vqa_classes_scores_and_parts(tmp_path: Path) -> None:
    answers = [["Two"] * 3 + ["the yes"] + ["maybe"] * 6] * 2
    answers += [["yes"] * 8 + ["2", "two"]] * 9 + [["2"] * 10] * 9
    source, output = tmp_path / "vqa", tmp_path / "out"
    vqa(source, answers)
    report = prepare("vqav2", source, output)
    assert json.loads((output / "vqav2_answers.json").read_text()) == ["yes", "2"]
    counts = {name: (t.rows, t.texts) for name, t in report.tables.items()}
    assert counts == {
        "vqav2_train.arrow": (5, 10),
        "vqav2_val.arrow": (5, 10),
        "vqav2_trainable_val.arrow": (3, 6),
        "vqav2_rest_val.arrow": (2, 4),
    }
    train = {row["image_id"]: row for row in rows_of(output, "vqav2_train")}
    assert train[0] == {
        "image": picture(1),
        "questions": ["question 0?", "question 1?"],
        "answers": [["2", "yes"]] * 2,
        "answer_labels": [[1, 0]] * 2,
        "answer_scores": [[0.9, 0.3]] * 2,
        "image_id": 0,
        "question_id": [1000, 1001],
        "split": "train",
    }
    assert train[1]["answer_scores"] == [[1.0, 0.6]] * 2
    val, trainable, rest = (
        {row["image_id"] for row in rows_of(output, f"vqav2_{part}")}
        for part in ("val", "trainable_val", "rest_val")
    )
    assert trainable | rest == val
    assert not trainable & rest
    assert schema_of(output, "vqav2_val") == {
        "image": "binary",
        "questions": "list<item: string>",
        "answers": "list<item: list<item: string>>",
        "answer_labels": "list<item: list<item: int64>>",
        "answer_scores": "list<item: list<item: double>>",
        "image_id": "int64",
        "question_id": "list<item: int64>",
        "split": "string",
    }


def test_vqa_questions_that_teach_nothing_are_listed(tmp_path: Path) -> None:
    source, output = tmp_path / "vqa", tmp_path / "out"
    vqa(source, [["yes"] * 10] * 9 + [["blue"] * 10] * 3)
    put(
        source / "v2_OpenEnded_mscoco_test2015_questions.json",
        {"questions": [{"image_id": 7, "question_id": 70, "question": "why?"}]},
    )
    put(source / "test2015" / "COCO_test2015_000000000007.jpg", picture(7))
    report = prepare("vqav2", source, output)
    assert reasons(report) == [("no answer is among the classes", False)] * 3
    assert {e.record for e in report.left_out} == {f"question {1000 + n}" for n in (9, 10, 11)}
    (row,) = rows_of(output, "vqav2_test")
    assert (row["questions"], row["answers"], row["answer_labels"]) == (["why?"], [], [])
    assert report.tables["vqav2_val.arrow"].texts == 3
    (source / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(DataError, match=r"v2_mscoco_val2014_annotations\.json: no such file"):
        prepare("vqav2", source, output, ["train"])


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("A Dog.", "dog"),
        ("the two dogs", "2 dogs"),
        ("None", "0"),
        ("3.5", "3.5"),
        ("no. 3", "no 3"),
        ("yes,no", "yes no"),
        ("yes, no", "yes no"),
        ("1,000", "1000"),
        ("t-shirt", "t shirt"),
        ("what?!", "what"),
        ("10:30", "10:30"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("it's\n", "it's"),
        ("  hot\tdog ", "hot dog"),
        ("an a the", ""),
    ],
)
def test_answers_are_normalized_by_the_official_rules(answer: str, normalized: str) -> None:
    assert normalize_answer(answer) == normalized


def test_classes_are_frequent_answers_and_scores_grow_with_annotators() -> None:
    majority = ["b"] * 8 + ["Yes"] * 4 + ["c"] * 9 + ["yes."] * 5
    assert answer_vocabulary(majority) == ["yes", "c"]
    for count, score in ((1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)):
        given = ["x"] * count + ["rare"] * (10 - count)
        assert soft_scores(given, {"y": 0, "x": 1}) == [(1, score)]


@pytest.mark.parametrize(
    ("answers", "scores"),
    [
        # All alike: compared as written.
        (["two"] * 10, {"two": 1.0}),
        (["2"] * 10, {"2": 1.0}),
        (["t-shirt"] * 10, {}),
        (["Yes"] * 10, {}),
        # Tabs and line feeds at the ends are removed before that.
        (["2"] * 9 + ["2\n"], {"2": 1.0}),
        # One of the ten spelled otherwise: all are normalized.
        (["two"] * 9 + ["2"], {"2": 1.0}),
        (["t-shirt"] * 9 + ["T-shirt"], {"t shirt": 1.0}),
        (["Yes"] * 9 + ["no"], {"yes": 1.0}),
    ],
)
def test_ten_equal_answers_are_not_normalized(answers: list[str], scores: dict[str, float]) -> None:
    classes = ["2", "two", "t shirt", "yes"]
    labels = {answer: label for label, answer in enumerate(classes)}
    found = soft_scores(answers, labels)
    assert {classes[label]: score for label, score in found} == scores
    assert "youre" in SPELLINGS


def test_nlvr2(tmp_path: Path) -> None:
    source, output = tmp_path / "nlvr2", tmp_path / "out"
    data = source / "nlvr2" / "data"

    def lines(*entries: tuple[str, str, str]) -> bytes:
        return "\n".join(
            json.dumps({"identifier": i, "sentence": s, "label": label, "directory": 42})
            for i, s, label in entries
        ).encode()

    train = (("train-1-0-0", "a", "True"), ("train-2-1-0", "b", "False"))
    put(data / "train.json", lines(*train, ("train-1-0-1", "c", "False")))
    put(data / "dev.json", lines(("dev-5-0-0", "d", "True"), ("dev-5-0-1", "e", "Maybe")))
    put(data / "balanced" / "balanced_dev.json", lines(("dev-5-0-0", "d", "True")))
    for number, path in enumerate(
        f"{folder}-img{side}.png"
        for folder in ("images/train/42/train-1-0", "images/train/42/train-2-1", "dev/dev-5-0")
        for side in range(2)
    ):
        put(source / path, picture(number, "PNG"))
    report = prepare("nlvr2", source, output)
    assert sorted(report.tables) == [
        "nlvr2_balanced_dev.arrow",
        "nlvr2_dev.arrow",
        "nlvr2_train.arrow",
    ]
    rows = {row["identifier"]: row for row in rows_of(output, "nlvr2_train")}
    assert rows["train-1-0"] == {
        "image_0": picture(0, "PNG"),
        "image_1": picture(1, "PNG"),
        "questions": ["a", "c"],
        "answers": ["True", "False"],
        "identifier": "train-1-0",
        "identifiers": ["train-1-0-0", "train-1-0-1"],
    }
    (dev,) = rows_of(output, "nlvr2_dev")
    assert (dev["image_1"], dev["answers"]) == (picture(5, "PNG"), ["True"])
    assert reasons(report) == [("label 'Maybe' is not one of False, True", False)]
    assert report.tables["nlvr2_train.arrow"].images == 4


def test_snli_ve(tmp_path: Path) -> None:
    source, output = tmp_path / "snli", tmp_path / "out"
    entries = [
        {"Flickr30K_ID": "7", "sentence1": "p", "sentence2": "h", "gold_label": "entailment"},
        {"Flickr30K_ID": "8", "sentence2": "i", "gold_label": "neutral"},
        {"Flickr30K_ID": "7", "sentence2": "j", "gold_label": "contradiction"},
        {"Flickr30K_ID": "7", "sentence2": "k", "gold_label": "-"},
    ]
    put(source / "snli_ve_dev.jsonl", "\n".join(map(json.dumps, entries)).encode())
    for image_id in (7, 8):
        put(source / "Flickr30K" / "images" / f"{image_id}.jpg", picture(image_id))
    report = prepare("snli-ve", source, output)
    rows = {row["image"]: row for row in rows_of(output, "snli_dev")}
    assert rows[picture(7)]["sentences"] == [["p", "h"], ["", "j"]]
    assert rows[picture(7)]["labels"] == [2, 0]
    assert rows[picture(8)]["labels"] == [1]
    assert schema_of(output, "snli_dev")["sentences"] == "list<item: list<item: string>>"
    (left_out,) = report.left_out
    assert left_out.record == f"{source}/snli_ve_dev.jsonl: line 4"
    assert left_out.reason.startswith("gold_label '-' is not one of contradiction")


def python2_pickle(refs: list[dict[str, Any]]) -> bytes:
    """Write as Python 2 did by default: protocol 0, byte strings."""

    def emit(value: Any) -> bytes:
        if isinstance(value, list):
            return b"(l" + b"".join(emit(item) + b"a" for item in value)
        if isinstance(value, dict):
            pairs = (emit(key) + emit(item) + b"s" for key, item in value.items())
            return b"(d" + b"".join(pairs)
        if isinstance(value, int):
            return b"I%d\n" % value
        return b"S'" + value.encode("utf-8").replace(b"\xc3", b"\\xc3") + b"'\n"

    return emit(refs) + b"."


def ref(number: int, image_id: int, split: str, *sentences: str) -> dict[str, Any]:
    return {
        "ref_id": number,
        "ann_id": 100 + number,
        "image_id": image_id,
        "split": split,
        "file_name": f"COCO_train2014_{image_id:012d}_{number}.jpg",
        "sentences": [{"sent": s, "raw": s.upper(), "tokens": s.split()} for s in sentences],
    }


def test_refcoco_from_a_python_2_pickle(tmp_path: Path) -> None:
    source, output = tmp_path / "refcoco", tmp_path / "out"
    refs = [
        ref(1, 50, "train", "left man", "caf\u00e9 sign"),
        ref(2, 50, "testA", "right man"),
        ref(3, 51, "testB", "dog"),
        ref(4, 51, "val", ""),
        ref(9, 51, "val", "cat"),
    ]
    put(source / "refs(unc).p", python2_pickle(refs))
    boxes = [(101, 50, [1, 2, 3.5, 4]), (102, 50, [5, 6, 7, 8]), (103, 51, [9, 9, 9, 9])]
    boxes.append((104, 51, [0, 0, 1, 1]))
    put(
        source / "instances.json",
        {
            "images": [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg"} for i in (50, 51)],
            "annotations": [{"id": a, "image_id": i, "bbox": box} for a, i, box in boxes],
        },
    )
    for image_id in (50, 51):
        name = f"COCO_train2014_{image_id:012d}.jpg"
        put(source / "train2014" / name, picture(image_id))
    report = prepare("refcoco", source, output, max_missing=0.5)
    assert sorted(report.tables) == [
        f"refcoco_unc_{split}.arrow" for split in ("test", "testA", "testB", "train")
    ]
    (train,) = rows_of(output, "refcoco_unc_train")
    assert train == {
        "image": picture(50),
        "sentences": ["left man", "caf\u00e9 sign"],
        "bboxes": [[1.0, 2.0, 3.5, 4.0], [5.0, 6.0, 7.0, 8.0]],
        "labels": 0,
    }
    test = rows_of(output, "refcoco_unc_test")
    assert sorted(row["labels"] for row in test) == [0, 1]
    assert schema_of(output, "refcoco_unc_train") == {
        "image": "binary",
        "sentences": "list<item: string>",
        "bboxes": "list<item: list<item: double>>",
        "labels": "int64",
    }
    assert reasons(report) == [
        ("sentence 0 is empty", False),
        ("no sentence", True),
        ("object 109 is not in instances.json", True),
    ]
    put(source / "refs(umd).p", pickle.dumps([ref(1, 50, "test", "a")], protocol=2))
    assert list(prepare("refcocog", source, output).tables) == ["refcocog_umd_test.arrow"]
    assert list(prepare("refcoco+", source, output, ["testA"]).tables) == [
        "refcoco+_unc_testA.arrow"
    ]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("print('run')",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_ask_for_anything_else_are_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([Evil()], protocol))
    with pytest.raises(DataError) as error:
        load_plain_pickle(path)
    assert f"{path}: cannot be read (UnpicklingError: it asks for " in str(error.value)
    assert "eval); expected a pickle of plain lists, dicts, strings and numbers" in str(error.value)
    plain = [{"a": (1, 2.5, None, True, {"x"}, "\u00e9")}]
    path.write_bytes(pickle.dumps(plain, 4))
    assert load_plain_pickle(path) == plain
    path.write_bytes(pickle.dumps(plain, 4)[:-5])
    with pytest.raises(DataError, match="cannot be read"):
        load_plain_pickle(path)


def test_a_pickle_of_a_few_bytes_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    # LONG_BINPUT with an index for which a table would take 16 GiB.
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, hard))
    try:
        assert load_plain_pickle(path) == []
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_folder_without_annotations_says_what_is_expected(tmp_path: Path) -> None:
    for name in load_plugins(kinds=("source",)).registry.names("source"):
        with pytest.raises(DataError, match=r"expected .*(json|\.p|jsonl)"):
            prepare(name, tmp_path, tmp_path / "out")


def test_a_split_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        prepare("snli-ve", tmp_path, tmp_path / "out", ["tests"])
    assert str(error.value) == (
        f"{tmp_path}: no split 'tests'; it has train, dev, test; did you mean 'test'?"
    )


def test_items_are_held_out_by_a_fixed_draw() -> None:
    items = [f"image {number}" for number in range(50)]
    drawn = held_out(items, 10, "photos/rest")
    assert drawn == held_out(items, 10, "photos/rest")
    assert len(set(drawn)) == 10
    assert set(drawn) <= set(items)
    assert set(drawn) != set(held_out(items, 10, "photos/other"))
    assert sorted(held_out(items, 99, "photos/rest")) == sorted(items)
    assert held_out([], 3, "photos/rest") == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"regions": []}, r"region_descriptions\.json: after 1 records: KeyError: 'id'; expected"),
        ({"id": 2, "regions": [{"phrase": "a"}]}, r"after 1 records: KeyError: 'width'"),
        ([2], r"after 1 records: TypeError: list indices"),
    ],
)
def test_annotations_of_another_form(tmp_path: Path, entry: Any, message: str) -> None:
    region = {"width": 3, "height": 4, "x": 5, "y": 6, "phrase": "a red bus"}
    entries = [{"id": 1, "regions": [region]}, entry]
    put(tmp_path / "annotations" / "region_descriptions.json", entries)
    put(tmp_path / "images" / "VG_100K" / "1.jpg", picture(1))
    with pytest.raises(DataError, match=message):
        prepare("vg", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_do_not_fit_their_column(tmp_path: Path) -> None:
    vqa(tmp_path, [["yes"] * 10] * 18)
    path = tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json"
    path.write_text(path.read_text().replace('"image_id": 0', f'"image_id": {10**30}'))
    (tmp_path / "train2014" / f"COCO_train2014_{10**30:012d}.jpg").write_bytes(picture())
    with pytest.raises(DataError, match=r"a value does not fit its column \(.*too large"):
        prepare("vqav2", tmp_path, tmp_path / "out", max_missing=1.0)
