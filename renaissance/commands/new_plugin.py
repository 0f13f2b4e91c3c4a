"""`renaissance plugins new`: write a working plugin package."""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from renaissance.errors import PluginError
from renaissance.plugins.kinds import KINDS, Kind, require_kind

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# What run.toml says for each kind: with a built-in component, and with the package's component.
BUILT_IN = {
    "encoder": '[model.image_encoder]\ntype = "hf-image"\narchitecture = "vit"\nconfig = '
    "{ patch_size = 16, hidden_size = 32, num_hidden_layers = 1, num_attention_heads = 2, "
    "intermediate_size = 64 }",
    "fusion": '[model.fusion]\ntype = "co-attention"\nhidden_size = 32\nnum_layers = 1\n'
    "num_heads = 2\n",
    "pooler": "",
    "dataset": 'type = "shapes"\nnum_samples = 256\nimage_size = 32',
    "objective": 'type = "itm"',
    "head": "",
    "optimizer": "[optimizer]\nlearning_rate = 1e-3\n",
    "transform": "",
    "monitor": "",
}
FROM_PACKAGE = {
    "encoder": '[model.image_encoder]\ntype = "$component"\nhidden_size = 32',
    "fusion": '[model.fusion]\ntype = "$component"\nhidden_size = 32\n',
    "pooler": '[model.pooler]\ntype = "$component"\noutput_size = 32\n',
    "dataset": 'type = "$component"\nnum_samples = 256',
    "objective": 'type = "$component"',
    "head": '\n[objectives.head]\ntype = "$component"\ntemperature = 1.0\n',
    "optimizer": '[optimizer]\ntype = "$component"\nalpha = 0.9\nlearning_rate = 1e-3\n',
    "transform": '\n[data.transform]\ntype = "$component"\nbrightness = 0.2\n',
    # Not part of a run.
    "source": "",
    "monitor": '\n[[monitors]]\ntype = "console"\n\n[[monitors]]\ntype = "jsonl"\n\n'
    '[[monitors]]\ntype = "$component"\nmetric = "loss"\n',
}
# Templates of tests, if not test.py: a source is checked on files, which its test writes.
TEST_TEMPLATES = {"source": "test_source.py"}


def write_package(folder: Path, name: str, kinds: Sequence[str]) -> list[str]:
    """Write a package with one small working component per kind, tests, and a run spec.

    Args:
        folder: Where to make the package's folder.
        name: Name of the distribution, and of its components, without the prefix `renaissance-`.
        kinds: Kinds of component.

    Returns:
        Lines that say what was written, and what to do next.

    Raises:
        PluginError: If the name or a kind is invalid, or the folder exists.
    """
    if not NAME.fullmatch(name):
        raise PluginError(f"plugins new: got {name!r}, expected kebab-case, such as 'my-plugin'")
    if not kinds:
        raise PluginError(f"plugins new: no kind; add --kind, one of {', '.join(KINDS)}")
    package = folder / name
    if package.exists():
        raise PluginError(f"plugins new: {package} exists; choose another name, or remove it")
    chosen = {require_kind(kind) for kind in kinds}
    written = render_package(name, [kind for kind in KINDS if kind in chosen])
    for path, text in written.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    return [
        *(f"wrote {package / path}" for path in written),
        f"next: pip install -e {package} && pytest {package} && "
        f"renaissance check {package / 'run.toml'} && renaissance train "
        f"{package / 'run.toml'}",
    ]


def render_package(name: str, kinds: Sequence[Kind]) -> dict[str, str]:
    """Return the package's files by their paths in it."""
    component = name.removeprefix("renaissance-")
    words = {
        "name": name,
        "component": component,
        "module": name.replace("-", "_"),
        "camel": "".join(part.capitalize() for part in component.split("-")),
        "list": "\n".join(f"- {kind} `{component}`" for kind in kinds),
    }
    sections: dict[str, str] = dict(BUILT_IN)
    for kind in kinds:
        sections[kind] = Template(FROM_PACKAGE[kind]).substitute(words)
    words["image_encoder"] = sections.pop("encoder")
    module = words["module"]
    package = {
        "pyproject.toml": _render("pyproject.toml", words),
        "README.md": _render("README.md", words),
        # Sections that are absent leave blank lines behind.
        "run.toml": re.sub(r"\n{3,}", "\n\n", _render("run.toml", words | sections)),
        f"{module}/__init__.py": _render_init(kinds, words),
        # Says that the package has types.
        f"{module}/py.typed": "",
    }
    for kind in kinds:
        package[f"{module}/{kind}.py"] = _render(f"{kind}.py", words)
        test = words | {"kind": kind, "title": kind.capitalize()}
        # With the package's name, so that pytest can collect several packages at once.
        template = TEST_TEMPLATES.get(kind, "test.py")
        package[f"tests/test_{module}_{kind}.py"] = _render(template, test)
    return package


def _render_init(kinds: Sequence[Kind], words: dict[str, str]) -> str:
    classes = {kind: words["camel"] + kind.capitalize() for kind in kinds}
    imports = [f"from {words['module']}.{kind} import {classes[kind]}" for kind in sorted(kinds)]
    hooks = [
        f"\n\n@hookimpl\ndef register_{kind}s(register: Callable[[str, type[{kind.capitalize()}]], "
        f'None]) -> None:\n    """Register the {kind}."""\n'
        f'    register("{words["component"]}", {classes[kind]})'
        for kind in kinds
    ]
    parts = {
        "contracts": "\n".join(f"    {kind.capitalize()}," for kind in sorted(kinds)),
        "imports": "\n".join(imports),
        "hooks": "\n".join(hooks),
    }
    return _render("init.py", parts)


def _render(template: str, words: dict[str, str]) -> str:
    text = files("renaissance.commands").joinpath(f"templates/{template}.template").read_text()
    return Template(text).substitute(words)
