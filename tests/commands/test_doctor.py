"""Broken plugins: each named by distribution, with the remedy; other runs go on; the doctor."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.installing import install_source
from support.running import write_spec
from typer.testing import CliRunner

from renaissance import SpecError
from renaissance.commands.plugins import app
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

Install = Callable[[str], Path]

HEAD = """
import attrs
from renaissance import Head, hookimpl, option
{before}

class {name}(Head):
    {docstring}

    @attrs.frozen
    class Options:
        {option}

    def __init__(self, options, input_size{argument}):
        super().__init__()

    def forward(self, {forward}):
        return hidden_states


@hookimpl
def register_heads(register):
    register("broken", {name})
"""
WELL = {
    "before": "",
    "name": "Broken",
    "docstring": '"""A head."""',
    "option": 'size: int = option(1, help="Size.")',
    "argument": ", output_size",
    "forward": "hidden_states",
}


@pytest.fixture
def head(installed: Install, tmp_path: Path) -> Callable[..., None]:
    """Return a function that installs a package with a head, with some of its text replaced."""
    site = installed("every-hook")

    def install(**changes: str) -> None:
        name = f"package-{len(list(tmp_path.iterdir()))}"
        source = tmp_path / name
        source.mkdir()
        module = name.replace("-", "_")
        (source / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\nversion = "2.0"\n'
            f'[project.entry-points.renaissance]\nhead = "{module}"\n'
        )
        (source / f"{module}.py").write_text(HEAD.format(**{**WELL, **changes}))
        install_source(source, site)

    return install


def doctor() -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["doctor"])
    return result.exit_code, result.output.splitlines()


def test_nothing_is_wrong(head: Callable[..., None]) -> None:
    head()
    code, lines = doctor()
    assert lines[-1] == "ok: nothing is wrong"
    assert any(line.startswith("package-1\t2.0\t1") for line in lines)
    assert code == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"before": "import a_package_that_nobody_has"},
            "ModuleNotFoundError: No module named 'a_package_that_nobody_has'; fix, upgrade or "
            "uninstall it",
        ),
        (
            {"before": "import sys\nsys.exit('no GPU')"},
            "SystemExit: no GPU; fix, upgrade or uninstall it",
        ),
        (
            {"argument": ""},
            "package-1 2.0: head 'broken': Broken.__init__(self, options, input_size) does not "
            "take the arguments that it is given; write "
            "`def __init__(self, options, input_size, output_size)`; fix, upgrade or uninstall it",
        ),
        (
            {"forward": "hidden_states, mask"},
            "package-1 2.0: head 'broken': Broken.forward(self, hidden_states, mask) does not take "
            "the arguments that it is given; write `def forward(self, hidden_states)`; fix, "
            "upgrade or uninstall it",
        ),
        (
            {"option": "size: int = 1"},
            "package-1 2.0: head 'broken': Broken.Options: no help for size; declare each as "
            "`size: ... = option(default, help='What it does.')`; fix, upgrade or uninstall it",
        ),
        (
            {"before": "renaissance_api = 2"},
            "package_1: renaissance_api is 2, expected 1; install a matching release of "
            "renaissance; fix, upgrade or uninstall it",
        ),
        (
            {"before": "renaissance_api = 0"},
            "package_1: renaissance_api is 0, expected 1; install a matching release of "
            "the plugin; fix, upgrade or uninstall it",
        ),
        (
            {"option": 'type: str = option("a", help="Kind of head.")'},
            "package-1 2.0: head 'broken': its option 'type' has the name of a key that every head "
            "table has (type); rename the option; fix, upgrade or uninstall it",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_other_runs_go_on(
    head: Callable[..., None], tmp_path: Path, changes: dict[str, str], text: str
) -> None:
    head(**changes)
    code, lines = doctor()
    assert f"wrong: package-1 2.0 (entry point 'head = package_1'): {text}" in lines
    assert code == 1
    plugins = load_plugins()
    spec = write_spec(tmp_path)
    assert load_spec([str(spec)], plugins).run.name == "tiny"
    affected = [str(spec), "objectives.0.head.type=broken"]
    with pytest.raises(
        SpecError, match=r"unknown head 'broken'(.|\n)*failed to load: package-1 2\.0"
    ):
        load_spec(affected, plugins)


def test_a_clash_is_wrong_and_stops_only_runs_that_use_the_name(
    head: Callable[..., None], tmp_path: Path
) -> None:
    head()
    head()
    code, lines = doctor()
    text = (
        "head 'broken' is registered twice: by package-1 2.0 and by package-2 2.0; uninstall one "
        "or rename its component"
    )
    assert f"wrong: {text}" in lines
    assert code == 1
    spec = write_spec(tmp_path)
    plugins = load_plugins()
    assert load_spec([str(spec)], plugins).run.name == "tiny"
    with pytest.raises(SpecError) as caught:
        load_spec([str(spec), "objectives.0.head.type=broken"], plugins)
    assert text in str(caught.value)


def test_a_component_without_a_docstring_is_wrong_and_can_be_used(
    head: Callable[..., None],
) -> None:
    head(docstring="pass")
    code, lines = doctor()
    assert (
        "wrong: package-1 2.0: head 'broken': Broken has no docstring, which `renaissance plugins "
        "show` prints; say what it does in one line"
    ) in lines
    assert code == 1
    assert load_plugins().registry.find("head", "broken") is not None


def test_a_plugin_without_a_hook(tmp_path: Path, installed: Install) -> None:
    source = tmp_path / "idle"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[project]\nname = "idle"\nversion = "1"\n[project.entry-points.renaissance]\nx = "idle"\n'
    )
    (source / "idle.py").write_text("renaissance_api = 1\n")
    install_source(source, installed("every-hook"))
    code, lines = doctor()
    assert (
        "wrong: idle:x: it has no hook, so it registers nothing and is never called; add "
        "@hookimpl functions to what its entry point names"
    ) in lines
    assert code == 1


def test_the_exit_code_of_the_command(
    head: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from renaissance.cli import main

    head(argument="")
    monkeypatch.setattr(sys, "argv", ["renaissance", "plugins", "doctor"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
