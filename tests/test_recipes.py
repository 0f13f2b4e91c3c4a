"""Every recipe can be laid over a complete one, and says what it promises."""

import re
import shlex
from pathlib import Path

import pytest
import tomli
from running import TINY, write_spec

from renaissance.plugins import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.sections import RunSpec

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
PRETRAIN = RECIPES / "pretrain.toml"
FRAGMENTS = sorted(path.relative_to(RECIPES) for path in RECIPES.glob("*/*.toml"))


def load(*arguments: Path | str) -> RunSpec:
    return load_spec([str(argument) for argument in arguments], load_plugins())


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_a_recipe_at_the_top_is_complete(recipe: Path) -> None:
    assert load(recipe).objectives


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=str)
def test_a_fragment_is_of_use_over_a_complete_recipe(fragment: Path) -> None:
    base: list[Path] = [PRETRAIN]
    if fragment == Path("random/one-tower.toml"):
        base.append(RECIPES / "one-tower/bert-base.toml")
    changed = load(*base, RECIPES / fragment)
    # The base names some of the fragments itself.
    own = {"text/electra-small", "image/deit-tiny-distilled", "data/coco-vg"}
    assert (changed == load(*base)) == (str(fragment.with_suffix("")) in own)


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=str)
def test_a_fragment_begins_with_what_it_is(fragment: Path) -> None:
    text = (RECIPES / fragment).read_text()
    assert re.match(r"# [A-Z].*\.\n\S", text)
    # Nothing that another fragment of its group would leave behind.
    groups = {"text": "text_encoder", "image": "image_encoder", "one-tower": "encoder"}
    if fragment.parts[0] in groups:
        encoder = tomli.loads(text)["model"][groups[fragment.parts[0]]]
        assert set(encoder) <= {"type", "checkpoint", "patch_size"}


def test_the_main_experiment() -> None:
    spec = load(PRETRAIN)
    assert (spec.train.max_steps, spec.train.global_batch_size) == (50_000, 512)
    assert (spec.optimizer.learning_rate, spec.schedule.warmup_steps) == (1e-4, 0.1)
    assert [objective.type for objective in spec.objectives] == ["mlm", "itm"]
    assert [dataset.type for dataset in spec.data.train] == ["coco", "vg"]
    assert spec.model.fusion is not None
    fusion = spec.model.fusion.options
    assert (fusion.num_layers, fusion.hidden_size) == (6, 256)


def test_freezing_and_random_weights() -> None:
    spec = load(PRETRAIN, RECIPES / "freeze/both.toml", RECIPES / "random/image.toml")
    model = spec.model
    assert model.text_encoder is not None
    assert model.image_encoder is not None
    assert model.text_encoder.frozen
    assert model.image_encoder.frozen
    assert model.image_encoder.options.random_init
    assert not model.text_encoder.options.random_init


def test_images_are_normalized_as_the_encoder_was_trained() -> None:
    for encoder, transform in (
        ("vit-base", "vit"),
        ("clip-vit-b32", "clip"),
        ("swin-tiny", "imagenet"),
    ):
        # Also over one with another transform.
        spec = load(PRETRAIN, RECIPES / "image/beit-base.toml", RECIPES / f"image/{encoder}.toml")
        assert spec.data.transform.name == transform


def test_shapes_is_complete_and_needs_no_files() -> None:
    spec = load(RECIPES / "shapes.toml")
    assert spec.run.name == "shapes"
    assert {dataset.type for dataset in (*spec.data.train, *spec.data.validate)} == {"shapes"}
    frozen = load(RECIPES / "shapes.toml", RECIPES / "freeze/text.toml")
    assert frozen.model.text_encoder is not None
    assert frozen.model.text_encoder.frozen


def test_the_commands_of_the_readme_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (RECIPES / "README.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]
    assert len(commands) == 6
    for command in commands:
        start = next(i for i, word in enumerate(command) if word.endswith(".toml"))
        load(*command[start:])


def test_every_recipe_is_in_the_readme_by_its_group() -> None:
    text = (RECIPES / "README.md").read_text()
    for group in {fragment.parts[0] for fragment in FRAGMENTS}:
        assert f"`{group}/`" in text


def test_the_example_spec_is_whole(tmp_path: Path) -> None:
    text = (ROOT / "run.toml.example").read_text()
    spec = load(write_spec(tmp_path, text))
    assert spec.model.type == "two-tower"
    # Every section that a run may have, the monitors' aside, is shown.
    assert set(tomli.loads(text)) == set(tomli.loads(TINY)) - {"tensorboard"} | {"checkpoint"}
