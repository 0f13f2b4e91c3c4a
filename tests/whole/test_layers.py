"""Each layer imports only from the layers below it."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import renaissance

ROOT = Path(renaissance.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"
# What plugins may import, and built-ins with them. The package's own __init__ is in no layer.
PUBLIC = ("renaissance", "renaissance.arrow", "renaissance.prepare")


def layers_script() -> Any:
    specification = importlib.util.spec_from_file_location("layers", DOCS / "layers.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


SCRIPT = layers_script()
LEVEL = {
    module: level for level, layer in enumerate(SCRIPT.read_layers()) for module in layer["modules"]
}


def imports_of(file: Path) -> list[str]:
    """Return the modules of this project that a file imports at run time."""
    names = []
    tree = ast.parse(file.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.split(".")[0] == "renaissance"]


def test_every_module_belongs_to_a_layer() -> None:
    # A link leads to the recipes, which are no modules.
    paths = [path for path in ROOT.iterdir() if not path.is_symlink()]
    names = {path.stem for path in paths if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__pycache__", "py"} == set(LEVEL)


def test_no_layer_imports_from_one_above() -> None:
    wrong = []
    for file in ROOT.rglob("*.py"):
        layer = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer == "__init__":
            continue
        for module in imports_of(file):
            if module != "renaissance" and LEVEL[module.split(".")[1]] > LEVEL[layer]:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_builtins_use_the_public_plugin_api_only() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in (ROOT / "builtin").rglob("*.py")
        for module in imports_of(file)
        if module not in PUBLIC and not module.startswith("renaissance.builtin.")
    ]
    assert wrong == []


def test_the_engine_names_no_component() -> None:
    for file in (ROOT / "engine").glob("*.py"):
        assert not any("builtin" in module for module in imports_of(file)), file


def test_the_page_on_architecture_has_these_layers() -> None:
    page = (DOCS / "architecture.md").read_text()
    assert SCRIPT.with_table(page) == page
