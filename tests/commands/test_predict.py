"""`renaissance predict`: equal to `evaluate --predictions`, resumed, on ranks, with faults."""

import csv
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.asserting import assert_refused
from support.command_line import renaissance
from support.running import TINY, one_tower_spec, run_here, write_spec
from support.table_files import rows_of, write_csv, write_jsonl, write_photos
from support.two_ranks import on_two_ranks
from transformers import BertTokenizer

from renaissance.inference import predicting
from renaissance.inference.loading import load

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "it"]
OBJECTIVES = {
    "classification": '[[objectives]]\ntype = "classification"\n',
    "classification of images": (
        '[[objectives]]\ntype = "classification"\nmodalities = ["image"]\n'
    ),
    "classification of texts": ('[[objectives]]\ntype = "classification"\nmodalities = ["text"]\n'),
    "regression": '[[objectives]]\ntype = "regression"\n',
    "vqa": '[[objectives]]\ntype = "vqa"\nlabel = "label"\n',
}


def _spec(folder: Path, objective: str, architecture: str = "two-tower") -> Path:
    BertTokenizer(vocab={w: i for i, w in enumerate(WORDS)}).save_pretrained(folder / "words")
    text = TINY if architecture == "two-tower" else one_tower_spec()
    start, end = text.index("[[data.train]]"), text.index("[optimizer]")
    columns = 'columns = { image = "img", text = "caption", label = "label" }'
    table = f'type = "table"\nfiles = "rows.csv"\n{columns}\ncache = "cache"\n'
    data = f"[[data.train]]\n{table}\n[[data.validate]]\n{table}\n{OBJECTIVES[objective]}\n"
    text = text[:start] + data + text[end:]
    tokenizer = f'tokenizer = "{folder}/words"\nroot = "{folder}"'
    return write_spec(folder, text.replace('tokenizer = "dataset"', tokenizer))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def _train(folder: Path, objective: str, architecture: str = "two-tower") -> Path:
    rows = rows_of(21, num_images=9)
    write_photos(folder, rows)
    write_csv(folder / "rows.csv", rows)
    run_here(_spec(folder, objective, architecture), folder / "runs", "train.max_steps=2")
    return folder / "runs" / "tiny"


@pytest.mark.parametrize("architecture", ["two-tower", "one-tower"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_predictions_are_those_of_evaluate(
    tmp_path: Path, objective: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, after the run folder has moved, without the hub, for any batch size."""
    run = _train(tmp_path, objective, architecture)
    expected = tmp_path / "expected.txt"
    assert renaissance("evaluate", str(run), "--predictions", str(expected)).code == 0
    moved = tmp_path / "elsewhere"
    shutil.move(run, moved)
    shutil.rmtree(tmp_path / "words")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for batch_size in ("8", "3", "100"):
        output = tmp_path / f"by-{batch_size}.txt"
        finished = renaissance(
            *("predict", str(moved), "--input", str(tmp_path / "rows.csv")),
            *("--output", str(output), "--batch-size", batch_size),
        )
        assert finished.code == 0, finished.err
        assert output.read_text() == expected.read_text()
        assert not output.with_name(f"{output.name}.parts").exists()


def test_a_split_is_predicted_as_evaluate_does(tmp_path: Path) -> None:
    """Each of several objectives predicts the rows that go to it."""
    rows = rows_of(21, num_images=9)
    write_photos(tmp_path, rows)
    write_csv(tmp_path / "rows.csv", rows)
    text = _spec(tmp_path, "vqa").read_text()
    table = text[text.index("[[data.validate]]") : text.index("[[objectives]]")]
    routed = table.replace("files", 'objectives = ["regression"]\nfiles')
    text = text.replace(table, f"{routed}{table}{OBJECTIVES['regression']}")
    run_here(write_spec(tmp_path, text), tmp_path / "runs", "train.max_steps=2")
    run = str(tmp_path / "runs" / "tiny")
    assert renaissance("evaluate", run, "--predictions", str(tmp_path / "x.txt")).code == 0
    for objective in ("vqa", "regression"):
        finished = renaissance(
            *("predict", run, "--split", "validate", "--objective", objective),
            *("--output", str(tmp_path / f"{objective}.txt"), "--batch-size", "5"),
        )
        assert finished.code == 0, finished.err
    assert (tmp_path / "vqa.txt").read_text() == (tmp_path / "x-vqa.txt").read_text()
    predicted, evaluated = (
        [json.loads(line) for line in (tmp_path / f"{name}.txt").read_text().splitlines()]
        for name in ("regression", "x-regression")
    )
    assert [row["index"] for row in predicted] == list(range(42))
    for row, expected in zip(predicted, evaluated, strict=True):
        # Either digit, for a number in the middle between them.
        assert row == {**expected, "prediction": pytest.approx(expected["prediction"], rel=2e-3)}
    answers = json.loads((tmp_path / "vqa.txt").read_text())
    assert [row["index"] for row in answers] == list(range(21, 42))


def test_bad_rows_of_a_split_have_their_error(tmp_path: Path) -> None:
    run = _train(tmp_path, "classification")
    output = tmp_path / "out.jsonl"
    command = ["predict", str(run), "--split", "validate", "--output", str(output)]
    (tmp_path / "photos" / "4.png").unlink()
    finished = renaissance(*command)
    assert finished.code == 0, finished.err
    assert "cannot be read: 2 rows" in finished.out
    made = [json.loads(line) for line in output.read_text().splitlines()]
    # The fifth of nine pictures, in 21 rows.
    assert [row["index"] for row in made if "error" in row] == [4, 13]
    assert [row["index"] for row in made] == list(range(21))


def test_either_a_table_or_a_split_is_predicted(tmp_path: Path) -> None:
    assert_refused(
        renaissance("predict", str(tmp_path)),
        "predict: got neither of --input and --split; expected --input TABLE for new rows, or "
        "--split SPLIT for a split of the run's own datasets",
    )
    assert_refused(
        renaissance("predict", str(tmp_path), "--input", "a.csv", "--split", "test"),
        "predict: got both of --input and --split",
    )
    assert_refused(
        renaissance("predict", str(tmp_path), "--input", "a.csv", "--data-root", "there"),
        "--data-root: only --split reads the run's datasets",
    )
    assert_refused(
        renaissance("predict", str(tmp_path), "--split", "test", "--column", "image=img"),
        "--column: the datasets of --split have their own columns",
    )


def test_two_ranks_predict_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _train(tmp_path, "classification")
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    command = ["predict", str(run), "--input", str(tmp_path / "rows.csv"), "--output"]
    assert renaissance(*command, str(one)).code == 0
    on_two_ranks(tmp_path, [[*command, str(two)]])
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_command_that_was_killed_is_resumed(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _train(tmp_path, "classification")
    command = ["predict", str(run), "--input", str(tmp_path / "rows.csv"), "--output"]
    whole, resumed = tmp_path / f"whole.{suffix}", tmp_path / f"resumed.{suffix}"
    assert renaissance(*command, str(whole)).code == 0
    monkeypatch.setattr(predicting, "PART_SIZE", 8)
    written = []
    write, rows = predicting.Parts.write, predicting.Parts.rows

    def killed(parts: predicting.Parts, part: int, rows: list[dict[str, object]]) -> None:
        if len(written) == 2:
            raise RuntimeError("killed")
        written.append(part)
        write(parts, part, rows)

    def killed_between(parts: predicting.Parts) -> Iterator[dict[str, object]]:
        yield from itertools.islice(rows(parts), 11)
        raise RuntimeError("killed")

    monkeypatch.setattr(predicting.Parts, "write", killed)
    assert renaissance(*command, str(resumed)).code == 1
    assert not resumed.exists()
    monkeypatch.setattr(predicting.Parts, "write", write)
    monkeypatch.setattr(predicting.Parts, "rows", killed_between)
    finished = renaissance(*command, str(resumed))
    assert finished.code == 1
    assert "resumed: 2 of 3 parts were there" in finished.out
    assert not resumed.exists()
    monkeypatch.setattr(predicting.Parts, "rows", rows)
    finished = renaissance(*command, str(resumed))
    assert "resumed: 3 of 3 parts were there" in finished.out
    assert resumed.read_bytes() == whole.read_bytes()


def test_parts_of_other_predictions_are_not_taken_up(tmp_path: Path) -> None:
    run = _train(tmp_path, "classification")
    output = tmp_path / "out.jsonl"
    parts = tmp_path / "out.jsonl.parts"
    parts.mkdir()
    (parts / "request.json").write_text("{}")
    command = ["predict", str(run), "--input", str(tmp_path / "rows.csv"), "--output", str(output)]
    assert_refused(renaissance(*command), f"--output: {parts} holds part of other predictions")


def test_rows_that_cannot_be_read_have_their_error(tmp_path: Path) -> None:
    run = _train(tmp_path, "classification")
    rows = [{"img": r["img"], "caption": r["caption"], "label": r["label"]} for r in rows_of(21, 9)]
    rows[3]["img"] = "nowhere.png"
    rows[12]["caption"] = ""
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    rows[20]["img"] = "broken.png"
    write_csv(tmp_path / "faulty.csv", rows)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    for name, path in (("rows.csv", whole), ("faulty.csv", output)):
        finished = renaissance(
            *("predict", str(run), "--input", str(tmp_path / name), "--output", str(path))
        )
        assert finished.code == 0, finished.err
    assert "cannot be read: 3 rows" in finished.out
    made = [json.loads(line) for line in output.read_text().splitlines()]
    expected = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [index for index, row in enumerate(made) if "error" in row] == [3, 12, 20]
    assert made[3]["index"] == 3
    # Two of the captions before it have a line break.
    assert "faulty.csv: line 8" in made[3]["error"]
    assert "nowhere.png" in made[3]["error"]
    assert "faulty.csv: line" in made[20]["error"]
    for index in set(range(21)) - {3, 12, 20}:
        assert made[index]["prediction"] == expected[index]["prediction"]


def test_labels_of_new_rows_are_not_read(tmp_path: Path) -> None:
    """They may be unknown, missing, or not there at all."""
    run = _train(tmp_path, "classification")
    rows = rows_of(21, num_images=9)
    unknown = [{**row, "label": ("giraffe", "", "nan")[i % 3]} for i, row in enumerate(rows)]
    write_csv(tmp_path / "unknown.csv", unknown)
    without = [{key: row[key] for key in ("img", "caption")} for row in rows]
    write_jsonl(tmp_path / "without.jsonl", without)
    outputs = []
    for name in ("rows.csv", "unknown.csv", "without.jsonl"):
        outputs.append(tmp_path / f"{name}.out.jsonl")
        command = ["predict", str(run), "--input", str(tmp_path / name), "--output"]
        finished = renaissance(*command, str(outputs[-1]))
        assert finished.code == 0, finished.err
    assert len({output.read_text() for output in outputs}) == 1


def test_an_unknown_label_of_a_split_names_its_row(tmp_path: Path) -> None:
    run = _train(tmp_path, "classification")
    rows = rows_of(21, num_images=9)
    rows[5]["label"] = "giraffe"
    write_csv(tmp_path / "rows.csv", rows)
    output = tmp_path / "out.jsonl"
    finished = renaissance("predict", str(run), "--split", "validate", "--output", str(output))
    assert_refused(finished, "rows.csv: line ", "label 'label' is 'giraffe', expected a class of")
    assert not output.exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_have_a_row_per_row(tmp_path: Path, suffix: str) -> None:
    run = _train(tmp_path, "classification")
    output = tmp_path / f"out.{suffix}"
    command = ["predict", str(run), "--input", str(tmp_path / "rows.csv"), "--output"]
    assert renaissance(*command, str(output)).code == 0
    assert renaissance(*command, str(tmp_path / "out.jsonl")).code == 0
    expected = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    if suffix == "csv":
        with output.open(newline="") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
    else:
        rows = pq.read_table(output).to_pylist()
    assert [str(row["prediction"]) for row in rows] == [str(r["prediction"]) for r in expected]
    assert [json.loads(row["probabilities"]) for row in rows] == [
        row["probabilities"] for row in expected
    ]


def test_columns_are_found_by_role(tmp_path: Path) -> None:
    run = _train(tmp_path, "classification")
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "renamed.csv").write_text(text.replace("img,caption,label", "image,words,label", 1))
    command = ["predict", str(run), "--input", str(tmp_path / "renamed.csv"), "--output"]
    assert_refused(
        renaissance(*command, str(tmp_path / "out.jsonl")),
        "renamed.csv: no column for text; it has image, words, label",
        "Name it: --column text=COLUMN",
    )
    finished = renaissance(*command, str(tmp_path / "out.jsonl"), "--column", "text=words")
    assert finished.code == 0, finished.err
    assert_refused(
        renaissance(*command, str(tmp_path / "out.jsonl"), "--column", "words"),
        "--column: got 'words', expected ROLE=COLUMN",
    )


def test_python_predicts_the_same(tmp_path: Path) -> None:
    run = _train(tmp_path, "classification")
    output = tmp_path / "out.jsonl"
    command = ["predict", str(run), "--input", str(tmp_path / "rows.csv"), "--output"]
    assert renaissance(*command, str(output)).code == 0
    rows = [{"image": tmp_path / r["img"], "text": r["caption"]} for r in rows_of(21, 9)]
    expected = [json.loads(line) for line in output.read_text().splitlines()]
    assert load(run).predict(rows) == expected
    assert load(run).predict(rows, batch_size=4) == expected


def test_a_run_that_predicts_nothing_is_refused(tmp_path: Path) -> None:
    run_here(write_spec(tmp_path), tmp_path / "runs", "train.max_steps=1")
    rows = rows_of(3)
    write_csv(tmp_path / "rows.csv", rows)
    finished = renaissance(
        *("predict", str(tmp_path / "runs/tiny"), "--input", str(tmp_path / "rows.csv")),
        *("--output", str(tmp_path / "out.jsonl")),
    )
    assert_refused(finished, "cannot predict: none of its objectives (mlm, itm) has learned to")
