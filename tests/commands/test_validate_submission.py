"""`renaissance data validate-submission`: predictions against the questions they must answer."""

import json
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pytest
from support.answering import write_table
from support.command_line import Finished, renaissance

from renaissance import (
    Answer,
    Classification,
    Features,
    ObjectiveBatch,
    ObjectiveContext,
    Submission,
    hookimpl,
)
from renaissance.commands.submission import check_submission
from renaissance.plugins.loading import load_plugins

QUESTIONS = {"questions": [{"question_id": i, "image_id": 1, "question": "?"} for i in (7, 8, 9)]}
SENTENCES = ("test1-0-0-0", "test1-0-0-1", "test1-3-1-0")


@pytest.fixture
def questions(tmp_path: Path) -> dict[str, Path]:
    """The questions of each task, as they are downloaded or prepared."""
    paths = {
        "vqa": tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json",
        "nlvr2": tmp_path / "test1.json",
        "snli-ve": tmp_path / "snli_test.arrow",
    }
    paths["vqa"].write_text(json.dumps({"info": {"year": 2017}} | QUESTIONS))
    lines = [json.dumps({"identifier": i, "sentence": "s", "label": "True"}) for i in SENTENCES]
    paths["nlvr2"].write_text("\n".join(lines) + "\n")
    sentences = [[["p", "h"], ["p", "i"]], [], [["p", "j"]]]
    kind = pa.list_(pa.list_(pa.string()))
    write_table(
        paths["snli-ve"],
        {"image": [b""] * 3, "sentences": pa.array(sentences, kind), "labels": [[0, 1], [], [2]]},
    )
    return paths


def check(folder: Path, task: str, content: Any, questions: Path) -> Finished:
    path = folder / "predictions"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    command = ["data", "validate-submission", str(path), "--objective", task]
    return renaissance(*command, "--questions", str(questions))


def counts(finished: Finished) -> dict[str, str]:
    """What the printed table says."""
    rows = [line.split("\t") for line in finished.out.splitlines() if "\t" in line]
    return dict(rows[1:])


def answered(*ids: Any) -> list[dict[str, Any]]:
    return [{"question_id": i, "answer": "yes"} for i in ids]


GOOD = {
    # Any order will do.
    "vqa": answered(9, 7, 8),
    "nlvr2": "test1-0-0-1,True\ntest1-3-1-0,False\ntest1-0-0-0,False\n",
    "snli-ve": "identifier,prediction\n2:0,neutral\n0:0,entailment\n0:1,contradiction\n",
}


@pytest.mark.parametrize("task", GOOD)
def test_every_question_answered_once(
    tmp_path: Path, questions: dict[str, Path], task: str
) -> None:
    finished = check(tmp_path, task, GOOD[task], questions[task])
    assert finished.code == 0, finished.err
    assert counts(finished) == {
        "questions": "3",
        "predictions": "3",
        "malformed": "0",
        "unknown": "0",
        "twice": "0",
        "missing": "0",
    }
    assert finished.out.endswith("ok: every question is answered once\n")


@pytest.mark.parametrize(
    ("task", "content", "sorts", "texts"),
    [
        (
            "vqa",
            answered(7, 10, 7),
            {"unknown": "1", "twice": "1", "missing": "2"},
            [
                "entry 1: 10 is not a question",
                "entry 2: 7 is answered a second time",
                "no answer to 8",
                "no answer to 9",
                "faults: 4; ",
            ],
        ),
        (
            "vqa",
            [*answered("7"), *answered(True), {"question_id": 8}, 5],
            {"predictions": "4", "malformed": "4", "missing": "3"},
            [
                "entry 0: question_id is '7'; expected a whole number",
                "entry 1: question_id is True",
                "entry 2: {'question_id': 8}; expected an object of question_id and answer",
                "entry 3: 5; expected an object",
            ],
        ),
        (
            "vqa",
            [*answered(7, 8), {"question_id": 9, "answer": " "}],
            {"malformed": "1", "missing": "0"},
            ["entry 2: answer is ' '; expected a text", "faults: 1; "],
        ),
        (
            "nlvr2",
            "test1-0-0-0,true\ntest1-0-0-0,True\n\ntest1-0-0-1\ntest1-0-0#1,False\n",
            {"malformed": "3", "unknown": "1", "twice": "1", "missing": "2"},
            [
                "line 1: prediction is 'true'; expected False, True",
                "line 2: 'test1-0-0-0' is answered a second time",
                "line 3: ''; expected identifier,prediction",
                "line 4: 'test1-0-0-1'; expected identifier,prediction",
                "line 5: 'test1-0-0#1' is not a question",
            ],
        ),
        (
            "snli-ve",
            "identifier,prediction\n0:0,2\n0:1,neutral\n1:0,neutral\n",
            {"malformed": "1", "unknown": "1", "missing": "1"},
            [
                "line 2: prediction is '2'; expected contradiction, neutral, entailment",
                "line 4: '1:0' is not a question",
                "no answer to '2:0'",
            ],
        ),
    ],
)
def test_faults_are_counted_and_the_first_ones_named(
    tmp_path: Path,
    questions: dict[str, Path],
    task: str,
    content: Any,
    sorts: dict[str, str],
    texts: list[str],
) -> None:
    finished = check(tmp_path, task, content, questions[task])
    assert finished.code == 2
    assert sorts.items() <= counts(finished).items()
    assert finished.err.startswith(f"error: {tmp_path / 'predictions'}: ")
    for text in texts:
        assert text in finished.err
    assert "ok" not in finished.out


def test_of_many_faults_the_first_ten_are_named(tmp_path: Path, questions: dict[str, Path]) -> None:
    finished = check(tmp_path, "vqa", answered(7, 8, 9, *range(100, 160)), questions["vqa"])
    assert counts(finished)["unknown"] == "60"
    assert finished.err.count(" is not a question") == 10
    assert "and 50 more like the last" in finished.err


@pytest.mark.parametrize(
    ("task", "content", "text"),
    [
        ("vqa", '[{"question_id": 7', "not valid JSON (Expecting"),
        ("vqa", {"7": "yes"}, "a JSON dict; expected a JSON list of {question_id, answer}"),
        ("vqa", GOOD["nlvr2"], "not valid JSON"),
        ("snli-ve", GOOD["nlvr2"], "the first line is 'test1-0-0-1,True'; expected lines of"),
        ("snli-ve", "", "the first line is ''; expected lines of identifier,prediction under"),
        ("nlvr2", 'test1-0-0-0,"True', "line 1: unexpected end of data; expected lines of"),
    ],
)
def test_a_file_of_another_form(
    tmp_path: Path, questions: dict[str, Path], task: str, content: Any, text: str
) -> None:
    finished = check(tmp_path, task, content, questions[task])
    assert finished.code == 2
    assert f"{tmp_path / 'predictions'}: {text}" in finished.err
    assert "Name the objective that predicted it" in finished.err


def test_a_header_is_not_an_answer_to_nlvr2(tmp_path: Path, questions: dict[str, Path]) -> None:
    content = "identifier,prediction\n" + str(GOOD["nlvr2"])
    finished = check(tmp_path, "nlvr2", content, questions["nlvr2"])
    assert counts(finished)["malformed"] == "1"
    assert "line 1: prediction is 'prediction'; expected False, True" in finished.err


@pytest.mark.parametrize(
    ("task", "content", "text"),
    [
        ("vqa", None, "No such file"),
        ("vqa", b"[1,", "not valid JSON"),
        ("vqa", b"{}", "no questions; expected those of vqa"),
        ("vqa", b'{"questions": [{"question_id": "7"}]}', "questions[0]: question_id is '7'"),
        ("vqa", b"[7]", "no questions; expected those of vqa"),
        ("nlvr2", None, "cannot be read ("),
        ("nlvr2", b'{"id": 1}\n', "line 1: identifier is None; expected the official sentences"),
        ("nlvr2", b"\xff\xfe", "cannot be read ("),
        ("nlvr2", b'{"identifier": "a"}\n\n{', "line 3: not valid JSON ("),
        ("nlvr2", b"\n", "no questions; expected those of nlvr2"),
        ("snli-ve", None, "no such file"),
        ("snli-ve", b"no arrow", "not a whole Arrow file"),
    ],
)
def test_questions_that_cannot_be_used(
    tmp_path: Path, task: str, content: bytes | None, text: str
) -> None:
    path = tmp_path / "questions"
    if content is not None:
        path.write_bytes(content)
    finished = check(tmp_path, task, GOOD[task], path)
    assert finished.code == 2
    assert finished.err.startswith(f"error: {path}: ")
    assert text in finished.err


def test_predictions_that_are_not_there(tmp_path: Path, questions: dict[str, Path]) -> None:
    command = ["data", "validate-submission", str(tmp_path / "gone"), "--objective", "nlvr2"]
    finished = renaissance(*command, "--questions", str(questions["nlvr2"]))
    assert finished.code == 2
    assert f"{tmp_path / 'gone'}: cannot be read" in finished.err


@pytest.mark.parametrize("name", ["vqav2", "mlm"])
def test_an_objective_that_does_not_check_predictions(tmp_path: Path, name: str) -> None:
    finished = check(tmp_path, name, "", tmp_path)
    assert finished.code == 2
    assert finished.err.startswith(
        f"error: --objective: '{name}' does not check predictions; those that do: 'nlvr2', "
        "'snli-ve', 'vqa'"
    )
    assert finished.err.endswith("; did you mean 'vqa'?\n") == (name == "vqav2")


class Colours(Classification):
    """Of a plugin: its predictions are lines, and so are its questions."""

    @attrs.frozen
    class Options:
        """Nothing to set."""

    requires = frozenset({"image"})
    labels = frozenset({"colour"})
    classes = ("red", "blue")

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()

    def logits(self, batch: ObjectiveBatch, features: Features) -> Any:
        raise NotImplementedError

    @classmethod
    def check_predictions(cls, file: Path, questions: Path) -> Submission:
        lines = file.read_text().splitlines()
        answers = [Answer(f"line {i}", line) for i, line in enumerate(lines, start=1)]
        return Submission(questions.read_text().splitlines(), answers)


def test_an_objective_of_a_plugin(tmp_path: Path) -> None:
    plugins = load_plugins()
    plugins.add(ColoursPlugin(), "colours", "colours", "1")
    predictions, questions = tmp_path / "predictions", tmp_path / "questions"
    predictions.write_text("1\n3\n3\n4\n")
    questions.write_text("1\n2\n3\n")
    report = check_submission(predictions, "colours", questions, plugins)
    assert (report.num_questions, report.num_predictions) == (3, 4)
    assert report.twice == ["line 3: '3' is answered a second time"]
    assert report.unknown == ["line 4: '4' is not a question"]
    assert report.missing == ["no answer to '2'"]


class ColoursPlugin:
    """Registers the objective above."""

    @hookimpl
    def register_objectives(self, register: Any) -> None:
        register("colours", Colours)
