"""Reading a study: its variants, its cells, and what is wrong with it."""

from pathlib import Path

import pytest

from renaissance.errors import SpecError
from renaissance.study import Study

TEXT = """
[study]
name = "frozen"
base = ["base.toml", "recipe:shapes"]
seeds = [0, 1]
stages = ["pretrain", "tune"]

[study.stage.pretrain]
axes = ["text"]

[study.stage.tune]
files = ["tune.toml", "train.max_steps=3"]

[study.axes]
text = { small = "small.toml", large = ["large.toml", "train.max_epochs=2"] }
rate = { low = [], high = "optimizer.learning_rate=0.1" }

[study.report]
metrics = ["itm/accuracy"]
baseline = { text = "small", rate = "low" }
"""


def read(folder: Path, text: str = TEXT) -> Study:
    path = folder / "study.toml"
    path.write_text(text)
    return Study.read(path)


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(folder, text)
    return [fault.removeprefix(f"{folder}/study.toml: ") for fault in caught.value.faults]


def test_cells_are_variants_by_seeds_and_share_what_is_alike(tmp_path: Path) -> None:
    study = read(tmp_path)
    names = [cell.name for cell in study.cells()]
    assert names == [
        *(f"pretrain.{text}.seed-{seed}" for text in ("small", "large") for seed in (0, 1)),
        *(
            f"tune.{text}.{rate}.seed-{seed}"
            for text in ("small", "large")
            for rate in ("low", "high")
            for seed in (0, 1)
        ),
    ]
    assert study.baseline.name == "small.low"


def test_a_cell_is_a_list_of_arguments_for_train(tmp_path: Path) -> None:
    cells = {cell.name: cell for cell in read(tmp_path).cells()}
    assert cells["pretrain.large.seed-1"].arguments == [
        f"{tmp_path}/base.toml",
        "recipe:shapes",
        f"{tmp_path}/large.toml",
        "train.max_epochs=2",
        'run.name="pretrain.large.seed-1"',
        'run.output_dir="runs/frozen"',
        "run.seed=1",
    ]
    tuned = cells["tune.small.high.seed-0"]
    assert tuned.after == "pretrain.small.seed-0"
    assert tuned.arguments == [
        f"{tmp_path}/tune.toml",
        "train.max_steps=3",
        f"{tmp_path}/small.toml",
        "optimizer.learning_rate=0.1",
        'run.name="tune.small.high.seed-0"',
        'run.output_dir="runs/frozen"',
        "run.seed=0",
        'model.init_from="runs/frozen/pretrain.small.seed-0"',
    ]


def test_several_stages_may_start_from_one(tmp_path: Path) -> None:
    text = TEXT.replace('"tune"]', '"tune", "again"]') + '\n[study.stage.again]\nafter = "pretrain"'
    cells = {cell.name: cell for cell in read(tmp_path, text).cells()}
    assert cells["again.small.low.seed-0"].after == "pretrain.small.seed-0"


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        (
            '[study.exclude]\ntext = "large"\nrate = "high"',
            ["small.low", "small.high", "large.low"],
        ),
        ('[[study.exclude]]\nrate = ["low", "high"]\ntext = "large"', ["small.low", "small.high"]),
        ('[[study.include]]\nrate = "low"', ["small.low", "large.low"]),
    ],
)
def test_variants_are_included_and_excluded(tmp_path: Path, pattern: str, left: list[str]) -> None:
    study = read(tmp_path, f"{TEXT}\n{pattern}\n")
    assert [variant.name for variant in study.variants] == left


def test_a_baseline_that_is_not_a_variant_is_named(tmp_path: Path) -> None:
    text = TEXT.replace('baseline = { text = "small", rate = "low" }', 'baseline.text = "small"')
    assert faults(tmp_path, text) == [
        "study.report.baseline: got text = small, which is not a variant; expected one of: text = "
        "small, rate = low; text = small, rate = high; text = large, rate = low; text = large, "
        "rate = high"
    ]


def test_every_fault_of_the_file_is_named_at_once(tmp_path: Path) -> None:
    text = TEXT.replace('axes = ["text"]', 'axes = ["txet"]\nafter = "tune"')
    text = text.replace('rate = "low" }', 'rate = "lwo" }')
    text += '\n[study.exclude]\nsize = "small"\n[study.stage.other]\n'
    assert faults(tmp_path, text) == [
        "study.exclude[0]: there is no axis 'size'; known: text, rate",
        "study.report.baseline.rate: there is no value 'lwo'; known: low, high; did you mean "
        "'low'?",
        "study.stage: there is no stage 'other'; known: pretrain, tune; add it to study.stages, or "
        "remove its table",
        "study.stage.pretrain.after: got 'tune', expected an earlier stage: there is none",
        "study.stage.tune.axes: lacks txet, on which the stage 'pretrain' that it starts from "
        "depends; add it",
        "study.report.baseline: got text = small, rate = lwo, which is not a variant; expected one "
        "of: text = small, rate = low; text = small, rate = high; text = large, rate = low; text = "
        "large, rate = high",
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('name = "frozen"\n', "", "study.name: missing, expected string: Name of the study"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "study.seeds: got [1, 1], expected each once"),
        ("small =", '"a.b" =', "study.axes: got the name 'a.b', expected letters"),
        ("seeds", "seed", "study.seed: unknown key; known: name, base"),
    ],
)
def test_a_fault_of_one_key(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert faults(tmp_path, TEXT.replace(old, new))[0].startswith(fault)
