"""What a run spec with faults reports: where, the actual and the expected value, the remedy."""

from pathlib import Path
from typing import Any

import attrs
import pytest
from support.spec_components import BASE, COMPONENTS, ImageEncoder, TextEncoder, write
from torch import Tensor

from renaissance import PluginError, SpecError, option
from renaissance.plugins.loading import BrokenPlugin, Plugins
from renaissance.spec import load_spec
from renaissance.spec.batch_plan import BatchPlan
from renaissance.spec.resolve import Facts, resolve
from renaissance.spec.sections import TrainSection


@pytest.fixture
def plugins(plugins_with: Any) -> Plugins:
    made: Plugins = plugins_with(*COMPONENTS)
    return made


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write base.toml into the working directory."""
    monkeypatch.chdir(tmp_path)
    write("base.toml", BASE)


def faults(plugins: Plugins, *arguments: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(arguments, plugins)
    assert caught.value.exit_code == 2
    return list(caught.value.faults)


# --- faults of files and arguments ----------------------------------------------------------------


def test_malformed_toml_names_file_and_line(plugins: Plugins) -> None:
    write("bad.toml", "[run]\nseed = \n")
    (fault,) = faults(plugins, "base.toml", "bad.toml")
    assert fault == "bad.toml: line 2, column 8: Invalid value"


def test_a_missing_file_names_the_nearest(plugins: Plugins) -> None:
    (fault,) = faults(plugins, "bas.toml")
    assert fault.startswith("bas.toml: there is no such file; in ")
    assert fault.endswith("there are: base.toml")
    (fault,) = faults(plugins, "nowhere/base.toml")
    assert fault.endswith("; the folder nowhere does not exist either")
    write("run.toml", 'extends = ["bsae.toml"]')
    (fault,) = faults(plugins, "run.toml")
    assert fault.startswith("run.toml: extends: bsae.toml: there is no such file; in ")


def test_a_cycle_is_named(plugins: Plugins) -> None:
    write("a.toml", 'extends = ["b.toml"]')
    write("b.toml", 'extends = ["a.toml"]')
    assert faults(plugins, "a.toml") == [
        "b.toml: extends: a cycle: a.toml -> b.toml -> a.toml; remove one of them"
    ]


def test_an_argument_that_is_neither_file_nor_override(plugins: Plugins) -> None:
    expected = "expected a .toml file or section.key=value, such as train.max_steps=50"
    assert faults(plugins, "base.toml", "train.max_steps", "run . name=x") == [
        f"command line: got 'train.max_steps', {expected}",
        f"command line: got 'run . name=x', {expected}",
    ]


def test_extends_must_be_a_list(plugins: Plugins) -> None:
    write("run.toml", 'extends = "base.toml"')
    assert faults(plugins, "run.toml") == [
        "run.toml: extends: got 'base.toml', expected a list of files, such as [\"base.toml\"]"
    ]


def test_a_nul_byte_in_a_path(plugins: Plugins) -> None:
    write("run.toml", 'extends = ["\\u0000.toml"]')
    (fault,) = faults(plugins, "run.toml")
    assert fault == "run.toml: got '\\x00.toml', expected the name of a file"
    (fault,) = faults(plugins, "base.toml", 'run.plugins=["\\u0000"]')
    assert fault == "command line: run.plugins[0]: embedded null byte"


@pytest.mark.parametrize("value", ["[" * 5000, "{a=" * 5000, "9" * 6000, "1979-02-30", "\udcff"])
def test_an_override_that_cannot_be_read(plugins: Plugins, value: str) -> None:
    (fault,) = faults(plugins, "base.toml", f"run.seed={value}")
    assert fault.startswith("command line: ")
    assert "run.seed" in fault
    assert len(fault) < 250


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 6000, "1979-02-30"])
def test_a_file_that_cannot_be_read(plugins: Plugins, value: str) -> None:
    write("run.toml", f"run.seed = {value}")
    (fault,) = faults(plugins, "run.toml")
    assert fault.startswith("run.toml: ")
    assert len(fault) < 250


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            f"train.max_steps={2**63}",
            f"train.max_steps: got {2**63}, expected an integer of at most 64 bits",
        ),
        (
            "train.max_steps=0x" + "f" * 7000,
            "train.max_steps: got a value of type int that cannot be printed, expected an integer "
            "of at most 64 bits",
        ),
        (
            "optimizer.learning_rate=1" + "0" * 400,
            f"optimizer.learning_rate: got 1{'0' * 76}... (integer), expected number",
        ),
        (
            "model.type=[]",
            'model.type: got [], expected "two-tower" | "one-tower"',
        ),
        (
            f"run.seed={'x' * 9000}",
            f'run.seed: got "{"x" * 76}... (string), expected integer',
        ),
        (
            f"run.name=/{'x' * 9000}",
            f"run.name: got '/{'x' * 75}..., expected the name of a folder, without slashes",
        ),
        (
            f"model.fusion.type={'x' * 9000}",
            f"model.fusion.type: unknown fusion '{'x' * 76}...; known: co-attention, some-fusion",
        ),
    ],
)
def test_values_beyond_all_bounds_are_reported_in_short(
    plugins: Plugins, setting: str, expected: str
) -> None:
    assert faults(plugins, "base.toml", setting)[0].removeprefix("command line: ") == expected


def test_a_model_type_that_is_a_list_below_another(plugins: Plugins) -> None:
    write("run.toml", "model.type = []")
    below = faults(plugins, "base.toml", "run.toml", "model.type=one-tower")
    assert all(fault.startswith(("base.toml: model", "command line: model")) for fault in below)


def test_a_share_beyond_all_bounds_is_reported_at_once() -> None:
    section = TrainSection(global_batch_size=9 * 10**18, micro_batch_size=7)
    with pytest.raises(SpecError, match="use a divisor of 3000000000000000000: 1, 3000"):
        BatchPlan.of(section, 3)


def test_an_interval_beyond_all_bounds_is_never(plugins: Plugins) -> None:
    settings = ["evaluate.every_epochs=1e308", "data.tokenizer=dataset"]
    resolved = resolve(load_spec(["base.toml", *settings], plugins), Facts(10**9, world_size=1))
    assert resolved.evaluate.every_steps == 2**62


def test_a_batch_beyond_all_bounds_is_reported_at_once(plugins: Plugins) -> None:
    settings = ["train.global_batch_size=9000000000000000000", "train.micro_batch_size=7"]
    (fault,) = faults(plugins, "base.toml", *settings)
    assert fault == (
        "command line: train.micro_batch_size: got 7, which does not divide "
        "train.global_batch_size = 9000000000000000000; the nearest that does is 1"
    )


# --- faults of keys and values --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.max_steps=3.7", "train.max_steps: got 3.7 (number), expected integer"),
        ("train.max_steps=3.0", "train.max_steps: got 3.0 (number), expected integer"),
        ("train.max_steps=true", "train.max_steps: got true (boolean), expected integer"),
        (
            "train.compile='false'",
            'train.compile: got "false" (string), expected boolean: true or false',
        ),
        ("train.compile=1", "train.compile: got 1 (integer), expected boolean: true or false"),
        (
            "optimizer.learning_rate='1e-4'",
            'optimizer.learning_rate: got "1e-4" (string), expected number',
        ),
        (
            "optimizer.learning_rate=nan",
            "optimizer.learning_rate: got nan, expected a finite number",
        ),
        (
            "optimizer.learning_rate=0",
            "optimizer.learning_rate: got 0.0, expected a number above 0",
        ),
        (
            "run.name=42",
            'run.name: got 42 (integer), expected string: put it in quotes, "42"',
        ),
        (
            "run.name=a/b",
            "run.name: got 'a/b', expected the name of a folder, without slashes",
        ),
        (
            "train.precision=fp8",
            'train.precision: got "fp8", expected "auto" | "fp32" | "bf16" | "fp16"',
        ),
        (
            "train.device=cuda0",
            'train.device: got "cuda0", expected "auto" | "cpu" | "cuda" | "mps"; did you mean '
            "'cuda'?",
        ),
        ("optimizer.betas=[0.9]", "optimizer.betas: got a list of 1, expected list of 2 numbers"),
        (
            "optimizer.betas=[0.9, '1']",
            'optimizer.betas[1]: got "1" (string), expected number',
        ),
        ("train.gradient_clip=-inf", "train.gradient_clip: got -inf, expected a finite number"),
        ("train=5", "train: got 5 (integer), expected table"),
        (
            "schedule.warmup_steps=100.0",
            "schedule.warmup_steps: got 100.0, expected a number of steps (an integer, such as "
            "100) or a fraction of all steps below 1",
        ),
        (
            "schedule.warmup_steps='10%'",
            'schedule.warmup_steps: got "10%" (string), expected integer or number',
        ),
        (
            "data.num_workers=-1",
            "data.num_workers: got -1, expected a number of at least 0",
        ),
        (
            "data.num_workers=all",
            'data.num_workers: got "all" (string), expected integer or "auto"',
        ),
        (
            "checkpoint.best_metric=itm/accuracy",
            "checkpoint.best_mode: missing; best_metric = 'itm/accuracy' is not a loss, so say "
            "whether the lowest or the highest value is the best: 'min' or 'max'",
        ),
        (
            "train.gradient_checkpointing=true",
            'train.gradient_checkpointing: got true, expected "none" | "half" | "all"',
        ),
        (
            "train.max_step=5",
            "train.max_step: unknown key; known: max_steps, max_epochs, global_batch_size, "
            "micro_batch_size, patience, precision, tf32, residual, ema, gradient_clip, "
            "gradient_checkpointing, gradient_compression, compile, parallel, device, log_every, "
            "step_timeout; did you mean 'max_steps'?",
        ),
        (
            "trian.max_steps=5",
            "trian: unknown section; known: run, model, data, objectives, optimizer, schedule, "
            "train, evaluate, checkpoint, monitors; did you mean 'train'?",
        ),
        (
            "objectives.1.type=itn",
            "objectives[1].type: unknown objective 'itn'; known: itm, mlm; did you mean 'itm'?",
        ),
        ("objectives.1.type=3", "objectives[1].type: unknown objective 3; known: itm, mlm"),
        ("objectives.2.weight=3", "objectives[2]: there are 2 entries, counted from 0"),
        (
            "objectives.0.probabilty=0.2",
            "objectives[0].probabilty: unknown option of objective 'mlm'; known: type, weight, "
            "name, head, probability, negatives; did you mean 'probability'?",
        ),
        (
            "objectives.0.probability=2",
            "objectives[0].probability: got 2.0, expected 0 <= value < 1",
        ),
        (
            "objectives.0.weight=-1",
            "objectives[0].weight: got -1.0, expected a number of at least 0",
        ),
        (
            "objectives.0.name=a.b",
            "objectives[0].name: got 'a.b', expected letters, digits, '-', '_' and '+' only",
        ),
        (
            "objectives.0.head={dropout=0.1}",
            "objectives[0].head.type: missing, expected the name of a component; known: some-head",
        ),
        (
            "objectives={}",
            "objectives: got a table, expected array of tables: write its header in double "
            "brackets, [[...]]",
        ),
        (
            "model.fusion.num_layers=0",
            "model.fusion.num_layers: got 0, expected a number above 0",
        ),
        (
            "model.fusion.type=lxmert",
            "model.fusion.type: unknown fusion 'lxmert'; known: co-attention, some-fusion",
        ),
        (
            "tensorboard.enabled=false",
            "tensorboard: monitors are components now: write [[monitors]] with type = "
            '"tensorboard" beside the other monitors, or monitors = [] for none',
        ),
        (
            "data.transform.name=vit",
            'data.transform.name: a transform is a component now: write type = "..." instead of '
            "name",
        ),
        (
            "model.fusion=some-fusion",
            'model.fusion: got "some-fusion" (string), expected table',
        ),
        (
            "model.image_encoder.size.width=0",
            "model.image_encoder.size.width: got 0, expected a number above 0",
        ),
        (
            "data.train.0.files=[1]",
            "data.train[0].files: got a list of 1, expected string or list of strings",
        ),
        ("run.seed=2026-01-01", "run.seed: got 2026-01-01 (date), expected integer"),
    ],
)
def test_one_fault_on_the_command_line(plugins: Plugins, override: str, text: str) -> None:
    assert faults(plugins, "base.toml", override) == [f"command line: {text}"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            "nan",
            "got nan (number), expected a boolean, a finite number, a string, a list or a table",
        ),
        ("[1, -inf]", "got -inf (number), expected a boolean, a finite number, a string, a list"),
        ("2026-01-02", "got 2026-01-02 (date), expected a boolean, a finite number, a string, a"),
        ("{b = 07:30:00}", "got 07:30:00 (time), expected a boolean, a finite number, a string"),
        ("9223372036854775808", "got 9223372036854775808, expected an integer of at most 64 bits"),
        ("[" * 52 + "]" * 52, "got more than 50 levels of lists and tables, expected fewer"),
    ],
)
def test_values_of_any_type_that_would_not_read_back_equal(
    plugins: Plugins, value: str, text: str
) -> None:
    (fault,) = faults(plugins, "base.toml", f"model.text_encoder.config.a={value}")
    assert fault.startswith(f"command line: model.text_encoder.config.a: {text}")


def test_all_faults_at_once_each_with_the_file_it_comes_from(plugins: Plugins) -> None:
    write("train.toml", "[train]\nmax_steps = 3.5\nglobal_batch_size = 10\nmicro_batch_size = 4\n")
    write("run.toml", 'extends = ["train.toml"]\n[model.image_encoder]\ncheckpont = "x"\n')
    assert faults(plugins, "base.toml", "run.toml", "train.compile=yes", "run.seed=-1") == [
        "command line: run.seed: got -1, expected a number of at least 0",
        "run.toml: model.image_encoder.checkpont: unknown option of encoder 'image'; "
        "known: type, frozen, adapt, checkpoint, size; did you mean 'checkpoint'?",
        "train.toml: train.max_steps: got 3.5 (number), expected integer",
        'command line: train.compile: got "yes" (string), expected boolean: true or false',
        "train.toml: train.micro_batch_size: got 4, which does not divide "
        "train.global_batch_size = 10; the nearest that does is 5",
    ]


def test_a_required_option_is_missing(plugins: Plugins) -> None:
    write("run.toml", '[[data.train]]\ntype = "files"\n')
    assert faults(plugins, "base.toml", "run.toml") == [
        "run.toml: data.train[0].files: missing, expected string or list of strings: "
        "Path, or list of paths."
    ]


def test_unknown_components_name_the_plugins_that_failed_once(plugins: Plugins) -> None:
    broken = BrokenPlugin("renaissance-clip", "0.3", "clip = clip", "ImportError: no open_clip")
    failing = attrs.evolve(plugins, broken=(broken,))
    chosen = ["model.image_encoder.type=clip", "model.text_encoder.type=clip"]
    assert faults(failing, "base.toml", *chosen) == [
        "command line: model.text_encoder.type: unknown encoder 'clip'; known: image, joint, "
        "patches, text",
        "command line: model.image_encoder.type: unknown encoder 'clip'; known: image, joint, "
        "patches, text",
        "or fix or uninstall the plugins that failed to load: renaissance-clip 0.3 "
        "(entry point 'clip = clip'): ImportError: no open_clip",
    ]
    assert len(faults(failing, "base.toml", "run.seed=-1")) == 1
    assert load_spec(["base.toml"], failing).model.type == "two-tower"


# --- checks between keys --------------------------------------------------------------------------


def test_an_empty_spec_says_what_a_run_needs(plugins: Plugins) -> None:
    assert faults(plugins, write("empty.toml", "")) == [
        "empty.toml: model.text_encoder: missing; a two-tower model needs a table "
        "[model.text_encoder]",
        "empty.toml: model.image_encoder: missing; a two-tower model needs a table "
        "[model.image_encoder]",
        "empty.toml: data.train: missing; a run needs at least one table [[data.train]]",
        "empty.toml: objectives: missing; a run needs at least one table [[objectives]]",
    ]


def test_objectives_of_no_weight(plugins: Plugins) -> None:
    settings = ["objectives.0.weight=0", "objectives.1.weight=0"]
    assert faults(plugins, "base.toml", *settings) == [
        "base.toml: objectives: every objective has weight 0, so nothing would be trained; give "
        "one a weight above 0"
    ]
    # One of them may be switched off.
    assert load_spec(["base.toml", settings[0]], plugins).objectives[0].weight == 0


def test_settings_that_would_train_nothing(plugins: Plugins) -> None:
    assert faults(plugins, "base.toml", "data.train.0.objectives=[]") == [
        "command line: data.train[0].objectives: got an empty list; name at least one, or leave "
        "the key out for all"
    ]
    multipliers = [f"optimizer.multipliers.{role}=0" for role in ("encoder", "fusion", "head")]
    assert faults(plugins, "base.toml", *multipliers) == [
        "command line: optimizer.multipliers: every factor is 0, so nothing would be trained; set "
        "one above 0"
    ]
    load_spec(["base.toml", *multipliers[:2]], plugins)


def test_architectures_have_their_own_parts(plugins: Plugins) -> None:
    assert faults(plugins, "base.toml", "model.encoder.type=joint") == [
        "command line: model.encoder: a two-tower model has text_encoder and image_encoder "
        "instead; remove this table"
    ]
    assert faults(
        plugins, "base.toml", "model.type=one-tower", "model.fusion.type=some-fusion"
    ) == [
        "base.toml: model.encoder: missing; a one-tower model needs a table [model.encoder]",
        "command line: model.fusion: a one-tower model fuses in its encoder; remove this table",
    ]


def test_encoders_must_take_what_their_place_gives(plugins: Plugins) -> None:
    assert faults(plugins, "base.toml", "model.image_encoder.type=joint") == [
        "command line: model.image_encoder.type: 'joint' takes text and image, expected an "
        "encoder of image; known: image, patches"
    ]
    one_tower = ["model.type=one-tower", "model.encoder.type=image"]
    assert faults(plugins, "base.toml", *one_tower) == [
        "command line: model.encoder.type: 'image' takes image, expected an encoder of text and "
        "image; known: joint"
    ]


def test_objectives_need_names_of_their_own(plugins: Plugins) -> None:
    assert faults(plugins, "base.toml", "objectives.0.name=itm") == [
        "command line: objectives[0].name: 2 objectives are called 'itm'; give each a unique name",
        "base.toml: objectives[1].name: 2 objectives are called 'itm'; give each a unique name",
    ]


# --- options of plugins ---------------------------------------------------------------------------


def test_an_option_that_toml_cannot_write(plugins_with: Any) -> None:
    class Odd(TextEncoder):
        @attrs.frozen
        class Options:
            checkpoint: Tensor = option(None, help="No TOML.")

    odd = plugins_with(("encoder", "text", Odd), ("encoder", "image", ImageEncoder))
    with pytest.raises(PluginError, match=r"Options.checkpoint: an option of type .*Tensor"):
        load_spec(["base.toml"], odd)


def test_a_validator_sees_the_other_options(plugins_with: Any) -> None:
    class Between(ImageEncoder):
        @attrs.frozen
        class Options:
            low: int = option(0, help="Low.")
            high: int = attrs.field(default=1, metadata={"help": "High."})

            @high.validator
            def _above_low(self, attribute: Any, value: int) -> None:
                if value <= self.low:
                    raise ValueError(f"got {value}, expected more than low = {self.low}")

            def __attrs_post_init__(self) -> None:
                if self.high == 13:
                    raise ValueError("13 brings bad luck")

    between = plugins_with(("encoder", "image", Between))
    actual = faults(between, "base.toml", "model.image_encoder.low=1")
    where = "command line: model.image_encoder"
    assert "base.toml: model.image_encoder.high: got 1, expected more than low = 1" in actual
    actual = faults(between, "base.toml", "model.image_encoder.low=x")
    assert f'{where}.low: got "x" (string), expected integer' in actual
    assert not [fault for fault in actual if "high" in fault]
    actual = faults(between, "base.toml", "model.image_encoder.high=13")
    assert "base.toml: model.image_encoder: 13 brings bad luck" in actual


def test_a_fusion_that_is_wrong_does_not_hide_what_else_is(plugins: Plugins) -> None:
    write("a.toml", "[model.pooler]\nsize = 8\n")
    (fault,) = faults(plugins, "base.toml", "a.toml", "model.fusion.type=3")
    assert fault.startswith("command line: model.fusion.type: unknown fusion 3; known: ")
