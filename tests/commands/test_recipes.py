"""`renaissance recipes`, and layers that are named as recipes."""

import zipfile
from pathlib import Path

import pytest
from support.asserting import assert_refused
from support.command_line import renaissance
from support.fresh_environment import wheel
from support.running import write_spec

from renaissance.spec.read import read_layers
from renaissance.spec.recipes import recipe_names

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
FILES = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.toml"))


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_wheel_has_all_recipes() -> None:
    inside = [name for name in zipfile.ZipFile(wheel()).namelist() if "recipes/" in name]
    assert sorted(inside) == [f"renaissance/recipes/{file}" for file in FILES]


def test_the_list_has_every_recipe_with_its_first_line() -> None:
    lines = renaissance("recipes").out.splitlines()
    assert [line.partition("\t")[0] for line in lines[1:]] == [
        f"recipe:{name}" for name in sorted(file.removesuffix(".toml") for file in FILES)
    ]
    first = (RECIPES / "image/swin-tiny.toml").read_text().partition("\n")[0]
    assert f"recipe:image/swin-tiny\t{first.removeprefix('# ')}" in lines


def test_a_recipe_is_printed() -> None:
    for name in ("image/swin-tiny", "recipe:image/swin-tiny", "image/swin-tiny.toml"):
        assert (
            renaissance("recipes", "show", name).out
            == (RECIPES / "image/swin-tiny.toml").read_text()
        )


@pytest.mark.parametrize("name", recipe_names())
def test_a_copy_says_the_same_anywhere(name: str, tmp_path: Path) -> None:
    finished = renaissance("recipes", "copy", name, "copied.toml")
    assert (finished.code, finished.out) == (0, "wrote copied.toml\n")
    expected = read_layers([str(RECIPES / f"{name}.toml")]).table
    assert read_layers(["copied.toml"]).table == expected
    assert read_layers([f"recipe:{name}"]).table == expected
    assert "../" not in Path("copied.toml").read_text()


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    assert renaissance("recipes", "copy", "image/swin-tiny").code == 0
    (tmp_path / "swin-tiny.toml").write_text("mine")
    assert_refused(
        renaissance("recipes", "copy", "image/swin-tiny"),
        "swin-tiny.toml exists; name another file, or remove it",
    )
    assert (tmp_path / "swin-tiny.toml").read_text() == "mine"
    assert_refused(
        renaissance("recipes", "copy", "pretrain", "no/file.toml"),
        "no/file.toml: cannot be written",
    )


def test_layers_are_named_as_recipes(tmp_path: Path) -> None:
    mine = write_spec(tmp_path, 'extends = ["recipe:shapes", "recipe:freeze/text"]\nrun.seed = 5\n')
    table = read_layers([str(mine), "recipe:objectives/itm", "train.max_steps=7"]).table
    assert table["run"] == {"name": "shapes", "seed": 5}
    assert table["model"]["text_encoder"]["frozen"] is True
    assert [objective["type"] for objective in table["objectives"]] == ["itm"]
    assert table["train"]["max_steps"] == 7
    # Once, as any file, whichever way it is named.
    both = read_layers([str(RECIPES / "freeze/text.toml"), "recipe:freeze/text"])
    assert both.origin(("model", "text_encoder", "frozen")) == str(RECIPES / "freeze/text.toml")


def test_a_recipe_is_trained_without_the_word_train() -> None:
    # Close to the name of a command, which it is not.
    assert renaissance("recipe:shapes", "train.max_steps=1", "run.name=x").code == 0
    assert Path("runs/x/checkpoints/best").is_dir()
    assert "no checkpoint there" in renaissance("evaluate", "recipe:shapes").err


def test_an_unknown_recipe_gets_the_nearest_name(tmp_path: Path) -> None:
    text = "'recipe:image/swim-tiny': no such recipe; did you mean 'image/swin-tiny'? (`renaissance"
    assert_refused(renaissance("check", "recipe:image/swim-tiny"), f"command line: {text}")
    mine = write_spec(tmp_path, 'extends = ["recipe:image/swim-tiny"]\n')
    assert_refused(renaissance("check", str(mine)), f"{mine}: extends: {text}")
    for outside in ("recipe:../renaissance/demo/run", "recipe:/etc/passwd", "recipe:"):
        assert_refused(renaissance("check", outside), f"{outside!r}: no such recipe")
    assert_refused(renaissance("recipes", "show", "nothing"), "'nothing': no such recipe")
