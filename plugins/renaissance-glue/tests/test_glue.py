"""The official files as they are, GLUE's metrics, runs over text alone, and the package itself."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from renaissance_glue.dataset import Glue
from renaissance_glue.objective import GlueObjective
from renaissance_glue.tasks import TASKS
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from support.command_line import renaissance
from support.fresh_environment import FreshEnvironment, copy_package
from support.installing import install_source
from support.running import TINY, metrics, one_tower_spec, run_here, torchrun, write_spec
from transformers import BertTokenizer

from renaissance import DataError, DatasetContext, ObjectiveBatch, ObjectiveOutput, Sample
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.testing import check_dataset, check_objective

PACKAGE = Path(__file__).parents[1]
RECIPES = sorted((PACKAGE / "recipes").glob("*.toml"))

# Task: header of train and dev, lines of train, header of test, lines of test, as they are handed
# out; then what is to be read of the first line of each: sentences and class.
MNLI = "promptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
FORMATS: dict[str, tuple[str, list[str], str, list[str], tuple[str, str | None, int]]] = {
    "cola": (
        "",
        ["gj04\t1\t\tBill broke the bathtub.", "gj04\t0\t*\tThe car honked down the road."],
        "index\tsentence\n",
        ["0\tBill broke the bathtub."],
        ("Bill broke the bathtub.", None, 1),
    ),
    "sst2": (
        "sentence\tlabel\n",
        ["hide new secretions from the parental units \t0", "contains no wit \t1"],
        "index\tsentence\n",
        ["0\thide new secretions from the parental units "],
        ("hide new secretions from the parental units ", None, 0),
    ),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        ['1\t702876\t702977\tHe said "no.\tHe said "no" .', "0\t1\t2\tA rose.\tA fell."],
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        ['0\t702876\t702977\tHe said "no.\tHe said "no" .'],
        ('He said "no.', 'He said "no" .', 1),
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
        ["133273\t213221\t213222\tHow is it?\tHow was it?\t0", "9\t1\t2\tWho?\tWho is it?\t1"],
        "id\tquestion1\tquestion2\n",
        ["0\tHow is it?\tHow was it?"],
        ("How is it?", "How was it?", 0),
    ),
    "mnli": (
        f"index\t{MNLI}\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n",
        [
            "0\tp\tq\tslate\t( a )\t( b )\t(A a)\t(B b)\tWe go.\tWe stay.\tneutral\tcontradiction",
            "1\tp\tq\tfiction\t( a )\t( b )\t(A a)\t(B b)\tWe go.\tWe move.\tneutral\tentailment",
        ],
        f"index\t{MNLI}\tsentence2_parse\tsentence1\tsentence2\n",
        ["0\tp\tq\tfiction\t( a )\t( b )\t(A a)\t(B b)\tWe go.\tWe stay."],
        ("We go.", "We stay.", 2),
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n",
        ["0\tWhen?\tIn 1066.\tentailment", "1\tWhen?\tThere.\tnot_entailment"],
        "index\tquestion\tsentence\n",
        ["0\tWhen?\tIn 1066."],
        ("When?", "In 1066.", 0),
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n",
        ["0\tNone were found.\tSome were found.\tnot_entailment", "1\tA b.\tA.\tentailment"],
        "index\tsentence1\tsentence2\n",
        ["0\tNone were found.\tSome were found."],
        ("None were found.", "Some were found.", 1),
    ),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel\n",
        ["0\tI stuck a pin in it.\tThe pin had a hole.\t1", "1\tA b.\tB a.\t0"],
        "index\tsentence1\tsentence2\n",
        ["0\tI stuck a pin in it.\tThe pin had a hole."],
        ("I stuck a pin in it.", "The pin had a hole.", 1),
    ),
}
DEV = {"mnli": "dev_matched.tsv"}
TEST = {"mnli": "test_matched.tsv"}


def write_task(root: Path, task: str, repeat: int = 1) -> Path:
    """Write a task's three files, each line so many times."""
    header, lines, test_header, test_lines, _ = FORMATS[task]
    folder = root / TASKS[task].folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.tsv", DEV.get(task, "dev.tsv")):
        (folder / name).write_text(header + "".join(f"{line}\n" for line in lines) * repeat)
    text = test_header + "".join(f"{line}\n" for line in test_lines)
    (folder / TEST.get(task, "test.tsv")).write_text(text)
    return folder


def open_task(root: Path, task: str, training: bool = True, **options: Any) -> Glue:
    context = DatasetContext(root=root, seed=0, training=training)
    return Glue(Glue.Options(task=task, **options), context)


def read(dataset: Glue, index: int = 0) -> Sample:
    return dataset.sample(index, np.random.default_rng(0))


# --- files ---


@pytest.mark.parametrize("task", FORMATS)
def test_the_official_files(task: str, tmp_path: Path) -> None:
    write_task(tmp_path, task)
    text, pair, label = FORMATS[task][-1]
    for options in ({}, {"training": False}, {"split": "train"}, {"split": "validate"}):
        dataset = open_task(tmp_path, task, **options)
        assert len(dataset) == 2
        sample = read(dataset)
        assert (sample.text, sample.text_pair) == (text, pair)
        assert sample.labels == {task: label, "index": 0}
        assert read(dataset, 1).labels == {
            task: {"mnli": 0, "rte": 0, "qnli": 1, "cola": 0, "mrpc": 0, "wnli": 0}.get(task, 1),
            "index": 1,
        }
    test = open_task(tmp_path, task, split="test")
    assert (len(test), read(test).text, read(test).text_pair) == (1, text, pair)
    assert read(test).labels == {"index": 0}
    assert test.provides == dataset.provides - {task}


def test_lines_end_as_they_may(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "rte")
    lines = (folder / "train.tsv").read_text().splitlines()
    for text in ("\r\n".join(lines), "\r\n".join(lines) + "\r\n", "\n".join(lines)):
        (folder / "train.tsv").write_bytes(text.encode())
        dataset = open_task(tmp_path, "rte")
        assert len(dataset) == 2
        assert read(dataset, 1).labels == {"rte": 0, "index": 1}
        assert read(dataset).source == f"{folder / 'train.tsv'}: line 2"


def test_test_lines_keep_their_own_numbers(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "qqp")
    (folder / "test.tsv").write_text("id\tquestion1\tquestion2\n7\tWho?\tWhy?\nx\tA?\tB?\n")
    test = open_task(tmp_path, "qqp", split="test")
    assert read(test).labels == {"index": 7}
    with pytest.raises(DataError, match=r"test\.tsv: line 3: id is 'x', expected a number"):
        read(test, 1)


def test_the_other_genres_of_mnli(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "mnli")
    other = (folder / "dev_matched.tsv").read_text().replace("We go.", "They go.")
    (folder / "dev_mismatched.tsv").write_text(other)
    assert read(open_task(tmp_path, "mnli", training=False)).text == "We go."
    assert read(open_task(tmp_path, "mnli", training=False, matched=False)).text == "They go."
    assert read(open_task(tmp_path, "mnli", matched=False)).text == "We go."
    with pytest.raises(DataError, match=r"test_mismatched\.tsv: no such file"):
        open_task(tmp_path, "mnli", split="test", matched=False)


def test_the_corpus_of_mrpc_as_its_authors_divide_it(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "mrpc")
    content = (folder / "train.tsv").read_text()
    for name in ("train", "test"):
        text = content.replace("He said", f"In {name} he said")
        (folder / f"msr_paraphrase_{name}.txt").write_text(text)
    assert read(open_task(tmp_path, "mrpc")).text == 'He said "no.'
    for path in folder.glob("*.tsv"):
        path.unlink()
    found = {
        split: read(open_task(tmp_path, "mrpc", split=split))
        for split in ("train", "validate", "test")
    }
    assert [s.text.split()[1] for s in found.values()] == ["train", "test", "test"]
    assert [s.labels for s in found.values()] == [
        {"mrpc": 1, "index": 0},
        {"mrpc": 1, "index": 0},
        {"index": 0},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "5\tA text.\tentailment",
            "3 columns, expected 4, separated by tabs: index, sentence1, sentence2, label. "
            "Download it again, or let the run skip such lines with data.max_bad_samples",
        ),
        ("", "1 columns, expected 4, separated by tabs"),
        ("5\tA\tB\tmaybe", "label is 'maybe', expected one of entailment, not_entailment"),
        ("5\tA\t  \tentailment", "sentence2 is empty ('  '), expected text"),
        ("5\t\tB\tentailment", "sentence1 is empty (''), expected text"),
        ("5\tA\tB\xff\tentailment", "not UTF-8 (invalid start byte at byte 5)"),
    ],
)
def test_a_faulty_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = write_task(tmp_path, "rte") / "train.tsv"
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    dataset = open_task(tmp_path, "rte")
    assert read(dataset, 1).labels["rte"] == 0
    with pytest.raises(DataError) as caught:
        read(dataset, 2)
    assert str(caught.value).startswith(f"{path}: line 4: {message}")


def test_files_that_are_not_the_tasks(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_task(tmp_path, "sst2")
    assert str(caught.value) == (
        f"{tmp_path}/SST-2/train.tsv: no such file; expected a file of GLUE's own download. Unpack "
        "it there, or set data.root to the folder that holds SST-2/"
    )
    folder = write_task(tmp_path, "sst2")
    (folder / "dev.tsv").write_text("")
    with pytest.raises(DataError, match=r"dev\.tsv: empty; expected"):
        open_task(tmp_path, "sst2", training=False)
    (folder / "train.tsv").write_text("a fine film\t1\n")
    with pytest.raises(DataError) as caught:
        open_task(tmp_path, "sst2")
    assert "no column 'sentence', 'label' in its first line, which has 'a fine film', '1'" in str(
        caught.value
    )


def test_a_loader_process_opens_the_file_again(tmp_path: Path) -> None:
    write_task(tmp_path, "rte")
    dataset = open_task(tmp_path, "rte")
    content = pickle.dumps(dataset)
    assert len(content) < 2000
    assert read(pickle.loads(content), 1) == read(dataset, 1)


@pytest.mark.parametrize("task", ["cola", "mnli"])
def test_the_dataset_keeps_its_contract(task: str, tmp_path: Path) -> None:
    write_task(tmp_path, task)
    check_dataset(Glue, Glue.Options(task=task), root=tmp_path)
    check_dataset(Glue, Glue.Options(task=task, split="test"), root=tmp_path)


@pytest.mark.parametrize(
    ("task", "split", "number", "share"),
    [
        ("cola", "train", 7250, None),
        ("cola", "validate", 1043, 721 / 1043),
        ("cola", "test", 1063, None),
        ("rte", "train", 2127, None),
        ("rte", "validate", 277, 131 / 277),
        ("rte", "test", 3000, None),
    ],
)
def test_every_line_of_real_files(task: str, split: str, number: int, share: float | None) -> None:
    root = os.environ.get("RENAISSANCE_SHARED_DATA")
    if root is None:
        pytest.skip("RENAISSANCE_SHARED_DATA names no folder with GLUE files")
    dataset = open_task(Path(root) / "glue", task, split=split)
    samples = [read(dataset, index) for index in range(len(dataset))]
    assert len(samples) == number
    if split == "test":
        assert [sample.labels["index"] for sample in samples] == list(range(number))
    if share is not None:
        assert np.mean([sample.labels[task] for sample in samples]) == pytest.approx(share)


# --- objective ---


def labelled(task: str, number: int = 8) -> list[Sample]:
    classes = len(TASKS[task].classes)
    words = ["a red circle", "the big square", "left of the blue", "a small red square"]
    return [
        Sample(
            text=words[i % 4],
            text_pair=words[(i + 1) % 4] if TASKS[task].text_pair else None,
            labels={task: i % classes, "index": 10 + i},
            source=f"given: {i}",
        )
        for i in range(number)
    ]


@pytest.mark.parametrize("task", ["cola", "mrpc", "mnli"])
def test_the_objective_keeps_its_contract(task: str) -> None:
    check_objective(GlueObjective, GlueObjective.Options(task=task), samples=labelled(task))


def make(task: str) -> GlueObjective:
    head = torch.nn.Linear(6, len(TASKS[task].classes))
    context: Any = SimpleNamespace(sizes=SimpleNamespace(text=6), make_head=lambda *_: head)
    return GlueObjective(GlueObjective.Options(task=task), context)


def outcome(logits: torch.Tensor, labels: torch.Tensor) -> tuple[ObjectiveBatch, ObjectiveOutput]:
    batch = ObjectiveBatch(
        num_targets=len(labels), tensors={"labels": labels}, identifiers=tuple(range(len(labels)))
    )
    return batch, ObjectiveOutput(torch.zeros(()), {"logits": logits})


SCORES: dict[str, dict[str, Callable[[Any, Any], float]]] = {
    task: {"accuracy": accuracy_score} for task in TASKS
}
SCORES["cola"] = {"matthews": matthews_corrcoef}
SCORES["mrpc"] = SCORES["qqp"] = {"accuracy": accuracy_score, "f1": f1_score}


@pytest.mark.parametrize("task", SCORES)
def test_metrics_are_those_of_glue(task: str) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = len(TASKS[task].classes)
    logits = torch.randn(50, classes, generator=generator)
    labels = torch.randint(classes, (50,), generator=generator)
    objective = make(task)
    found = objective.metrics()
    for part in (slice(0, 7), slice(7, 40), slice(40, 50)):
        objective.update_metrics(found, *outcome(logits[part], labels[part]))
    expected = {name: score(labels, logits.argmax(-1)) for name, score in SCORES[task].items()}
    assert {name: float(metric.compute()) for name, metric in found.items()} == pytest.approx(
        expected, abs=1e-6
    )


# Of a test file of rte, by role.
COLUMNS = ("--column", "text=sentence1", "--column", "text_pair=sentence2")
ONE_CLASS = {"0s": [0] * 9, "1s": [1] * 9, "one 1": [0] * 8 + [1], "one 0": [0] + [1] * 8}


@pytest.mark.filterwarnings("ignore:F-score is ill-defined", "ignore:.*single label was found")
@pytest.mark.parametrize("labels", ONE_CLASS.values(), ids=ONE_CLASS)
@pytest.mark.parametrize("predicted", [0, 1])
@pytest.mark.parametrize("task", ["cola", "mrpc"])
def test_a_model_that_always_predicts_one_class(
    task: str, predicted: int, labels: list[int]
) -> None:
    objective = make(task)
    found = objective.metrics()
    logits = torch.eye(2)[[predicted] * len(labels)]
    objective.update_metrics(found, *outcome(logits, torch.tensor(labels)))
    values = {name: float(metric.compute()) for name, metric in found.items()}
    expected = {
        name: score(labels, [predicted] * len(labels)) for name, score in SCORES[task].items()
    }
    assert values == pytest.approx(expected)
    assert values.get("matthews", 0) == 0


def test_matthews_of_many_samples_keeps_its_digits() -> None:
    # All labels but 5 of 400,000 are 1: in float32, products of the counts lose the difference.
    labels = np.ones(400_000, np.int64)
    labels[:5] = 0
    predicted = labels.copy()
    predicted[3:7] = 1 - predicted[3:7]
    objective = make("cola")
    found = objective.metrics()
    logits = torch.eye(2)[torch.from_numpy(predicted)]
    objective.update_metrics(found, *outcome(logits, torch.from_numpy(labels)))
    expected = matthews_corrcoef(labels, predicted)
    assert float(found["matthews"].compute()) == pytest.approx(expected, abs=1e-6)


def test_predictions_are_handed_in_as_glue_wants_them(tmp_path: Path) -> None:
    objective = make("mnli")
    batch, output = outcome(torch.eye(3)[[2, 0, 1]], torch.zeros(3, dtype=torch.int64))
    rows = objective.predictions(batch, output)
    with (tmp_path / "MNLI-m.tsv").open("w") as file:
        objective.write_predictions(json.loads(json.dumps(rows)), file)
    assert (tmp_path / "MNLI-m.tsv").read_text() == (
        "index\tprediction\n0\tcontradiction\n1\tentailment\n2\tneutral\n"
    )


# --- runs ---


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as pip would install it, for one test."""
    folder = tmp_path / "site"
    folder.mkdir()
    install_source(PACKAGE, folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def task_spec(folder: Path, task: str, base: str, objective: str | None = None) -> Path:
    """Write a tiny spec that trains on a task's lines, with a tokenizer of their words."""
    write_task(folder / "data", task, repeat=8)
    _, lines, *_ = FORMATS[task]
    words = sorted({word for line in lines for word in line.lower().replace("\t", " ").split()})
    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *words])
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder / "tokenizer")
    data, objectives, end = (base.index(s) for s in ("[[data.train]]", "[[obj", "[optimizer]"))
    own = "".join(
        f'[[data.{s}]]\ntype = "glue"\ntask = "{task}"\n\n' for s in ("train", "validate")
    )
    own += f'[[objectives]]\ntype = "glue"\ntask = "{objective or task}"\n\n'
    text = base[:data] + own + base[end:]
    text = text.replace('tokenizer = "dataset"', f'tokenizer = "{folder / "tokenizer"}"')
    text = text.replace("[data]\n", f'[data]\nroot = "{folder / "data"}"\n', 1)
    assert objectives < end
    return write_spec(folder, text)


@pytest.mark.parametrize("base", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_a_run_on_text_alone(base: str, site: Path, tmp_path: Path) -> None:
    spec = task_spec(tmp_path, "rte", base)
    settings = ["train.max_steps=30", "evaluate.every_steps=30", "optimizer.learning_rate=1e-2"]
    assert run_here(spec, tmp_path / "runs", *settings) == 0
    lines = metrics(tmp_path / "runs" / "tiny")
    # Two lines of words that tell them apart.
    assert lines[-1]["glue/accuracy"] == 1.0
    assert lines[-1]["glue/loss"] < 0.1


def test_predictions_of_a_trained_run(site: Path, tmp_path: Path) -> None:
    spec = task_spec(tmp_path, "rte", TINY)
    runs = tmp_path / "runs"
    assert run_here(spec, runs, "train.max_steps=30", "optimizer.learning_rate=1e-2") == 0
    test = tmp_path / "data" / "RTE" / "test.tsv"
    lines = FORMATS["rte"][1]
    rows = [f"{i}\t" + "\t".join(lines[i % 2].split("\t")[1:3]) for i in range(11)]
    test.write_text("index\tsentence1\tsentence2\n" + "".join(f"{row}\n" for row in rows))
    file = tmp_path / "RTE.tsv"
    arguments = ["evaluate", str(runs / "tiny"), "--split", "test", "--predictions", str(file)]
    finished = renaissance(*arguments)
    assert finished.code == 0, finished.err
    expected = [lines[i % 2].split("\t")[3] for i in range(11)]
    assert file.read_text() == "index\tprediction\n" + "".join(
        f"{i}\t{label}\n" for i, label in enumerate(expected)
    )
    # Nothing is measured without labels.
    assert "accuracy" not in finished.out
    for given in (["--split", "test"], ["--input", str(test), *COLUMNS]):
        output = tmp_path / "predicted"
        arguments = ["predict", str(runs / "tiny"), *given, "--output", str(output)]
        finished = renaissance(*arguments)
        assert finished.code == 0, finished.err
        assert output.read_bytes() == file.read_bytes()


def test_an_objective_of_another_task_is_refused(site: Path, tmp_path: Path) -> None:
    spec = task_spec(tmp_path, "rte", TINY, objective="mnli")
    with pytest.raises(DataError) as caught:
        run_here(spec, tmp_path / "runs")
    assert str(caught.value).startswith(
        "objective 'glue' needs mnli, which data.train[0] ('glue') does not provide (it provides "
        "index, rte, text, text_pair)"
    )


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(site: Path, tmp_path: Path) -> None:
    spec = task_spec(tmp_path, "mrpc", TINY)
    settings = ["train.max_steps=6", "evaluate.every_steps=3"]
    found = {}
    for ranks in (1, 2):
        finished = torchrun(
            ranks,
            *(str(spec), f"run.output_dir={tmp_path / str(ranks)}", *settings),
            PYTHONPATH=str(site),
        )
        assert finished.returncode == 0, finished.stderr
        found[ranks] = [
            [line[f"glue/{name}"] for name in ("loss", "accuracy", "f1")]
            for line in metrics(tmp_path / str(ranks) / "tiny")
            if line["split"] == "validate"  # type: ignore[comparison-overlap]
        ]
    assert len(found[1]) == 2
    np.testing.assert_allclose(found[2], found[1], atol=1e-5)


# --- the package ---


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_complete(recipe: Path, site: Path) -> None:
    if recipe.stem == "glue":
        assert recipe.read_text().startswith("# What the tasks share")
        return
    plugins = load_plugins()
    spec = load_spec([str(recipe)], plugins)
    (dataset,), (objective,) = spec.data.train, spec.objectives
    assert dataset.options.task == objective.options.task == recipe.stem == spec.run.name
    metric = spec.checkpoint.best_metric.removeprefix("glue/")
    assert metric in make(recipe.stem).metrics()
    assert spec.checkpoint.best_mode == "max"


def test_every_task_has_a_recipe() -> None:
    assert {recipe.stem for recipe in RECIPES} == {"glue", *TASKS}


@pytest.mark.slow
def test_the_package_in_a_fresh_environment(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    copy_package("renaissance-glue", tmp_path)
    fresh.run("pip install ./renaissance-glue")
    assert "nothing is wrong" in fresh.run("renaissance plugins doctor")
    assert "glue\trenaissance-glue\t0.1.0" in fresh.run("renaissance plugins")
    spec = task_spec(tmp_path, "cola", TINY)
    fresh.run(f"torchrun --standalone --nproc-per-node 2 -m renaissance {spec} train.max_steps=4")
    assert metrics(tmp_path / "runs" / "tiny")[-1]["step"] == 4
