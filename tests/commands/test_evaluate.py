"""`renaissance evaluate`: splits, checkpoints, ranks, predictions, and what it refuses."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli
from support.arrow_files import rows as image_rows
from support.arrow_files import spec_with_files, write_arrow
from support.asserting import assert_refused
from support.command_line import renaissance
from support.full_disk import full_disk
from support.running import TINY, metrics, run_here, write_spec
from support.terminal import on_a_terminal, visible_lines
from support.two_ranks import on_two_ranks, results

from renaissance.cli import main
from renaissance.engine.evaluate import SplitResult
from renaissance.plugins.loading import load_plugins
from renaissance.spec.choice import FusionChoice
from renaissance.spec.read import load_spec

# Samples of each split; in micro-batches of 8, a second rank has none of "test".
SIZES = {"train": 24, "validate": 21, "test": 5, "hidden": 9}

LEVELS = '''
"""Dark and bright pictures, and an objective that tells them apart."""

from typing import Literal

import attrs
import torch
import torch.nn.functional as F
from PIL import Image
from renaissance import (
    DataError, Dataset, Objective, ObjectiveBatch, ObjectiveOutput, Pairs, Sample, hookimpl, option
)
from torchmetrics import MeanMetric

SIZES = {"train": 24, "validate": 21, "test": 5, "hidden": 9}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six"]


class Levels(Dataset):
    """A word with a picture; nobody knows the answers of the split "hidden"."""

    @attrs.frozen
    class Options:
        """Options of `levels`."""

        split: Literal["train", "validate", "test", "hidden"] | None = option(None, help="Split.")
        bad: int = option(-1, help="A sample that cannot be read.")

    def __init__(self, options, context):
        self.split = options.split or ("train" if context.training else "validate")
        self.bad = options.bad
        labels = {"identifier"} if self.split == "hidden" else {"identifier", "bright"}
        self.provides = frozenset({"text", "image"} | labels)
        # Each split has the words in a different order.
        self.vocabulary = SPECIAL + (WORDS if self.split == "train" else WORDS[::-1])

    def __len__(self):
        return SIZES[self.split]

    def sample(self, index, generator):
        if index == self.bad:
            raise DataError(f"sample {index}: damaged")
        level = 37 * (index + len(self.split)) % 256
        labels = {"identifier": f"{self.split}-{index}", "bright": int(level > 127)}
        return Sample(
            text=WORDS[index % len(WORDS)],
            images=(Image.new("RGB", (32, 32), (level, level, level)),),
            image_ids=(f"{self.split}-{index}",),
            labels={name: value for name, value in labels.items() if name in self.provides},
            source=f"sample {index}",
        )


class Bright(Objective):
    """Is the picture bright?"""

    requires = frozenset({"text", "image", "identifier"})
    labels = frozenset({"bright"})

    default_head = "linear"

    @attrs.frozen
    class Options:
        """No options."""

    def __init__(self, options, context):
        super().__init__()
        self.head = context.make_head(context.sizes.pooled, 2)

    def collate(self, samples, builder):
        known = all("bright" in s.labels for s in samples)
        labels = [s.labels["bright"] for s in samples] if known else []
        return ObjectiveBatch(
            len(labels),
            Pairs(
                torch.tensor([builder.text(s) for s in samples]),
                torch.tensor([builder.image(s) for s in samples]),
            ),
            {"labels": torch.tensor(labels)} if known else {},
            tuple(s.labels["identifier"] for s in samples),
        )

    def forward(self, batch, features):
        logits = self.head(features.fused.pooled)
        if "labels" in batch.tensors:
            loss = F.cross_entropy(logits, batch.tensors["labels"], reduction="sum")
        else:
            loss = logits.sum() * 0
        return ObjectiveOutput(loss, {"logits": logits.detach()})

    def metrics(self):
        return {"accuracy": MeanMetric()}

    def update_metrics(self, metrics, batch, output):
        if "labels" in batch.tensors:
            right = output.predictions["logits"].argmax(1) == batch.tensors["labels"]
            metrics["accuracy"].update(right.float())

    def predictions(self, batch, output):
        scores = output.predictions["logits"].softmax(1)[:, 1].tolist()
        return [
            {"identifier": i, "bright": round(score, 5)}
            for i, score in zip(batch.identifiers, scores)
        ]


@hookimpl
def register_datasets(register):
    register("levels", Levels)


@hookimpl
def register_objectives(register):
    register("bright", Bright)
'''

SMALL_FUSION = """

from renaissance.builtin.fusions.co_attention import CoAttention
from renaissance.builtin.fusions.options import StackOptions


class Small(CoAttention):
    \"\"\"Co-attention, small by default.\"\"\"

    @attrs.frozen
    class Options(StackOptions):
        \"\"\"Other defaults.\"\"\"

        hidden_size: int = option(16, help="Width.")
        num_layers: int = option(2, help="Layers.")
        num_heads: int = option(2, help="Heads.")
        dropout: float = option(0.0, help="Dropout.")
        attention_dropout: float = option(0.0, help="Dropout of attention.")


@hookimpl
def register_fusions(register):
    register("small", Small)
"""


def levels_spec(objectives: str = "bright") -> str:
    """The tiny spec with the dataset above, and objectives."""
    text = TINY.replace('name = "tiny"', 'name = "tiny"\nplugins = ["./levels.py"]')
    data, end = text.index("[[data.train]]"), text.index("[optimizer]")
    datasets = '[[data.train]]\ntype = "levels"\n\n[[data.validate]]\ntype = "levels"\n\n'
    tables = "".join(f'[[objectives]]\ntype = "{name}"\n\n' for name in objectives.split())
    return text[:data] + datasets + tables + text[end:]


def write_levels(folder: Path, objectives: str = "bright") -> Path:
    path = write_spec(folder, levels_spec(objectives))
    (folder / "levels.py").write_text(LEVELS)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 4 and 8; the worse one counts as its best."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ["train.max_steps=8", "evaluate.every_steps=4", "checkpoint.best_mode=max"]
    assert run_here(write_levels(folder), folder / "runs", *settings) == 0
    return folder / "runs" / "tiny"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, in another folder."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny", symlinks=True))


def evaluate(*arguments: object) -> str:
    finished = renaissance("evaluate", "--trust-plugins", *map(str, arguments))
    assert finished.code == 0, finished.err
    return finished.out


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def measured_in_training(run: Path, step: int) -> dict[str, float]:
    (line,) = [m for m in metrics(run) if m.get("split") == "validate" and m["step"] == step]
    return {name: value for name, value in line.items() if name == "loss" or "/" in name}


def test_it_finds_what_training_found(run: Path) -> None:
    for checkpoint, step in (("best", 4), ("last", 8)):
        out = evaluate(run, "--checkpoint", checkpoint)
        actual = results(run)
        assert actual["metrics"] == pytest.approx(measured_in_training(run, step), rel=1e-5)
        assert actual["checkpoint"] == str(run / "checkpoints" / f"step-{step:08d}")
        assert f"checkpoint: {actual['checkpoint']}\n" in out
        assert re.search(rf"bright/loss +{actual['metrics']['bright/loss']:.4f} +21 *\n", out)
        assert "tiny, validate: 21 samples\n" in out
        assert (actual["num_samples"], actual["num_targets"]) == (21, {"bright": 21})
    assert measured_in_training(run, 4)["loss"] > measured_in_training(run, 8)["loss"] + 1e-3


def test_results_that_are_not_finite_are_null(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SplitResult({"loss": float("nan"), "bright/loss": 1.0}, [], {}, 0, 1, {})
    monkeypatch.setattr("renaissance.commands.evaluate.evaluate", lambda *_, **__: found)
    assert "nan" in evaluate(run)
    assert results(run)["metrics"] == {"loss": None, "bright/loss": 1.0}
    assert "NaN" not in (run / "results.json").read_text()


@pytest.mark.parametrize("text", ["", '{"test": ', "[]", "null", "[" * 100_000, "\udcff"])
def test_damaged_results_cost_no_evaluation(run: Path, text: str) -> None:
    (run / "results.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    out = evaluate(run)
    assert f"warning: {run / 'results.json'} is damaged: expected a JSON object; it is now " in out
    assert results(run)["metrics"]["loss"] > 0
    assert (run / "results.damaged.json").read_text(errors="surrogateescape") == text


def test_a_full_disk_costs_no_figures(run: Path) -> None:
    evaluate(run)
    before = (run / "results.json").read_bytes()
    command = ["evaluate", "--trust-plugins", str(run)]
    command += ["--predictions", str(run / "predictions.jsonl")]
    with full_disk():
        finished = renaissance(*command)
    assert finished.code == 1
    assert "bright/accuracy" in finished.out
    for name in ("results.json", "predictions.jsonl"):
        assert f"File too large: '{run / name}'" in finished.err
    assert (run / "results.json").read_bytes() == before
    assert not list(run.glob("*.partial"))


def test_a_default_that_changes_later_changes_nothing_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_levels(tmp_path)
    (tmp_path / "levels.py").write_text(LEVELS + SMALL_FUSION)
    text = path.read_text()
    path.write_text(text[: text.index("[model.fusion]")] + text[text.index("[data]") :])
    monkeypatch.setattr(FusionChoice, "default_type", "small")
    assert run_here(path, tmp_path / "runs", "train.max_steps=2", "evaluate.every_steps=2") == 0
    run = tmp_path / "runs" / "tiny"
    recorded = tomli.loads((run / "spec.toml").read_text())["model"]["fusion"]
    assert recorded == {
        "type": "small",
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_ratio": 4.0,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "frozen": False,
    }

    monkeypatch.setattr(FusionChoice, "default_type", "merged-attention")
    evaluate(run)
    assert results(run)["metrics"] == pytest.approx(measured_in_training(run, 2), rel=1e-5)
    # The run spec, read again, now means another model.
    now = load_spec([str(path)], load_plugins())
    assert now.model.fusion is not None
    assert now.model.fusion.type == "merged-attention"


def test_a_checkpoint_may_be_named_by_its_folder(run: Path, trained: Path) -> None:
    evaluate(run, "--checkpoint", trained / "checkpoints" / "step-00000008")
    assert results(run)["metrics"] == pytest.approx(measured_in_training(run, 8), rel=1e-5)
    assert results(run)["checkpoint"] == str(trained / "checkpoints" / "step-00000008")


def test_a_run_may_be_moved_and_named_anew(run: Path, trained: Path) -> None:
    # A name that TOML would read as a number.
    moved = run.rename(run.parent / "2024")
    evaluate(moved, "evaluate.micro_batch_size=5")
    assert results(moved)["metrics"] == pytest.approx(measured_in_training(moved, 4), rel=1e-5)
    assert results(moved)["checkpoint"].startswith(str(moved))
    assert not (trained / "results.json").exists()


def test_each_split_once_by_one_rank_and_by_two(run: Path) -> None:
    commands, ones = [], {}
    for split in SIZES:
        path = run.parent / f"{split}.jsonl"
        evaluate(run, "--split", split, "--predictions", path)
        ones[split] = (results(run, split), rows(path))
        path.unlink()
        commands.append(
            ["evaluate", "--trust-plugins", str(run), "--split", split, "--predictions", str(path)]
        )
    (run / "results.json").unlink()
    out = on_two_ranks(run.parent, commands)
    for split, (one, predicted) in ones.items():
        assert [row["identifier"] for row in predicted] == [
            f"{split}-{index}" for index in range(SIZES[split])
        ]
        two = rows(run.parent / f"{split}.jsonl")
        assert [row["identifier"] for row in two] == [row["identifier"] for row in predicted]
        for ours, theirs in zip(predicted, two, strict=True):
            assert ours["bright"] == pytest.approx(theirs["bright"], abs=2e-5)
        actual = results(run, split)
        assert actual["checkpoint"] == one["checkpoint"]
        assert actual["metrics"] == pytest.approx(one["metrics"], rel=1e-6)
        # Rank 0 alone speaks.
        assert out.count(f"tiny, {split}") == 1


def test_metrics_are_those_of_the_predictions(run: Path) -> None:
    for split in ("validate", "test", "train"):
        evaluate(run, "--split", split, "--predictions", run / "predictions.jsonl")
        truth = [37 * (index + len(split)) % 256 > 127 for index in range(SIZES[split])]
        predicted = [row["bright"] > 0.5 for row in rows(run / "predictions.jsonl")]
        right = sum(a == b for a, b in zip(truth, predicted, strict=True))
        actual = results(run, split)["metrics"]
        assert actual["bright/accuracy"] == pytest.approx(right / SIZES[split])
    assert set(json.loads((run / "results.json").read_text())) == {"validate", "test", "train"}


def test_a_split_without_labels_is_predicted_and_not_measured(run: Path) -> None:
    out = evaluate(run, "--split", "hidden", "--predictions", run / "predictions.jsonl")
    assert results(run, "hidden")["metrics"] == {}
    assert results(run, "hidden")["num_samples"] == SIZES["hidden"]
    assert results(run, "hidden")["num_targets"] == {"bright": 0}
    assert len(rows(run / "predictions.jsonl")) == SIZES["hidden"]
    assert "bright/" not in out
    assert f"written: {run / 'predictions.jsonl'}\n" in out


def test_settings_that_are_not_those_of_the_run_are_recorded(run: Path) -> None:
    out = evaluate(run)
    assert results(run)["changed_settings"] == {}
    assert "not as in the run's spec" not in out
    out = evaluate(run, "--split", "test", "evaluate.micro_batch_size=5", "optimizer.type=adamw")
    assert results(run, "test")["changed_settings"] == {
        "data.validate.0.split": {"run": None, "evaluation": "test"},
        "evaluate.micro_batch_size": {"run": 8, "evaluation": 5},
    }
    assert "not as in the run's spec: evaluate.micro_batch_size = 5 (there: 8)\n" in out
    # What was recorded of the other split stays.
    assert results(run)["changed_settings"] == {}


def test_progress_is_shown(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "evaluation: 21 of 21 samples on rank 0, " in evaluate(run)
    monkeypatch.setattr("sys.argv", ["renaissance", "evaluate", "--trust-plugins", str(run)])

    def act() -> None:
        with pytest.raises(SystemExit):
            main()

    lines = visible_lines(on_a_terminal(act, monkeypatch))
    assert any(re.fullmatch(r"evaluation: samples 21/21 ━+ .* left 0:00:00", s) for s in lines)


def test_several_objectives_have_a_file_each(run: Path, tmp_path: Path) -> None:
    spec = write_levels(tmp_path, "bright").read_text()
    twice = spec.replace(
        'type = "bright"\n', 'type = "bright"\n[[objectives]]\ntype = "bright"\nname = "again"\n'
    )
    path = write_spec(tmp_path, twice)
    settings = ["train.max_steps=1", f"run.output_dir={tmp_path}", "run.name=two"]
    assert run_here(path, tmp_path, *settings) == 0
    evaluate(tmp_path / "two", "--predictions", tmp_path / "out.jsonl")
    for name in ("bright", "again"):
        assert len(rows(tmp_path / f"out-{name}.jsonl")) == SIZES["validate"]
    assert not (tmp_path / "out.jsonl").exists()


def test_the_test_file_beside_the_validation_file(tmp_path: Path) -> None:
    """As in the README: files of one name for each split."""
    for split, number in (("train", 8), ("val", 3), ("test", 2)):
        write_arrow(tmp_path / f"flickr8k_{split}.arrow", image_rows(number))
    spec = spec_with_files(tmp_path)
    text = spec.read_text().replace('"train.arrow"', '"flickr8k_train.arrow"')
    validate = '[[data.validate]]\ntype = "image-text"\nfiles = "flickr8k_val.arrow"\n\n'
    spec.write_text(text.replace("[[objectives]]", f"{validate}[[objectives]]", 1))
    assert run_here(spec, tmp_path, "train.max_steps=1") == 0
    for split, number in (("validate", 3), ("test", 2), ("train", 8)):
        evaluate(tmp_path / "tiny", "--split", split)
        assert results(tmp_path / "tiny", split)["num_samples"] == number
    (tmp_path / "flickr8k_test.arrow").unlink()
    refused = renaissance("evaluate", str(tmp_path / "tiny"), "--split", "test")
    assert_refused(refused, f"{tmp_path}/flickr8k_test.arrow: no such file")


def test_records_that_cannot_be_read_are_counted(run: Path) -> None:
    arguments = [str(run), "data.validate.0.bad=3"]
    refused = renaissance("evaluate", "--trust-plugins", *arguments)
    assert_refused(refused, "sample 3: damaged")
    path = run / "predictions.jsonl"
    out = evaluate(*arguments, "data.max_bad_samples=1", "--predictions", path)
    assert "left out: 1 records that cannot be read" in out
    assert results(run)["num_bad_samples"] == 1
    assert (results(run)["num_samples"], results(run)["num_targets"]) == (20, {"bright": 20})
    actual = [row["identifier"] for row in rows(path)]
    assert actual == [f"validate-{index}" for index in range(21) if index != 3]


def test_a_run_that_never_trained_is_evaluated_as_it_starts(run: Path, tmp_path: Path) -> None:
    spec = write_levels(tmp_path)
    settings = [f"run.output_dir={tmp_path}", "run.name=fresh", f"model.init_from={run}"]
    evaluate(spec, *settings)
    actual = results(tmp_path / "fresh")
    assert actual["checkpoint"] == str(run / "checkpoints" / "step-00000004")
    assert actual["metrics"] == pytest.approx(measured_in_training(run, 4), rel=1e-5)
    # Its spec is left there, so that the folder can be evaluated by itself.
    fresh = tmp_path / "fresh"
    assert tomli.loads((fresh / "spec.toml").read_text())["model"]["init_from"] == str(run)
    evaluate(fresh, "--split", "test")
    assert set(json.loads((fresh / "results.json").read_text())) == {"validate", "test"}
    more = write_levels(tmp_path / "more", "bright mlm itm")
    settings[1] = "run.name=other"
    assert_refused(
        renaissance("evaluate", str(more), *settings),
        "(model.init_from) has no parameters for objectives.mlm, objectives.itm; train the run",
    )


def test_what_cannot_be_evaluated_is_said(run: Path, tmp_path: Path) -> None:
    folder, name = str(run), str(run / "predictions.jsonl")
    (tmp_path / "empty").mkdir()
    matching = str(write_levels(tmp_path / "matching", "itm"))
    shapes = str(write_spec(tmp_path / "shapes"))
    without_checkpoint = str(write_levels(tmp_path / "own"))
    cases = [
        ([str(tmp_path / "gone")], [f"{tmp_path / 'gone'}: no such folder; expected a run folder"]),
        ([str(tmp_path / "gone.toml")], [f"{tmp_path / 'gone.toml'}: there is no such file"]),
        ([str(tmp_path / "empty")], [f"{tmp_path / 'empty'}: no spec.toml there; expected a run"]),
        (
            [folder, "--split", "tset"],
            ['--split: for data.validate[0], got "tset", expected "train" |', '"hidden"'],
        ),
        ([folder, "--split", "2017"], ['error: --split: for data.validate[0], got "2017"']),
        (
            [shapes, "--split", "test"],
            ["error: --split test: data.validate[0] ('shapes') has no other splits; expected"],
        ),
        ([folder, "--split", "test", "data.validate=[]"], ["--split test: the run has no"]),
        ([folder, "data.validate=[]"], ["data.validate: missing; there is nothing to evaluate"]),
        ([folder, "--checkpoint", "bset"], ["bset: no checkpoint there; expected a folder with"]),
        (
            [folder, "--predictions", str(tmp_path / "no" / "p.json")],
            [f"--predictions: there is no folder {tmp_path / 'no'}; make it first"],
        ),
        ([folder, "--predictions", str(tmp_path)], [f"{tmp_path} is a folder; name a file"]),
        ([matching, "--predictions", name], ["none of the objectives (itm) makes predictions"]),
        (
            [without_checkpoint, f"run.output_dir={tmp_path}"],
            [f"{tmp_path / 'tiny'}: no checkpoint there; train the run first, or set"],
        ),
    ]
    for arguments, texts in cases:
        assert_refused(renaissance("evaluate", "--trust-plugins", *arguments), *texts)
    assert not (run / "results.json").exists()
    assert not Path(name).exists()


def test_controls_measure_without_one_modality(tmp_path: Path) -> None:
    run_here(write_spec(tmp_path), tmp_path, "train.max_steps=4")
    run = tmp_path / "tiny"
    finished = renaissance("evaluate", str(run), "--controls")
    assert finished.code == 0, finished.err
    lines = finished.out.splitlines()
    titles = next(line for line in lines if line.strip().startswith("metric")).split("  ")
    columns = [title.strip() for title in titles if title.strip()]
    assert columns == ["metric", "value", "blank image", "other image", "blank text", "targets"]
    found = results(run)
    controls = found["controls"]
    assert list(controls) == ["blank image", "other image", "blank text"]
    # The dataset's own blank pictures are the same grey.
    assert renaissance("evaluate", str(run), "data.validate.0.blank=true").code == 0
    blank = results(run)["metrics"]
    assert controls["blank image"] == pytest.approx(blank, abs=1e-6)
    assert controls["blank image"] != pytest.approx(found["metrics"], abs=1e-4)
    # Without words, there is nothing to mask.
    assert "mlm/accuracy" not in controls["blank text"]
    assert "itm/accuracy" in controls["blank text"]
    # Without --controls, the file has none.
    assert "controls" not in results(run)
