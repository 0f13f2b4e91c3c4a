"""The recipes that come with the package, which layers name as `recipe:image/swin-tiny`."""

import re
from pathlib import Path

import tomli

from renaissance.errors import SpecError, did_you_mean, quoted

PREFIX = "recipe:"
# In a checkout, a link to its folder of recipes.
FOLDER = Path(__file__).parents[1] / "recipes"
SUFFIX = ".toml"


def is_recipe(layer: str) -> bool:
    """Return whether a layer is a recipe, rather than a file of the user."""
    return layer.startswith(PREFIX)


def recipe_names() -> list[str]:
    """Return the names of all recipes, such as "image/swin-tiny"."""
    return sorted(map(_name_of, [*FOLDER.glob("*.toml"), *FOLDER.glob("*/*.toml")]))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: Its name, with or without `recipe:` and `.toml`.

    Raises:
        SpecError: If there is no such recipe.
    """
    bare = name.removeprefix(PREFIX).removesuffix(SUFFIX)
    known = recipe_names()
    if bare not in known:
        hint = did_you_mean(bare, known)
        raise SpecError(f"{quoted(name)}: no such recipe{hint} (`renaissance recipes` lists them)")
    return FOLDER / f"{bare}{SUFFIX}"


def recipe_summary(name: str) -> str:
    """Return what a recipe is for, from its first line."""
    return recipe_path(name).read_text().partition("\n")[0].removeprefix("# ")


def recipe_copy(name: str) -> str:
    """Return the text of a recipe as it can stand anywhere: it extends others by their names."""
    path = recipe_path(name)
    text = path.read_text()
    bases = [
        f'"{PREFIX}{_name_of((path.parent / base).resolve())}"'
        for base in tomli.loads(text).get("extends", [])
    ]
    return re.sub(r"^extends = .*$", f"extends = [{', '.join(bases)}]", text, flags=re.M)


def _name_of(path: Path) -> str:
    folder = FOLDER if path.is_relative_to(FOLDER) else FOLDER.resolve()
    return path.relative_to(folder).with_suffix("").as_posix()
