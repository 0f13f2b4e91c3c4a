"""Each layer imports only from the layers below it."""

import ast
from pathlib import Path

import renaissance

ROOT = Path(renaissance.__file__).parent

# Lowest first. The package's own __init__ (the public names) may be imported by built-ins.
LAYERS = [
    ["errors", "randomness", "options", "initialization"],
    ["contracts"],
    ["registry", "hookspecs", "plugins", "plugin_files", "events", "spec"],
    ["model", "data"],
    ["builtin"],
    ["engine"],
    ["commands", "cli", "demo", "testing", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# `events` describes a run by its spec, and the hooks name its types; all of one level.
PUBLIC = {"renaissance"}


def imports_of(file: Path) -> list[str]:
    """Return the modules of this project that a file imports at run time."""
    found = []
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
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.split(".")[0] == "renaissance"]


def layer_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_belongs_to_a_layer() -> None:
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__pycache__", "py"} - set(LEVEL) == set()


def test_no_layer_imports_from_one_above() -> None:
    wrong = []
    for file in ROOT.rglob("*.py"):
        own = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for module in imports_of(file):
            if module in PUBLIC:
                continue
            if LEVEL[layer_of(module)] > LEVEL[own]:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_builtins_use_the_public_plugin_api_only() -> None:
    allowed = ("renaissance", "renaissance.builtin", "renaissance.contracts.monitor")
    wrong = []
    for file in (ROOT / "builtin").rglob("*.py"):
        for module in imports_of(file):
            is_dataset = "datasets" in file.parts and module.startswith("renaissance.data.")
            is_own = module.startswith("renaissance.builtin.")
            if module not in allowed and not is_own and not is_dataset:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_the_engine_names_no_component() -> None:
    for file in (ROOT / "engine").glob("*.py"):
        assert not any("builtin" in module for module in imports_of(file)), file
