"""Run specs: reading, layering, structuring, writing."""

import copy
from pathlib import Path
from typing import Any

import pytest
from support.spec_components import (
    BASE,
    COMPONENTS,
    ImageEncoder,
    PatchEncoder,
    SomeDataset,
    SomeHead,
    SomeObjective,
    TextEncoder,
    write,
)

from renaissance.plugins.loading import Plugins
from renaissance.spec import RunSpec, load_spec, spec_to_toml
from renaissance.spec.layers import Layers


@pytest.fixture
def plugins(plugins_with: Any) -> Plugins:
    made: Plugins = plugins_with(*COMPONENTS)
    return made


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write base.toml into the working directory."""
    monkeypatch.chdir(tmp_path)
    write("base.toml", BASE)


def load(plugins: Plugins, *arguments: str) -> RunSpec:
    return load_spec(arguments, plugins)


# --- what a good spec becomes ---------------------------------------------------------------------


def test_tables_become_classes(plugins: Plugins) -> None:
    spec = load(plugins, "base.toml")
    assert spec.model.text_encoder is not None
    assert spec.model.text_encoder.options == TextEncoder.Options(checkpoint="google/electra")
    assert spec.model.image_encoder is not None
    assert spec.model.image_encoder.frozen is True
    assert spec.model.image_encoder.options.size == ImageEncoder.Size(8, 2)
    assert spec.model.fusion is not None
    assert (spec.model.fusion.type, spec.model.fusion.options.num_layers) == ("co-attention", 6)
    assert (spec.model.pooler.type, spec.model.pooler.options.size) == ("double", 8)
    assert [monitor.type for monitor in spec.monitors] == ["console", "jsonl", "tensorboard"]
    assert [o.type for o in spec.objectives] == ["mlm", "itm"]
    assert [o.weight for o in spec.objectives] == [1.0, 2.0]
    assert type(spec.objectives[1].weight) is float
    assert spec.objectives[1].options.negatives == "dataset"
    assert spec.data.train[0].options.files == ("a.arrow", "b.arrow")
    assert spec.optimizer.type == "adamw"
    assert spec.optimizer.options.betas == (0.9, 0.98)


def test_integer_or_number_is_kept_as_written(plugins: Plugins) -> None:
    steps = load(plugins, "base.toml", "schedule.warmup_steps=100").schedule.warmup_steps
    assert (steps, type(steps)) == (100, int)
    share = load(plugins, "base.toml", "schedule.warmup_steps=0.1").schedule.warmup_steps
    assert (share, type(share)) == (0.1, float)


def test_nested_tables_and_free_tables(plugins: Plugins) -> None:
    spec = load(
        plugins,
        "base.toml",
        "model.image_encoder.size.width=16",
        'model.text_encoder.config={hidden_size = 8, "a.b" = [1, 2]}',
        "objectives.0.head={type='some-head', dropout=0.5}",
        "data.train.0.files=one.arrow",
        "data.train.0.crop=[3, 4]",
    )
    assert spec.model.image_encoder is not None
    assert spec.model.text_encoder is not None
    assert spec.model.image_encoder.options.size == ImageEncoder.Size(16, 2)
    assert spec.model.text_encoder.options.config == {"hidden_size": 8, "a.b": [1, 2]}
    assert spec.objectives[0].head is not None
    assert spec.objectives[0].head.options == SomeHead.Options(dropout=0.5)
    assert spec.data.train[0].options == SomeDataset.Options(files="one.arrow", crop=(3, 4))


# --- layers ---------------------------------------------------------------------------------------


def test_later_files_win_and_overrides_come_last(plugins: Plugins) -> None:
    write("a.toml", "[train]\nmax_steps = 1\nlog_every = 3\n[run]\nseed = 5\n")
    write("b.toml", "[train]\nmax_steps = 2\n")
    spec = load(plugins, "run.seed=7", "base.toml", "a.toml", "b.toml")
    assert (spec.train.max_steps, spec.train.log_every, spec.run.seed) == (2, 3, 7)


def test_a_tilde_is_the_home_folder(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write("home/small.toml", 'extends = ["../base.toml"]\nrun.seed = 7\n')
    write("run.toml", 'extends = ["~/small.toml"]\nrun.output_dir = "~/runs"\ndata.root = "~"\n')
    spec = load(
        plugins,
        "run.toml",
        "model.text_encoder.checkpoint=~/bert",
        "data.train.0.files=['~/a.arrow', 'b~/c', '~b']",
        "model.init_from=~/old",
    )
    home = f"{tmp_path}/home"
    assert (spec.run.seed, spec.folder.parent) == (7, Path(home, "runs"))
    assert spec.data.root == home
    assert spec.model.text_encoder is not None
    assert spec.model.text_encoder.options.checkpoint == f"{home}/bert"
    assert spec.data.train[0].options.files == (f"{home}/a.arrow", "b~/c", "~b")
    assert spec.model.init_from == f"{home}/old"
    assert load(plugins, "~/small.toml").run.seed == 7


def test_extends_is_relative_to_its_file(plugins: Plugins) -> None:
    write("recipes/small.toml", 'extends = ["../base.toml", "more/fast.toml"]\nrun.seed = 1\n')
    write("recipes/more/fast.toml", "[run]\nseed = 2\nname = 'fast'\n[train]\nmax_steps = 3\n")
    spec = load(plugins, "recipes/small.toml")
    assert (spec.run.seed, spec.run.name, spec.train.max_steps) == (1, "fast", 3)


def test_a_base_that_two_files_extend_counts_once(plugins: Plugins) -> None:
    write("a.toml", 'extends = ["base.toml"]\n[model.image_encoder]\nfrozen = false\n')
    write("b.toml", 'extends = ["base.toml"]\n[train]\nmax_steps = 2\n')
    spec = load(plugins, "a.toml", "b.toml")
    assert spec.model.image_encoder is not None
    assert spec.model.image_encoder.frozen is False


def test_arrays_of_tables_are_replaced(plugins: Plugins) -> None:
    write("one.toml", '[[objectives]]\ntype = "itm"\n')
    spec = load(plugins, "base.toml", "one.toml")
    assert [(o.type, o.weight) for o in spec.objectives] == [("itm", 1.0)]
    assert spec.objectives[0].options.negatives == "batch"


def test_another_type_drops_the_old_options_and_keeps_the_place(plugins: Plugins) -> None:
    write("size.toml", '[model.image_encoder]\ncheckpoint = "old"\nsize = {width = 3}\n')
    write("patches.toml", '[model.image_encoder]\ntype = "patches"\npatch_size = 4\n')
    encoder = load(plugins, "base.toml", "size.toml", "patches.toml").model.image_encoder
    assert encoder is not None
    assert encoder.options == PatchEncoder.Options(patch_size=4)
    assert encoder.frozen is True
    spec = load(plugins, "base.toml", "objectives.1.type=mlm", "objectives.1.name=other")
    assert spec.objectives[1].weight == 2.0
    assert spec.objectives[1].options == SomeObjective.Options()


def test_the_same_type_again_keeps_the_options(plugins: Plugins) -> None:
    write("again.toml", '[model.text_encoder]\ntype = "text"\nfrozen = true\n')
    encoder = load(plugins, "base.toml", "again.toml").model.text_encoder
    assert encoder is not None
    assert encoder.options.checkpoint == "google/electra"
    assert encoder.frozen is True


RANDOM = {"type": "text", "frozen": True, "architecture": "bert", "config": {"a": 1}}
PRETRAINED = {"type": "text", "frozen": True, "checkpoint": "bert", "config": {"a": 1}}


@pytest.mark.parametrize(
    ("below", "later", "expected"),
    [
        (RANDOM, {"checkpoint": "x"}, {"checkpoint": "x"}),
        (RANDOM, {"checkpoint": "x", "config": {"b": 2}}, {"checkpoint": "x", "config": {"b": 2}}),
        (PRETRAINED, {"architecture": "x"}, {"architecture": "x"}),
        # The same way again keeps the config, as does a layer that names neither.
        (RANDOM, {"architecture": "x"}, {"architecture": "x", "config": {"a": 1}}),
        (PRETRAINED, {"checkpoint": "x"}, {"checkpoint": "x", "config": {"a": 1}}),
        (RANDOM, {"config": {"b": 2}}, {"architecture": "bert", "config": {"a": 1, "b": 2}}),
        # Both in one layer is a fault, which is for the encoder to report.
        (
            RANDOM,
            {"checkpoint": "x", "architecture": "y"},
            {"checkpoint": "x", "architecture": "y", "config": {"a": 1}},
        ),
    ],
)
def test_checkpoint_and_architecture_take_the_place_of_each_other(
    below: dict[str, Any], later: dict[str, Any], expected: dict[str, Any]
) -> None:
    layers = Layers("spec")
    layers.add({"model": {"text_encoder": copy.deepcopy(below)}}, "below")
    layers.add({"model": {"text_encoder": later}}, "later")
    actual = layers.table["model"]["text_encoder"]
    assert actual == {"type": "text", "frozen": True, **expected}


def test_another_architecture_drops_the_parts_of_the_old_one(plugins: Plugins) -> None:
    write("one.toml", '[model]\ntype = "one-tower"\n[model.encoder]\ntype = "joint"\n')
    model = load(plugins, "base.toml", "one.toml", "model.init_from=runs/x").model
    assert (model.text_encoder, model.image_encoder, model.init_from) == (None, None, "runs/x")
    again = load(plugins, "base.toml", "one.toml", "base.toml")
    assert again.model.type == "one-tower"


def test_optimizer_type_is_no_component(plugins: Plugins) -> None:
    write("rate.toml", "[optimizer]\nlearning_rate = 0.5\n")
    spec = load(plugins, "base.toml", "rate.toml", "optimizer.type=sgd")
    assert (spec.optimizer.type, spec.optimizer.learning_rate) == ("sgd", 0.5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.name=plain", "plain"),
        ("run.name='quoted # kept'", "quoted # kept"),
        ("run.name=lr=3", "lr=3"),
        ("run.name=007", "007"),
        ('run.name="42"', "42"),
    ],
)
def test_values_on_the_command_line(plugins: Plugins, override: str, expected: str) -> None:
    assert load(plugins, "base.toml", override).run.name == expected


def test_an_override_may_end_in_toml(plugins: Plugins) -> None:
    assert load(plugins, "base.toml", "model.init_from=x.toml").model.init_from == "x.toml"


def test_indices_may_be_written_as_messages_write_them(plugins: Plugins) -> None:
    assert load(plugins, "base.toml", "objectives[0].weight=3").objectives[0].weight == 3.0


# --- writing --------------------------------------------------------------------------------------


def test_written_spec_reads_equal(plugins: Plugins) -> None:
    spec = load(
        plugins,
        "base.toml",
        "model.fusion.type=some-fusion",
        'model.text_encoder.config={hidden_size = 8, "a.b" = [1, {c = true}]}',
        "objectives.0.head={type='some-head', dropout=0.5}",
        "data.train.0.crop=[3, 4]",
        "data.transform.mean=[0.5, 0.5, 0.5]",
        "schedule.warmup_steps=0.1",
        "optimizer.learning_rate=1e-4",
        "run.name='ein \"Name\" mit Ümlaut'",
    )
    text = spec_to_toml(spec)
    again = load(plugins, write("out/spec.toml", text))
    assert again == spec
    assert spec_to_toml(again) == text


def test_written_spec_holds_every_default_and_no_absent_key(plugins: Plugins) -> None:
    text = spec_to_toml(load(plugins, "base.toml"))
    assert "global_batch_size = 256\n" in text
    assert "warmup_steps = 0.1\n" in text
    assert "width = 8\n" in text
    assert "gradient_clip" not in text
    assert '[model.fusion]\ntype = "co-attention"\nfrozen = false\nnum_layers = 6\n' in text
