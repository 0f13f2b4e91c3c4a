"""Resolving: every default that depends on something else, and the record that a run keeps."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli
from support.spec_components import (
    BASE,
    COMPONENTS,
    SomeFusion,
    SomeObjective,
    SomeTransform,
    TextEncoder,
    write,
)

from renaissance import SpecError, option
from renaissance.plugins.loading import Plugins
from renaissance.spec import ResolvedSpec, load_spec, resolve, spec_to_toml
from renaissance.spec.choice import Choice, shared_keys
from renaissance.spec.describe import table_class
from renaissance.spec.resolve import Facts
from renaissance.spec.write import record_tables

FACTS = Facts(num_samples=1000, world_size=2)


class Checkpointed(TextEncoder):
    @classmethod
    def checkpoint_of(cls, options: Any) -> str | None:
        return str(options.checkpoint)


class Headed(SomeObjective):
    default_head = "some-head"


REPLACED = {"text": Checkpointed, "mlm": Headed}


@pytest.fixture
def plugins(plugins_with: Any) -> Plugins:
    made: Plugins = plugins_with(
        *((kind, name, REPLACED.get(name, component)) for kind, name, component in COMPONENTS)
    )
    return made


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("base.toml", BASE)


def resolved(plugins: Plugins, *settings: str, facts: Facts = FACTS) -> ResolvedSpec:
    return resolve(load_spec(["base.toml", *settings], plugins), facts)


def test_what_depends_on_data_ranks_and_encoders(plugins: Plugins) -> None:
    spec = resolved(plugins, "train.global_batch_size=64")
    assert spec.train.max_steps == 100_000
    assert spec.train.micro_batch_size == 32  # 64 samples on 2 ranks
    assert spec.evaluate.every_steps == 16  # 1000 / 64 = 15.6 steps per epoch
    assert spec.checkpoint.every_steps == 16
    assert spec.data.tokenizer == "google/electra"
    assert spec.data.transform.mean == SomeTransform.mean
    assert spec.data.transform.std == SomeTransform.std
    assert [objective.name for objective in spec.objectives] == ["mlm", "itm"]
    assert spec.objectives[0].head is not None
    assert spec.objectives[0].head.type == "some-head"
    assert spec.objectives[1].head is None  # it makes none


@pytest.mark.parametrize(
    ("setting", "expected"), [("auto", "bf16"), ("fp32", "fp32"), ("fp16", "fp16")]
)
def test_only_an_automatic_precision_depends_on_the_device(
    plugins: Plugins, setting: str, expected: str
) -> None:
    facts = attrs.evolve(FACTS, precision="bf16")
    assert resolved(plugins, f"train.precision={setting}", facts=facts).train.precision == expected
    # Resolved once, it stays: the record says so, wherever it is read.
    write("record.toml", spec_to_toml(resolved(plugins, f"train.precision={setting}", facts=facts)))
    again = resolve(load_spec(["record.toml"], plugins), FACTS)
    assert again.train.precision == expected


@pytest.mark.parametrize(
    ("settings", "max_steps", "evaluation", "checkpoint"),
    [
        (["train.max_epochs=3"], 12, 4, 4),  # 3000 / 256 = 11.7, rounded up
        (["train.max_epochs=3", "train.max_steps=5"], 5, 4, 4),
        (["train.max_epochs=3", "train.max_steps=50"], 12, 4, 4),
        (["evaluate.every_epochs=0.5"], 100_000, 2, 2),
        (["evaluate.every_epochs=0.01"], 100_000, 1, 1),
        (["evaluate.every_steps=7", "evaluate.every_epochs=0.5"], 100_000, 7, 7),
        (["evaluate.every_steps=7", "checkpoint.every_steps=3"], 100_000, 7, 3),
    ],
)
def test_steps(
    plugins: Plugins, settings: list[str], max_steps: int, evaluation: int, checkpoint: int
) -> None:
    spec = resolved(plugins, *settings)
    assert spec.train.max_steps == max_steps
    assert spec.evaluate.every_steps == evaluation
    assert spec.checkpoint.every_steps == checkpoint


@pytest.mark.parametrize(
    ("num_samples", "settings", "evaluated"),
    [
        # 2037 / 16 = 127.3 steps per epoch: not at 127 and 128 of 128.
        (2037, ["train.max_epochs=1"], [128]),
        (2037, ["train.max_epochs=3"], [128, 256, 382]),
        # 50 / 16 = 3.1 steps per epoch: intervals of 4, not of 3.
        (50, ["train.max_epochs=2"], [4, 7]),
        (32, ["train.max_epochs=3"], [2, 4, 6]),
        (1, ["train.max_epochs=3"], [1]),
        (2037, ["train.max_epochs=1", "evaluate.every_epochs=0.5"], [64, 128]),
        # 0.1 * 480 / 16 is a bit more than 3 in floating point.
        (480, ["train.max_epochs=1", "evaluate.every_epochs=0.1"], [*range(3, 31, 3)]),
        (2037, ["train.max_epochs=1", "evaluate.every_epochs=2.0"], [128]),
        (2037, ["train.max_epochs=1", "evaluate.every_epochs=0.7"], [90, 128]),
        # What is written as a number of steps holds.
        (2037, ["train.max_epochs=1", "evaluate.every_steps=127"], [127, 128]),
    ],
)
def test_the_end_of_the_last_epoch_is_evaluated_once(
    plugins: Plugins, num_samples: int, settings: list[str], evaluated: list[int]
) -> None:
    facts = Facts(num_samples, world_size=1)
    spec = resolved(plugins, "train.global_batch_size=16", *settings, facts=facts)
    total, interval = spec.train.max_steps, spec.evaluate.every_steps
    assert [s for s in range(1, total + 1) if s == total or s % interval == 0] == evaluated
    assert spec.checkpoint.every_steps == interval


@pytest.mark.parametrize("num_samples", [50, 1000, 1009, 2037, 9999])
def test_no_evaluation_comes_just_before_the_last(plugins: Plugins, num_samples: int) -> None:
    facts = Facts(num_samples, world_size=1)
    for num_epochs in range(1, 60):
        settings = ["train.global_batch_size=16", f"train.max_epochs={num_epochs}"]
        spec = resolved(plugins, *settings, facts=facts)
        total, interval = spec.train.max_steps, spec.evaluate.every_steps
        steps = [*range(interval, total, interval), total]
        assert len(steps) <= num_epochs
        assert len(steps) == 1 or steps[-1] - steps[-2] >= interval / 4
        assert interval < 1.5 * num_samples / 16 + 1


def test_normalization_is_the_spec_s_or_the_encoder_s_or_the_transform_s(plugins: Plugins) -> None:
    encoder = attrs.evolve(FACTS, normalization=((0.7, 0.7, 0.7), (0.8, 0.8, 0.8)))
    actual = resolved(plugins, facts=encoder).data.transform
    assert (actual.mean, actual.std) == encoder.normalization
    actual = resolved(plugins, "data.transform.std=[1, 2, 3]", facts=encoder).data.transform
    assert (actual.mean, actual.std) == ((0.7, 0.7, 0.7), (1.0, 2.0, 3.0))
    actual = resolved(plugins, "data.transform.mean=[0, 0, 0]").data.transform
    assert (actual.mean, actual.std) == ((0.0, 0.0, 0.0), SomeTransform.std)


def test_without_a_tokenizer_to_take(plugins_with: Any) -> None:
    plain = plugins_with(*COMPONENTS)
    with pytest.raises(SpecError, match=r"data\.tokenizer: absent, and the text encoder has no"):
        resolved(plain)
    assert resolved(plain, "data.tokenizer=dataset").data.tokenizer == "dataset"


def test_a_batch_that_does_not_divide(plugins: Plugins) -> None:
    facts = attrs.evolve(FACTS, world_size=3)
    with pytest.raises(SpecError, match=r"256, which 3 ranks cannot share equally.*: 255, 258"):
        resolved(plugins, facts=facts)


def test_a_warm_up_that_outlasts_the_run(plugins: Plugins) -> None:
    settings = ["schedule.warmup_steps=13", "train.max_epochs=3"]
    with pytest.raises(
        SpecError,
        match=r"schedule\.warmup_steps: got 13, but the run has 12 steps .*; use fewer, or a fract",
    ):
        resolved(plugins, *settings)
    assert resolved(plugins, *settings, "schedule.warmup_steps=12").schedule.warmup_steps == 12
    # The default is a fraction, so it suits a run of any length.
    assert resolved(plugins, "train.max_steps=1").schedule.warmup_steps == 0.1


def test_a_decay_that_rises(plugins: Plugins) -> None:
    settings = ["optimizer.learning_rate=0.001", "schedule.end_learning_rate=0.01"]
    with pytest.raises(SpecError) as caught:
        resolved(plugins, *settings)
    assert str(caught.value) == (
        "schedule.end_learning_rate: got 0.01, but the rate decays from optimizer.learning_rate = "
        "0.001; use at most that"
    )
    resolved(plugins, settings[0], "schedule.end_learning_rate=0.001")


def test_reading_the_record_back_gives_an_equal_object(plugins: Plugins) -> None:
    spec = resolved(plugins, "train.max_epochs=3", "data.transform.type=clip", "optimizer.type=sgd")
    Path("spec.toml").write_text(spec_to_toml(spec))
    again = load_spec(["spec.toml"], plugins)
    # Whatever the facts are by then: nothing is left to fill in.
    other = Facts(num_samples=7, world_size=1, normalization=((0, 0, 0), (1, 1, 1)))
    assert resolve(again, attrs.evolve(FACTS, normalization=other.normalization)) == spec
    settings = ["train.max_steps", "evaluate.every_steps", "checkpoint.every_steps"]
    kept = resolve(load_spec(["spec.toml", "train.max_epochs=1000"], plugins), other)
    for setting in settings:
        section, key = setting.split(".")
        assert getattr(getattr(kept, section), key) == getattr(getattr(spec, section), key)


def keys_without_a_value(value: Any, table: Any, path: str) -> set[str]:
    """Return the keys of a section's class, and of the classes in it, that a table lacks."""
    if isinstance(value, Choice):
        names = ["type", *shared_keys(type(value))]
        names += [field.name for field in attrs.fields(type(value.options))]
        values = [
            getattr(value, name) if hasattr(value, name) else getattr(value.options, name)
            for name in names
        ]
    else:
        names = [field.name for field in attrs.fields(type(value))]
        values = [getattr(value, name) for name in names]
    missing = {f"{path}{name}" for name in names if name not in table}
    for name, inner in zip(names, values, strict=True):
        if name in table and table_class(type(inner)) is not None:
            missing |= keys_without_a_value(inner, table[name], f"{path}{name}.")
    return missing


def test_every_key_of_the_classes_is_in_the_record(plugins: Plugins) -> None:
    spec = resolved(plugins)
    table = tomli.loads(spec_to_toml(spec))
    assert keys_without_a_value(spec, table, "") == {
        "model.encoder",  # of the other architecture
        "model.init_from",
        "model.image_encoder.checkpoint",  # an option without a value
        "data.cache_folder",  # of the machine
        "model.text_encoder.adapt",
        "model.image_encoder.adapt",
        "train.patience",
        "train.step_timeout",
        "train.ema",
        "train.max_epochs",
        "train.gradient_clip",
        "evaluate.every_epochs",
    }
    for dataset, written in zip(spec.data.train, table["data"]["train"], strict=True):
        assert keys_without_a_value(dataset, written, "") == {"weight", "objectives", "crop"}
    for objective, written in zip(spec.objectives, table["objectives"], strict=True):
        assert keys_without_a_value(objective, written, "") <= {"head"}
    for monitor, written in zip(spec.monitors, table["monitors"], strict=True):
        assert keys_without_a_value(monitor, written, "") == set()


def test_a_default_that_changes_later_changes_no_old_run(
    plugins: Plugins, plugins_with: Any
) -> None:
    class Later(SomeFusion):
        @attrs.frozen
        class Options:
            num_layers: int = option(12, help="Layers.")

    Path("spec.toml").write_text(spec_to_toml(resolved(plugins)))
    changed = plugins_with(
        *(
            (kind, name, Later if name == "co-attention" else REPLACED.get(name, component))
            for kind, name, component in COMPONENTS
        )
    )
    fusion = load_spec(["spec.toml"], changed).model.fusion
    assert fusion is not None
    assert fusion.options.num_layers == 6


def test_silence(plugins: Plugins) -> None:
    spec = resolved(plugins, "monitors=[]")
    assert spec.monitors == ()
    assert "monitors = []" in spec_to_toml(spec)


def test_a_record_has_absolute_paths(plugins: Plugins, tmp_path: Path) -> None:
    for folder in ("models/bert", "models/words"):
        (tmp_path / folder).mkdir(parents=True)
    spec = resolved(
        plugins,
        "model.text_encoder.checkpoint=models/bert",
        "data.tokenizer=models/words",
        "model.init_from=../earlier",
        "data.root=data",
    )
    recorded = record_tables(spec)
    assert recorded["run"]["output_dir"] == str(tmp_path / "runs")
    assert recorded["data"]["root"] == str(tmp_path / "data")
    assert recorded["data"]["tokenizer"] == str(tmp_path / "models/words")
    assert recorded["model"]["init_from"] == str(tmp_path / "../earlier")
    assert recorded["model"]["text_encoder"]["checkpoint"] == str(tmp_path / "models/bert")


def test_a_record_keeps_hub_ids_and_the_words_of_the_dataset(
    plugins: Plugins, tmp_path: Path
) -> None:
    (tmp_path / "dataset").mkdir()
    recorded = record_tables(resolved(plugins, "data.tokenizer=dataset"))
    assert recorded["data"]["tokenizer"] == "dataset"
    assert recorded["model"]["text_encoder"]["checkpoint"] == "google/electra"
    assert "init_from" not in recorded["model"]
