"""The whole way: prepare official files, pretrain, fine-tune, evaluate, predict, hand in."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pytest
import torch
from support.command_line import Finished, renaissance
from support.drawn_parameters import draw_parameters, initialization_by_numpy
from support.official_layouts import SPECIAL_TOKENS, WORDS, write_all
from support.running import TINY, write_spec
from support.tiny_models import save_model, without_dropout
from support.two_ranks import on_two_ranks, results
from transformers import BertTokenizer

TOWERS = {
    "two-tower": """
[model.text_encoder]
type = "hf-text"
checkpoint = "{folder}/bert"

[model.image_encoder]
type = "hf-image"
checkpoint = "{folder}/vit"

[model.fusion]
type = "co-attention"
hidden_size = 16
num_layers = 2
num_heads = 2
dropout = 0.0

""",
    "one-tower": """
[model]
type = "one-tower"

[model.encoder]
type = "hf-joint"
checkpoint = "{folder}/vit"

""",
}


@attrs.frozen
class Task:
    """A task to fine-tune on.

    Attributes:
        dataset: Its dataset.
        objective: Its objective, with options, TOML.
        test: Name of a split beside validate.
        files: Prepared files of both splits.
        suffix: Of its predictions; None for a task that makes none.
    """

    dataset: str
    objective: str
    test: str
    files: dict[str, str]
    suffix: str | None


def _task(dataset: str, test: str, files: Sequence[str], suffix: str | None, **more: str) -> Task:
    by_split = dict(zip(("validate", test), files, strict=True))
    return Task(dataset, more.get("objective", f'type = "{dataset}"'), test, by_split, suffix)


TASKS = {
    "vqa": _task(
        "vqav2", "test-dev", ["vqav2_val", "vqav2_test-dev"], "json", objective='type = "vqa"'
    ),
    "nlvr2": _task("nlvr2", "test", ["nlvr2_dev", "nlvr2_test1"], "csv"),
    "snli-ve": _task("snli-ve", "test", ["snli_dev", "snli_test"], "csv"),
    "refcoco": _task("refcoco", "testA", ["refcoco_unc_val", "refcoco_unc_testA"], "jsonl"),
    "retrieval": _task(
        "f30k",
        "test",
        ["f30k_caption_karpathy_val", "f30k_caption_karpathy_test"],
        None,
        objective='type = "retrieval"\nnum_negatives = 3',
    ),
}
CASES = [(task, tower) for task in TASKS for tower in TOWERS]
# Seeds with which a fine-tuned model predicts different things, if not 1.
SEEDS = {("vqa", "two-tower"): 2, ("vqa", "one-tower"): 7, ("snli-ve", "one-tower"): 2}
# SGD: Adam's first steps would blow rounding up where a gradient is nearly zero.
SETTINGS = (
    "run.seed=1",
    "train.max_steps=2",
    "evaluate.every_steps=2",
    "evaluate.micro_batch_size=3",
    "optimizer.type=sgd",
    "optimizer.learning_rate=0.002",
    "schedule.warmup_steps=1",
    # Of such weights, gradients are large, and so would be what rounding makes of them.
    "train.gradient_clip=1.0",
)


def save_keen_model(folder: Path, name: str, **config: object) -> None:
    """Write a model of weights so large that what is predicted depends on what is seen."""
    model = save_model(folder, name, **config, **without_dropout(name))
    draw_parameters(model, 0.02)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "position" in key or "token_type" in key or "cls_token" in key:
                parameter *= 0.5
            elif parameter.ndim > 1:
                parameter *= 2
            else:
                parameter.fill_(float("norm" in key.lower() and key.endswith("weight")))
    model.save_pretrained(folder)


class Chain:
    """Prepared data, and the runs on it, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.sources = write_all(folder / "official")
        for name, source in self.sources.items():
            self.call("data", "prepare", name, "--source", source, "--output", self.data)
        words = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *WORDS])}
        BertTokenizer(vocab=words).save_pretrained(folder / "tokenizer")
        save_keen_model(folder / "bert", "bert", vocab_size=len(words))
        save_keen_model(folder / "vit", "vit")
        self._made: set[Path] = set()

    @staticmethod
    def call(*arguments: object) -> Finished:
        # What is predicted depends on the parameters that are new, such as those of the heads.
        with initialization_by_numpy():
            finished = renaissance(*map(str, arguments))
        assert finished.code == 0, finished.err
        return finished

    def pretraining(self, tower: str, output: Path) -> list[str]:
        """The command that pretrains."""
        spec = self._spec(tower, "coco", ['type = "mlm"', 'type = "itm"\nnegatives = "dataset"'])
        return self._training(spec, output, f"pretrain-{tower}", [])

    def finetuning(self, task: str, tower: str, output: Path) -> list[str]:
        """The command that fine-tunes."""
        spec = self._spec(tower, TASKS[task].dataset, [TASKS[task].objective])
        start = f"model.init_from={output / f'pretrain-{tower}'}"
        seed = f"run.seed={SEEDS.get((task, tower), 1)}"
        return self._training(spec, output, f"{task}-{tower}", [start, seed])

    def evaluation(self, run: Path, task: str, split: str) -> list[str]:
        """The command that evaluates, and predicts if the task does."""
        command = ["evaluate", str(run), "--split", split]
        path = self.predictions(run, task, split)
        return [*command, "--predictions", str(path)] if path else command

    def predictions(self, run: Path, task: str, split: str) -> Path | None:
        suffix = TASKS[task].suffix
        return run / f"{split}.{suffix}" if suffix else None

    def run(self, task: str, tower: str) -> Path:
        """Return a run of one rank, fine-tuned and evaluated."""
        output = self.folder / "runs"
        for folder, command in (
            (output / f"pretrain-{tower}", self.pretraining(tower, output)),
            (output / f"{task}-{tower}", self.finetuning(task, tower, output)),
        ):
            if folder not in self._made:
                self.call(*command)
                self._made.add(folder)
                if "pretrain" not in folder.name:
                    for split in TASKS[task].files:
                        self.call(*self.evaluation(folder, task, split))
        return folder

    def rows(self, file: str) -> list[dict[str, Any]]:
        """Return the rows of a prepared file."""
        with pa.memory_map(str(self.data / f"{file}.arrow")) as mapped:
            return list(pa.ipc.open_file(mapped).read_all().to_pylist())

    def _spec(self, tower: str, dataset: str, objectives: Sequence[str]) -> str:
        model, end = TINY.index("[model.text_encoder]"), TINY.index("[optimizer]")
        data, tables = TINY.index("[data]"), TINY.index("[[data.train]]")
        settings = f'root = "{self.data}"\ntokenizer = "{self.folder / "tokenizer"}"'
        return "".join(
            [
                TINY[:model],
                TOWERS[tower].format(folder=self.folder),
                TINY[data:tables].replace('tokenizer = "dataset"', settings),
                *(f'[[data.{s}]]\ntype = "{dataset}"\n\n' for s in ("train", "validate")),
                *(f"[[objectives]]\n{objective}\n\n" for objective in objectives),
                TINY[end:],
            ]
        )

    def _training(self, spec: str, output: Path, name: str, more: Sequence[str]) -> list[str]:
        path = write_spec(self.folder / "specs" / name, spec)
        where = [f"run.output_dir={output}", f"run.name={name}"]
        return ["train", str(path), *where, *SETTINGS, *more]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


# --- what was predicted, against the downloaded annotations ---


def assert_varied(predicted: Mapping[Any, Any]) -> None:
    """Check that not all predictions are alike: then it would not matter whose they are."""
    assert len(set(predicted.values())) > 1


def vqa_score(chain: Chain, path: Path) -> float:
    """Official accuracy on val2014: the mean over the ways to leave one annotator out."""
    content = json.loads(
        (chain.sources["vqav2"] / "v2_mscoco_val2014_annotations.json").read_text()
    )
    given = {
        annotation["question_id"]: [answer["answer"] for answer in annotation["answers"]]
        for annotation in content["annotations"]
    }
    predicted = {row["question_id"]: row["answer"] for row in json.loads(path.read_text())}
    assert predicted.keys() == given.keys()
    assert_varied(predicted)
    scores = []
    for question_id, answers in given.items():
        for left_out in range(len(answers)):
            others = answers[:left_out] + answers[left_out + 1 :]
            scores.append(min(others.count(predicted[question_id]) / 3, 1))
    return sum(scores) / len(scores)


def nlvr2_score(chain: Chain, path: Path) -> float:
    lines = (chain.sources["nlvr2"] / "nlvr2" / "data" / "dev.json").read_text().splitlines()
    labels = {entry["identifier"]: entry["label"] for entry in map(json.loads, lines)}
    predicted = dict(csv.reader(path.read_text().splitlines()))
    assert predicted.keys() == labels.keys()
    assert_varied(predicted)
    return sum(predicted[i] == label for i, label in labels.items()) / len(labels)


def snli_ve_score(chain: Chain, path: Path) -> float:
    lines = (chain.sources["snli-ve"] / "snli_ve_dev.jsonl").read_text().splitlines()
    entries = list(map(json.loads, lines))
    labels = {(e["sentence1"], e["sentence2"]): e["gold_label"] for e in entries}
    predicted = {row["identifier"]: row["prediction"] for row in csv.DictReader(path.open())}
    assert_varied(predicted)
    rows = chain.rows("snli_dev")
    right = [
        predicted[f"{row}:{position}"] == labels[tuple(pair)]
        for row, content in enumerate(rows)
        for position, pair in enumerate(content["sentences"])
    ]
    assert len(right) == len(predicted) == len(entries)
    return sum(right) / len(right)


def refcoco_score(chain: Chain, path: Path) -> float:
    predicted = [json.loads(line) for line in path.read_text().splitlines()]
    rows = chain.rows("refcoco_unc_val")
    assert len(predicted) == sum(len(row["sentences"]) for row in rows)
    chosen = {row["identifier"]: row["box"] for row in predicted}
    assert_varied(chosen)
    right = [
        chosen[f"{row}:{position}"] == content["labels"]
        for row, content in enumerate(rows)
        for position in range(len(content["sentences"]))
    ]
    return sum(right) / len(right)


SCORES: dict[str, Callable[[Chain, Path], float]] = {
    "vqa": vqa_score,
    "nlvr2": nlvr2_score,
    "snli-ve": snli_ve_score,
    "refcoco": refcoco_score,
}


@pytest.mark.parametrize(("task", "tower"), CASES)
def test_what_is_measured_is_what_is_handed_in(chain: Chain, task: str, tower: str) -> None:
    run = chain.run(task, tower)
    actual = results(run)["metrics"]
    if task in SCORES:
        path = chain.predictions(run, task, "validate")
        assert path is not None
        assert actual[f"{task}/accuracy"] == pytest.approx(SCORES[task](chain, path), abs=1e-6)
    else:
        for way in ("image_to_text", "text_to_image"):
            recalls = [actual[f"retrieval/{way}_r{k}"] for k in (1, 5, 10)]
            assert 0 <= recalls[0] <= recalls[1] <= recalls[2] == 1
    assert actual["loss"] > 0
    measured = results(run, TASKS[task].test)["metrics"]
    # The answers to VQA's test questions are not public.
    assert measured.keys() == (set() if task == "vqa" else actual.keys())


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize(
    ("task", "split", "questions"),
    [
        ("vqa", "test-dev", "official/vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json"),
        ("vqa", "validate", "official/vqav2/v2_OpenEnded_mscoco_val2014_questions.json"),
        ("nlvr2", "test", "official/nlvr2/nlvr2/data/test1.json"),
        ("snli-ve", "test", "data/snli_test.arrow"),
    ],
)
def test_predictions_may_be_handed_in(
    chain: Chain, task: str, tower: str, split: str, questions: str
) -> None:
    path = chain.predictions(chain.run(task, tower), task, split)
    command = ["data", "validate-submission", path, "--objective", task]
    finished = chain.call(*command, "--questions", chain.folder / questions)
    assert finished.out.endswith("ok: every question is answered once\n")


def prediction(run: Path, split: str, output: Path, *more: object) -> list[str]:
    """The command that predicts a split in the task's own form."""
    return ["predict", str(run), "--split", split, "--output", str(output), *map(str, more)]


@pytest.mark.parametrize(("task", "tower"), [case for case in CASES if TASKS[case[0]].suffix])
def test_predict_writes_what_evaluate_does(
    chain: Chain, task: str, tower: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, after run and data have moved, without the hub, for any batch size."""
    run = chain.run(task, tower)
    moved, data = tmp_path / "moved", tmp_path / "data"
    shutil.copytree(run, moved, symlinks=True)
    spec = moved / "spec.toml"
    # What the run was made from is not there any more.
    spec.write_text(spec.read_text().replace(str(chain.folder), "/gone"))
    data.symlink_to(chain.data)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for split, batch_size in zip(TASKS[task].files, (2, 100), strict=True):
        output = tmp_path / f"{split}.txt"
        more = ("--data-root", data, "--batch-size", batch_size)
        chain.call(*prediction(moved, split, output, *more))
        expected = chain.predictions(run, task, split)
        assert expected is not None
        assert output.read_bytes() == expected.read_bytes()


def assert_alike(ours: Path, theirs: Path, task: str) -> None:
    """Check that two runs measured and predicted the same."""
    for split in TASKS[task].files:
        assert results(ours, split)["metrics"] == pytest.approx(
            results(theirs, split)["metrics"], abs=1e-4
        )
        suffix = TASKS[task].suffix
        if suffix:
            texts = [(run / f"{split}.{suffix}").read_text() for run in (ours, theirs)]
            assert texts[0] == texts[1]


def test_two_ranks_measure_and_predict_what_one_does(chain: Chain) -> None:
    commands = []
    for task, tower in CASES:
        run = chain.run(task, tower)
        copy = chain.folder / "two" / run.name
        copy.mkdir(parents=True)
        for name in ("spec.toml", "checkpoints"):
            (copy / name).symlink_to(run / name)
        commands += [chain.evaluation(copy, task, split) for split in TASKS[task].files]
        if TASKS[task].suffix:
            output = chain.folder / f"{run.name}.txt"
            commands.append(prediction(run, "validate", output, "--batch-size", 2))
    on_two_ranks(chain.folder, commands)
    for task, tower in CASES:
        name = f"{task}-{tower}"
        assert_alike(chain.folder / "runs" / name, chain.folder / "two" / name, task)
        expected = chain.predictions(chain.folder / "runs" / name, task, "validate")
        if expected is not None:
            assert (chain.folder / f"{name}.txt").read_bytes() == expected.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS)
def test_the_whole_way_on_two_ranks(chain: Chain, tower: str) -> None:
    output = chain.folder / "whole"
    commands = [chain.pretraining(tower, output)]
    for task in TASKS:
        commands.append(chain.finetuning(task, tower, output))
        run = output / f"{task}-{tower}"
        commands += [chain.evaluation(run, task, split) for split in TASKS[task].files]
    on_two_ranks(chain.folder, commands)
    for task in TASKS:
        assert_alike(chain.run(task, tower), output / f"{task}-{tower}", task)
