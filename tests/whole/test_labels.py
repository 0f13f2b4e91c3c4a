"""Runs that classify and regress by labels of the data: inputs, towers, ranks, what is kept."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from support.asserting import assert_refused
from support.command_line import renaissance
from support.labelled import WORDS, labelled_spec, write_rows
from support.running import environment, metrics, run_here
from support.two_ranks import on_two_ranks, results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import BertTokenizer

CLASSES = ("dark", "grey", "white")


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose text and picture both tell the class and the number, noisily."""
    generator = np.random.default_rng(seed)
    made = []
    for index in range(count):
        label = index % 3
        words = [WORDS[label], WORDS[int(generator.integers(0, 7))]]
        made.append(
            {
                "text": " ".join(words),
                "level": int(80 * label + generator.integers(0, 60)),
                "label": CLASSES[label],
                "score": float(100 + 10 * label + generator.normal()),
                "tags": [c for c in CLASSES[: label + 1] if generator.random() < 0.7],
                "id": f"{seed}-{index}",
            }
        )
    return made


TABLES = {
    "classification": 'type = "classification"',
    "tags": 'type = "classification"\nname = "tags"\nlabel = "tags"',
    "regression": 'type = "regression"\nlabel = "score"',
    "vqa": 'type = "vqa"\nlabel = "label"',
}
READ = {"both": "", "text": 'modalities = ["text"]', "image": 'modalities = ["image"]'}


def predictions_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    if text.startswith("[{"):
        return json.loads(text)  # type: ignore[no-any-return]
    return [json.loads(line) for line in text.splitlines()]


def flat(row: dict[str, Any]) -> list[float]:
    """The numbers of a prediction."""
    values = [row["prediction"]] if isinstance(row.get("prediction"), float) else []
    return [*values, *row.get("probabilities", {}).values()]


def judged(name: str, made: list[dict[str, Any]], true: list[dict[str, Any]]) -> dict[str, float]:
    """What scikit-learn and SciPy say of predictions."""
    if name == "regression":
        values, labels = [row["prediction"] for row in made], [row["score"] for row in true]
        return {
            "mse": float(np.mean((np.array(values) - labels) ** 2)),
            "pearson": float(pearsonr(values, labels)[0]),
            "spearman": float(spearmanr(values, labels)[0]),
        }
    if name == "vqa":
        right = [m["answer"] == t["label"] for m, t in zip(made, true, strict=True)]
        return {"accuracy": float(np.mean(right))}
    shares = np.array([[row["probabilities"][c] for c in CLASSES] for row in made])
    if name == "tags":
        labels = np.array([[c in row["tags"] for c in CLASSES] for row in true])
        chosen = np.array([[c in row["prediction"] for c in CLASSES] for row in made])
        assert (chosen == (shares >= 0.5)).all()
    else:
        labels = np.array([CLASSES.index(row["label"]) for row in true])
        chosen = np.array([CLASSES.index(row["prediction"]) for row in made])
        assert (chosen == shares.argmax(1)).all()
    return {
        "accuracy": float(accuracy_score(labels, chosen)),
        "macro_f1": float(f1_score(labels, chosen, average="macro", zero_division=0)),
        "auroc": float(roc_auc_score(labels, shares, average="macro", multi_class="ovr")),
    }


@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("read", list(READ))
@pytest.mark.parametrize("one_tower", [False, True], ids=["two-tower", "one-tower"])
def test_figures_are_those_of_scikit_learn(
    tmp_path: Path, name: str, read: str, one_tower: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renaissance.engine.predictions.DIGITS", 17)
    validate = rows(21, seed=1)
    spec = labelled_spec(tmp_path, f"{TABLES[name]}\n{READ[read]}", rows(48), validate, one_tower)
    assert run_here(spec, tmp_path, "train.max_steps=12", "evaluate.every_steps=12") == 0
    run = tmp_path / "tiny"
    file = tmp_path / "predictions.json"
    finished = renaissance("evaluate", "--trust-plugins", str(run), "--predictions", str(file))
    assert finished.code == 0, finished.err
    made = predictions_of(file)
    assert [row["id"] for row in made] == [row["id"] for row in validate]
    figures = results(run)["metrics"]
    expected = {f"{name}/{key}": v for key, v in judged(name, made, validate).items()}
    assert figures == {
        "loss": figures["loss"],
        f"{name}/loss": figures["loss"],
        **{key: pytest.approx(value, abs=1e-5) for key, value in expected.items()},
    }
    # Measured during training as well.
    assert expected.keys() <= metrics(run)[-1].keys()


def test_two_ranks_measure_what_one_does(tmp_path: Path) -> None:
    # In micro-batches of 8, one rank has the first 8 and the last 5, the other 8; of 5, one none.
    commands, runs = [], {}
    for name, table in TABLES.items():
        spec = labelled_spec(tmp_path / name, table, rows(48), rows(21, seed=1))
        write_rows(tmp_path / name / "few.json", rows(5, seed=2))
        assert run_here(spec, tmp_path / name, "train.max_steps=3") == 0
        runs[name] = tmp_path / name / "tiny"
        for file in ("validate.json", "few.json"):
            setting = f"data.validate.0.file={file}"
            out = tmp_path / name / f"two-{file}"
            commands.append(
                ["evaluate", str(runs[name]), setting, "--trust-plugins", "--predictions", str(out)]
            )
    alone = []
    for command in commands:
        one = [text.replace("two-", "one-") for text in command]
        finished = renaissance(*one)
        assert finished.code == 0, finished.err
        alone.append(results(Path(command[1]))["metrics"])
    printed = on_two_ranks(tmp_path, commands)
    assert "Traceback" not in printed
    for command in commands:
        two = Path(command[-1])
        pairs = zip(
            predictions_of(two),
            predictions_of(two.with_name(two.name.replace("two-", "one-"))),
            strict=True,
        )
        for one_row, other_row in pairs:
            assert list(one_row) == list(other_row)
            assert one_row["id"] == other_row["id"]
            assert flat(one_row) == pytest.approx(flat(other_row), abs=1e-6)
    for run, figures in zip(runs.values(), alone[1::2], strict=True):
        assert results(run)["metrics"] == pytest.approx(figures, abs=1e-6, nan_ok=True)


def test_the_run_folder_keeps_the_classes(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, TABLES["classification"], rows(48), rows(21, seed=1))
    tokenizer = tmp_path / "tokenizer"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(tokenizer)
    assert run_here(spec, tmp_path, "train.max_steps=2", f"data.tokenizer={tokenizer}") == 0
    kept = json.loads((tmp_path / "tiny/classes.json").read_text())
    assert kept == {
        "classification": {
            "modalities": ["text", "image"],
            "labels": {
                "label": {
                    "separator": None,
                    "multi_label": False,
                    "open": False,
                    "num_samples": 48,
                    "classes": {"dark": 16, "grey": 16, "white": 16},
                }
            },
        }
    }
    # Moved, without the training data, and with a split of fewer classes: the same classes.
    shutil.move(tmp_path / "tiny", tmp_path / "moved")
    (tmp_path / "train.json").unlink()
    write_rows(tmp_path / "validate.json", rows(2, seed=1))
    out = tmp_path / "out.jsonl"
    finished = renaissance(
        "evaluate", "--trust-plugins", str(tmp_path / "moved"), "--predictions", str(out)
    )
    assert finished.code == 0, finished.err
    assert list(predictions_of(out)[0]["probabilities"]) == ["dark", "grey", "white"]


def test_a_split_without_the_label_is_predicted(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, TABLES["classification"], rows(48), rows(21, seed=1))
    assert run_here(spec, tmp_path, "train.max_steps=2") == 0
    bare = [{key: row[key] for key in ("text", "level")} for row in rows(3, seed=1)]
    write_rows(tmp_path / "validate.json", bare)
    out = tmp_path / "out.jsonl"
    finished = renaissance(
        "evaluate", "--trust-plugins", str(tmp_path / "tiny"), "--predictions", str(out)
    )
    assert finished.code == 0, finished.err
    assert [row["index"] for row in predictions_of(out)] == [0, 1, 2]


def test_a_resumed_run_refuses_other_classes(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, TABLES["classification"], rows(48), rows(21, seed=1))
    assert run_here(spec, tmp_path, "train.max_steps=2") == 0
    other = [{**row, "label": {"grey": "gray"}.get(row["label"], row["label"])} for row in rows(48)]
    write_rows(tmp_path / "train.json", other)
    arguments = (str(spec), f"run.output_dir={tmp_path}", "train.max_steps=4")
    assert_refused(
        renaissance(*arguments),
        "objective 'classification': since the run began, the classes lost 'grey' and got 'gray'; "
        "the outputs of its head would mean something else. Restore the data, or choose another "
        "run.name",
    )
    # A corrected label changes no class.
    write_rows(tmp_path / "train.json", [{**rows(48)[0], "label": "grey"}, *rows(48)[1:]])
    assert renaissance(*arguments).code == 0
    (tmp_path / "tiny/classes.json").write_text('{"classification": {"labels": {"label": {}}}}')
    assert_refused(
        renaissance("evaluate", "--trust-plugins", str(tmp_path / "tiny")),
        "classes.json: damaged (",
    )


def test_a_frozen_encoder_alone_is_a_linear_probe(tmp_path: Path) -> None:
    table = f'{TABLES["classification"]}\n{READ["image"]}\nhead.type = "linear"'
    spec = labelled_spec(tmp_path, table, rows(48), rows(21, seed=1))
    settings = ["model.image_encoder.frozen=true", "train.max_steps=40", "evaluate.every_steps=40"]
    monitors = 'monitors=[{type="jsonl"}, {type="tensorboard"}]'
    assert run_here(spec, tmp_path, *settings, monitors, "optimizer.learning_rate=0.1") == 0
    # Three grey levels that do not overlap much: far above the third that guessing gives.
    assert metrics(tmp_path / "tiny")[-1]["classification/accuracy"] > 0.8
    events = EventAccumulator(str(tmp_path / "tiny/tensorboard/validate"), {"images": 0})
    assert "classification/confusion" in events.Reload().Tags()["images"]


@pytest.mark.parametrize(
    ("change", "table", "expected"),
    [
        (
            {"label": "dark"},
            "classification",
            "objective 'classification': label 'label' is 'dark' in all 48 samples of "
            "data.train[0] ('rows'); expected at least 2 classes, or nothing can be learned. "
            "Choose another label, or add samples of other classes",
        ),
        (
            {"score": 7},
            "regression",
            "objective 'regression': label 'score' is 7 in all 48 samples of data.train[0] "
            "('rows'); expected different numbers, or nothing can be learned. Choose another label",
        ),
    ],
)
def test_labels_that_teach_nothing(
    tmp_path: Path, change: dict[str, Any], table: str, expected: str
) -> None:
    train = [{**row, **change} for row in rows(48)]
    spec = labelled_spec(tmp_path, TABLES[table], train, rows(21))
    assert_refused(renaissance("check", str(spec)), expected)


FAULTS: list[tuple[str, str, Any, str]] = [
    (
        "classification",
        "train",
        None,
        "train.json: row 5: label 'label' is missing (None). Correct the row, or leave it out",
    ),
    ("classification", "train", float("nan"), "train.json: row 5: label 'label' is missing (nan)."),
    ("classification", "train", " ", "train.json: row 5: label 'label' is missing (' ')."),
    (
        "classification",
        "train",
        0.5,
        "train.json: row 5: label 'label' is 0.5, expected a class, a text or an integer (numbers "
        "are the labels of 'regression').",
    ),
    (
        "classification",
        "train",
        ["dark"],
        "train.json: row 5: label 'label' is ['dark'], expected one class, as in other samples "
        "(for any number of classes, set multi_label = true).",
    ),
    (
        "classification",
        "validate",
        "whit",
        "validate.json: row 5: label 'label' is 'whit', expected a class of the training data: "
        "'dark', 'grey', 'white'; did you mean 'white'?. Correct the row, or leave it out",
    ),
    ("regression", "train", None, "train.json: row 5: label 'score' is missing (None)."),
    (
        "regression",
        "validate",
        float("nan"),
        "validate.json: row 5: label 'score' is missing (nan)",
    ),
    ("regression", "train", "ten", "train.json: row 5: label 'score' is 'ten', expected a number."),
    (
        "regression",
        "validate",
        float("inf"),
        "validate.json: row 5: label 'score' is inf, expected a finite number.",
    ),
]


@pytest.mark.parametrize(("table", "split", "value", "expected"), FAULTS)
def test_a_label_that_cannot_be_used(
    tmp_path: Path, table: str, split: str, value: Any, expected: str
) -> None:
    label = "score" if table == "regression" else "label"
    data = {"train": rows(48), "validate": rows(21)}
    data[split][5][label] = value
    spec = labelled_spec(tmp_path, TABLES[table], data["train"], data["validate"])
    assert_refused(renaissance("check", str(spec)), expected)
    assert not (tmp_path / "tiny").exists()


def test_a_label_that_is_not_there(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, 'type = "classification"\nlabel = "lable"', rows(48), rows(21))
    assert_refused(
        renaissance("check", str(spec)),
        "objective 'classification' needs label 'lable', which data.train[0] ('rows') does not "
        "provide (it provides id, image, label, score, tags, text); did you mean 'label'?",
    )


def test_check_warns_of_classes_with_too_few_samples(tmp_path: Path) -> None:
    train = rows(48)
    train[7]["label"] = "green"
    validate = [row for row in rows(21) if row["label"] != "grey"]
    spec = labelled_spec(tmp_path, TABLES["classification"], train, validate)
    finished = renaissance("check", str(spec))
    assert finished.code == 0
    assert (
        "warning: objective 'classification': label 'label': of 4 classes, 'green' has only one "
        "training sample; add samples, or leave them out\n"
        "warning: data.validate[0] ('rows') has no sample of 'green', 'grey', of the 4 classes of "
        "objective 'classification'\n"
    ) in finished.out


def test_a_split_of_unknown_classes_is_not_evaluated(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, TABLES["classification"], rows(48), rows(21, seed=1))
    assert run_here(spec, tmp_path, "train.max_steps=2") == 0
    write_rows(tmp_path / "validate.json", [{**row, "label": "red"} for row in rows(4)])
    assert_refused(
        renaissance("evaluate", "--trust-plugins", str(tmp_path / "tiny")),
        "validate.json: row 0: label 'label' is 'red', expected a class of the training data: ",
    )


def test_classes_of_a_file(tmp_path: Path) -> None:
    table = f'{TABLES["classification"]}\nclasses = "classes.txt"'
    spec = labelled_spec(tmp_path, table, rows(48), rows(21, seed=1))
    (tmp_path / "classes.txt").write_text("white\ngrey\ndark\nblack\n")
    assert "'black' has no training sample" in renaissance("check", str(spec)).out
    # The dataset need not be able to list its labels.
    spec.write_text(spec.read_text().replace('"rows"', '"unlisted"'))
    assert run_here(spec, tmp_path, "train.max_steps=2") == 0
    (tmp_path / "classes.txt").unlink()
    out = tmp_path / "out.jsonl"
    finished = renaissance(
        "evaluate", "--trust-plugins", str(tmp_path / "tiny"), "--predictions", str(out)
    )
    assert finished.code == 0, finished.err
    assert list(predictions_of(out)[0]["probabilities"]) == ["white", "grey", "dark", "black"]


def test_a_dataset_that_cannot_list_its_labels(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, TABLES["classification"], rows(48), rows(21, seed=1))
    spec.write_text(spec.read_text().replace('"rows"', '"unlisted"'))
    assert_refused(
        renaissance("check", str(spec)),
        "Unlisted cannot list the values of its label 'label'; expected a dataset with "
        "label_values, such as 'table'. Use one, or for classes, name them in a file (classes = "
        "'classes.txt')",
    )
    # Then what a file does not name is found when it is read.
    (tmp_path / "classes.txt").write_text("white\ngrey\n")
    assert_refused(
        renaissance(str(spec), f"run.output_dir={tmp_path}", "objectives.0.classes=classes.txt"),
        "train.json: row 0: label 'label' is 'dark', expected a class of the run: 'white', "
        "'grey'. Correct the row, or leave it out",
    )


def test_a_head_of_other_classes_is_not_taken(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, TABLES["classification"], rows(48), rows(21, seed=1))
    assert run_here(spec, tmp_path, "train.max_steps=2") == 0
    for split, count in (("train", 48), ("validate", 21)):
        other = [{**row, "label": row["label"][::-1]} for row in rows(count)]
        write_rows(tmp_path / f"{split}.json", other)
    settings = ["run.name=other", f"model.init_from={tmp_path}/tiny"]
    assert_refused(
        renaissance("check", str(spec), *settings),
        "does not fit this run: objectives.classification: classes 'dark', 'grey', 'white' in the "
        "checkpoint, 'etihw', 'krad', 'yerg' in this run.",
        'set model.init_allow = ["objectives.classification"]',
    )
    allow = 'model.init_allow=["objectives.classification"]'
    finished = renaissance("check", str(spec), *settings, allow)
    assert finished.code == 0, finished.err
    assert re.search(r"objectives.classification +newly initialized", finished.out)
    # An objective of another name takes a head of the same classes, and only such a one.
    spec.write_text(spec.read_text().replace('"classification"', '"classification"\nname = "c"'))
    finished = renaissance("check", str(spec), *settings)
    assert re.search(r"objectives.c +newly initialized", finished.out)
    for split, count in (("train", 48), ("validate", 21)):
        write_rows(tmp_path / f"{split}.json", rows(count))
    finished = renaissance("check", str(spec), *settings)
    assert re.search(r"objectives.c +loaded .*from objective 'classification'", finished.out)


def test_ranks_with_other_labels_are_refused(tmp_path: Path) -> None:
    spec = labelled_spec(tmp_path, TABLES["classification"], rows(48), rows(21, seed=1))
    other = [{**row, "label": row["label"][::-1]} for row in rows(48)]
    for rank, made in enumerate((rows(48), other)):
        write_rows(tmp_path / f"train-{rank}.json", made)
    for rank in (0, 1):
        write_rows(tmp_path / f"few-{rank}.json", [rows(48)[0], other[0]][rank : rank + 1])
    run = (
        f"{sys.executable} -m renaissance {spec} run.output_dir={tmp_path} "
        "data.train.0.file=train-$RANK.json data.validate.0.file=few-$RANK.json"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    finished = subprocess.run(
        [*launcher, "--nproc-per-node", "2", "--no-python", "sh", "-c", run],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode != 0
    assert "classes of objective 'classification': " in finished.stderr
    # torchrun's report repeats it.
    printed, *_ = finished.stderr.partition("\n=====")
    assert printed.count("differs from rank 0") == 1
