"""What a run says, keeps and refuses when it is resumed with something changed."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli
from support.command_line import renaissance
from support.running import TINY, run_here, write_spec

from renaissance import CheckpointError
from renaissance.builtin.datasets.shapes import Shapes
from renaissance.engine import run_parts
from renaissance.engine.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]


def begun(folder: Path, *settings: str, text: str = TINY) -> Path:
    """Train two steps; return the spec."""
    spec = write_spec(folder, text)
    assert run_here(spec, folder, "train.max_steps=4", "evaluate.every_steps=2", *settings) == 0
    return spec


def go_on(spec: Path, *settings: str) -> int:
    return run_here(spec, spec.parent, "train.max_steps=6", "evaluate.every_steps=2", *settings)


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("optimizer.learning_rate=1e-4", "optimizer.learning_rate: 0.003, now 0.0001"),
        ("model.fusion.dropout=0.5", "model.fusion.dropout: 0.0, now 0.5"),
        (
            "model.text_encoder.config.hidden_dropout_prob=0.5",
            "model.text_encoder.config.hidden_dropout_prob: 0.0, now 0.5",
        ),
        ("data.max_text_length=12", "data.max_text_length: 24, now 12"),
        ("objectives.0.probability=0.5", "objectives.0.probability: 0.15, now 0.5"),
        ("train.precision=fp16", "train.precision: fp32, now fp16"),
        ("train.gradient_clip=1.0", "train.gradient_clip: absent, now 1.0"),
    ],
)
def test_changes_are_said_and_the_old_spec_is_kept(
    tmp_path: Path, capsys: Capture, setting: str, change: str
) -> None:
    spec = begun(tmp_path)
    run = RunFolder(tmp_path / "tiny")
    before = run.spec.read_text()
    capsys.readouterr()
    assert go_on(spec, setting) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"changed since step 4 of {run.path}:"
    assert f"  {change}" in lines
    assert "  train.max_steps: 4, now 6" in lines
    assert (run.path / "spec.step-4.toml").read_text() == before
    now = tomli.loads(run.spec.read_text())
    assert now["train"]["max_steps"] == 6
    # Once said, it is not said again.
    assert go_on(spec, setting, "run.resume=auto") == 0
    assert "changed since" not in capsys.readouterr().out
    assert len(list(run.path.glob("spec.step-*"))) == 1


def test_a_run_keeps_the_precision_that_its_first_device_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run = RunFolder(tmp_path / "tiny")
    monkeypatch.setattr(run_parts, "auto_precision", lambda device: "bf16")
    spec = begun(tmp_path)
    assert tomli.loads(run.spec.read_text())["train"]["precision"] == "bf16"
    # As on a device without units for bf16.
    monkeypatch.undo()
    capsys.readouterr()
    assert go_on(spec) == 0
    assert "train.precision" not in capsys.readouterr().out
    assert tomli.loads(run.spec.read_text())["train"]["precision"] == "bf16"
    finished = renaissance("evaluate", str(spec), f"run.output_dir={tmp_path}")
    assert finished.code == 0, finished.err
    results = json.loads(run.results.read_text())
    assert "train.precision" not in json.dumps(results)
    # Another precision is said: the comparison takes place.
    assert renaissance("evaluate", str(spec), f"run.output_dir={tmp_path}", "train.precision=fp32")
    assert "train.precision" in run.results.read_text()


def test_check_says_what_has_changed(tmp_path: Path) -> None:
    spec = begun(tmp_path)
    settings = [f"run.output_dir={tmp_path}", "evaluate.every_steps=2", "train.max_steps=6"]
    finished = renaissance("check", str(spec), *settings)
    assert finished.code == 0, finished.err
    assert "changed since: train.max_steps: 4, now 6\n" in finished.out


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("optimizer.type=sgd", "had optimizer.type = adamw, now it is sgd"),
        ("run.seed=3", "had seed = 0, now it is 3"),
        ("train.ema=0.9", "had train.ema = absent, now it is 0.9, which does not fit"),
        ("train.global_batch_size=4", "had train.global_batch_size = 8, now it is 4"),
        ("data.train.0.num_samples=40", "had number of samples = 50, now it is 40"),
        (
            "model.text_encoder.frozen=true",
            "had model.text_encoder.frozen = False, now it is True",
        ),
    ],
)
def test_check_refuses_what_the_run_refuses(tmp_path: Path, setting: str, fault: str) -> None:
    spec = begun(tmp_path)
    settings = [f"run.output_dir={tmp_path}", "evaluate.every_steps=2", "train.max_steps=6"]
    for command in ("check", "train"):
        finished = renaissance(command, str(spec), *settings, setting)
        assert finished.code == 2, command
        assert f"the run {fault}" in " ".join(finished.err.split()), command


def test_other_data_of_the_same_size_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    spec = begun(tmp_path)
    sample = Shapes.sample

    def next_sample(self: Shapes, index: int, generator: Any) -> Any:
        return sample(self, (index + 1) % len(self), generator)

    monkeypatch.setattr(Shapes, "sample", next_sample)
    capsys.readouterr()
    assert go_on(spec) == 0
    out = capsys.readouterr().out
    assert "  token ids of the first samples: " in out
    assert "  pixels of the first samples: " in out


def test_a_tokenizer_that_is_not_read_is_said_to_be_the_old_one(
    tmp_path: Path, capsys: Capture
) -> None:
    spec = begun(tmp_path)
    capsys.readouterr()
    assert go_on(spec, "data.tokenizer=no-such/tokenizer") == 0
    change = "data.tokenizer: dataset, now no-such/tokenizer"
    assert f"  {change} (not read again: the run keeps its own)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["optimizer.type=sgd"], ["optimizer.type=adamw"]),
        (["optimizer.type=sgd", "optimizer.momentum=0"], ["optimizer.type=adamw"]),
        (["optimizer.type=adamw"], ["optimizer.type=sgd"]),
        (["optimizer.type=adamw"], ["optimizer.type=adam"]),
        (["optimizer.type=adamw"], ["optimizer.type=muon"]),
    ],
)
def test_another_optimizer_is_refused(tmp_path: Path, before: list[str], now: list[str]) -> None:
    spec = begun(tmp_path, *before)
    types = [setting.removeprefix("optimizer.type=") for setting in (before[0], now[0])]
    run = RunFolder(tmp_path / "tiny")
    text = run.spec.read_text()
    with pytest.raises(CheckpointError) as caught:
        go_on(spec, *now)
    last = run.checkpoint(4)
    assert str(caught.value) == (
        f"{last}: the run had optimizer.type = {types[0]}, now it is {types[1]}, which does not "
        f"fit what was trained so far. Restore it, or choose another run.name and "
        f"model.init_from = '{last}'"
    )
    assert run.spec.read_text() == text


def test_a_component_of_another_type_is_refused(tmp_path: Path) -> None:
    spec = begun(tmp_path, "objectives.1.name=pairs")
    with pytest.raises(CheckpointError, match=r"had objectives.1.type = itm, now it is retrieval"):
        go_on(spec, "objectives.1={type='retrieval', name='pairs'}")


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("model.fusion.num_heads=4", "model.fusion.num_heads = 2, now it is 4"),
        (
            "model.text_encoder.config.hidden_act=relu",
            "model.text_encoder.config.hidden_act = absent, now it is relu",
        ),
        (
            "model.image_encoder.config.num_attention_heads=4",
            "model.image_encoder.config.num_attention_heads = 2, now it is 4",
        ),
    ],
)
def test_another_model_with_equal_shapes_is_refused(
    tmp_path: Path, setting: str, change: str
) -> None:
    spec = begun(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        go_on(spec, setting)
    assert f"the run had {change}, which does not fit what was trained" in str(caught.value)


def test_other_sizes_of_the_same_sum_are_refused(tmp_path: Path) -> None:
    table = '[[data.train]]\ntype = "shapes"\nnum_samples = {}\nimage_size = 32\n\n'
    texts = [
        TINY.replace(table.format(50), "".join(map(table.format, sizes)))
        for sizes in ((20, 30), (30, 20))
    ]
    begun(tmp_path, text=texts[0])
    spec = write_spec(tmp_path, texts[1])
    with pytest.raises(CheckpointError, match=r"training samples = \[20, 30\], now .*\[30, 20\]; "):
        go_on(spec)


def test_a_run_keeps_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = begun(tmp_path)
    kept = (tmp_path / "tiny/tokenizer/tokenizer.json").read_bytes()
    make = Shapes.__init__

    def make_reversed(self: Shapes, *arguments: object) -> None:
        make(self, *arguments)  # type: ignore[arg-type]
        words = list(self.vocabulary)
        self.vocabulary = words[:5] + words[5:][::-1]

    monkeypatch.setattr(Shapes, "__init__", make_reversed)
    go_on(spec)
    assert (tmp_path / "tiny/tokenizer/tokenizer.json").read_bytes() == kept


def test_the_batch_size_stays(tmp_path: Path) -> None:
    spec = begun(tmp_path)
    with pytest.raises(CheckpointError, match=r"had train.global_batch_size = 8, now it is 4"):
        go_on(spec, "train.global_batch_size=4")
