"""Plugins: discovery, hooks, failures and the commands, with real third-party distributions."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.installing import DISTRIBUTIONS, install_source
from typer.testing import CliRunner

from renaissance import PluginError, hookimpl
from renaissance.commands.plugins import app
from renaissance.errors import describe
from renaissance.plugins import hookspecs
from renaissance.plugins.loading import (
    Plugins,
    check_hooks,
    collect_components,
    hook_names,
    load_plugins,
)

DOCS = Path(__file__).parents[2] / "docs"
EVERY_HOOK = "renaissance-every-hook"

Install = Callable[[str], Path]


def names_of(plugins: Plugins, kind: str, distribution: str = EVERY_HOOK) -> list[str]:
    return [r.name for r in plugins.registry if r.kind == kind and r.distribution == distribution]


@pytest.fixture
def every_hook(installed: Install) -> Plugins:
    installed("every-hook")
    return load_plugins()


def calls() -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = sys.modules["renaissance_every_hook"].calls
    return calls


# --- every hook: one test each, named after it ----------------------------------------------------


def test_register_encoders(every_hook: Plugins) -> None:
    assert names_of(every_hook, "encoder") == ["text-lengths"]


def test_register_poolers(every_hook: Plugins) -> None:
    assert names_of(every_hook, "pooler") == ["max-text"]


def test_register_fusions(every_hook: Plugins) -> None:
    assert names_of(every_hook, "fusion") == ["no-fusion"]


def test_register_objectives(every_hook: Plugins) -> None:
    assert names_of(every_hook, "objective") == ["no-loss"]


def test_register_datasets(every_hook: Plugins) -> None:
    assert names_of(every_hook, "dataset") == ["one-text"]


def test_register_heads(every_hook: Plugins) -> None:
    assert names_of(every_hook, "head") == ["zero"]
    registration = every_hook.require("head", "zero")
    assert (registration.distribution, registration.version) == (EVERY_HOOK, "1.2")


def test_register_monitors(every_hook: Plugins) -> None:
    assert names_of(every_hook, "monitor") == ["silent"]


def test_register_transforms(every_hook: Plugins) -> None:
    assert names_of(every_hook, "transform") == ["black"]


def test_register_optimizers(every_hook: Plugins) -> None:
    assert names_of(every_hook, "optimizer") == ["still"]


def test_register_sources(installed: Install) -> None:
    installed("every-hook")
    # One kind alone can be collected: `data prepare` asks for no other.
    plugins = load_plugins(kinds=("source",))
    assert names_of(plugins, "source") == ["empty"]
    assert {registration.kind for registration in plugins.registry} == {"source"}


# Others may listen to the same hooks: these tests call the one plugin alone.
@pytest.fixture
def listener(every_hook: Plugins) -> Any:
    manager = every_hook.manager
    plugin = manager.get_plugin(f"{EVERY_HOOK}:every-hook")
    others = [other for other in manager.get_plugins() if other is not plugin]
    return lambda hook: manager.subset_hook_caller(hook, others)


def test_run_started(listener: Any) -> None:
    listener("run_started")(run="run")
    assert calls() == [("run_started", "run")]


def test_step_finished(listener: Any) -> None:
    # This plugin's hook leaves out `run`.
    listener("step_finished")(run="run", report="report")
    assert calls() == [("step_finished", "report")]


def test_evaluated(listener: Any) -> None:
    listener("evaluated")(run="run", evaluation="evaluation")
    assert calls() == [("evaluated", "run", "evaluation")]


def test_checkpoint_saved(listener: Any) -> None:
    listener("checkpoint_saved")(run="run", step=3, folder=Path("x"))
    assert calls() == [("checkpoint_saved", "run", 3, Path("x"))]


def test_run_finished(listener: Any) -> None:
    listener("run_finished")(run="run", reason="finished", summary={})
    assert calls() == [("run_finished", "run", "finished", {})]


@pytest.mark.parametrize("hook", hook_names())
def test_every_hook_is_tested_and_documented(hook: str) -> None:
    assert f"test_{hook}" in globals(), f"no test of the hook {hook} in {__name__}"
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"| `{hook}({arguments})` |" in (DOCS / "plugins" / "hooks.md").read_text()


def test_the_documented_hooks_exist() -> None:
    documented = re.findall(
        r"^\| `(\w+)\(.*?\)` \|", (DOCS / "plugins" / "hooks.md").read_text(), re.M
    )
    assert documented == hook_names()


# --- discovery and failures -----------------------------------------------------------------------


def test_a_failing_import_is_set_aside_with_its_cause(installed: Install) -> None:
    installed("failing-import")
    installed("every-hook")
    plugins = load_plugins()
    (broken,) = [b for b in plugins.broken if b.distribution == "renaissance-failing-import"]
    assert str(broken) == (
        "renaissance-failing-import 0.3 (entry point 'failing-import = "
        "renaissance_failing_import'): ModuleNotFoundError: No module named "
        "'a_package_that_nobody_has'"
    )
    assert plugins.require("head", "zero").distribution == EVERY_HOOK
    with pytest.raises(PluginError, match=r"unknown head 'zer'.*renaissance-failing-import 0\.3"):
        plugins.require("head", "zer")


def test_a_failure_while_registering_leaves_nothing_behind(tmp_path: Path, installed: Any) -> None:
    site = installed("every-hook")
    source = tmp_path / "late"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[project]\nname = "late"\nversion = "1"\n[project.entry-points.renaissance]\nlate="late"\n'
    )
    (source / "late.py").write_text(
        "from renaissance import hookimpl\n"
        "from renaissance_every_hook import ZeroHead\n\n"
        "@hookimpl\ndef register_encoders(register):\n    raise OSError('no\\nweights')\n\n"
        "@hookimpl\ndef register_heads(register):\n    register('late', ZeroHead)\n\n"
        "@hookimpl\ndef run_started(run):\n    raise AssertionError\n"
    )
    install_source(source, site)
    plugins = load_plugins()
    (broken,) = [b for b in plugins.broken if b.distribution == "late"]
    assert broken.cause == "OSError: no weights"
    assert plugins.registry.find("head", "late") is None
    assert plugins.manager.get_plugin("late:late") is None


def put(folder: Path, **files: bytes) -> None:
    """Write the metadata of a distribution, without what a sound one has."""
    folder.mkdir()
    for name, content in files.items():
        (folder / {"entry_points": "entry_points.txt"}.get(name, name)).write_bytes(content)


ENTRY_POINTS = b"[renaissance]\nzero = renaissance_every_hook\n"


def test_distributions_without_metadata_are_named_after_their_folders(installed: Install) -> None:
    site = installed("every-hook")
    (site / "renaissance_every_hook-1.2.dist-info").rename(site / "hidden")
    put(site / "one-1.dist-info", entry_points=ENTRY_POINTS)
    put(site / "two-2.dist-info", entry_points=b"[renaissance]\nno = a_package_nobody_has\n")
    put(site / "three-3.dist-info", METADATA=b"\xff", entry_points=b"[renaissance]\nno = nobody\n")
    plugins = load_plugins()
    assert plugins.require("head", "zero").distribution == "one-1.dist-info"
    assert [str(broken).partition(":")[0] for broken in plugins.broken] == [
        "three-3.dist-info 0 (entry point 'no = nobody')",
        "two-2.dist-info 0 (entry point 'no = a_package_nobody_has')",
    ]


def test_damaged_entry_points_hide_no_other_plugin(installed: Install) -> None:
    site = installed("every-hook")
    put(site / "one-1.dist-info", entry_points=b"\xff\xfe")
    plugins = load_plugins()
    assert plugins.require("head", "zero").distribution == EVERY_HOOK
    (broken,) = plugins.broken
    assert str(broken).startswith(
        "one-1.dist-info 0 (entry point 'entry_points.txt'): UnicodeDecodeError: "
    )


UNPRINTABLE = """
class Unprintable({base}):
    def __str__(self):
        raise RuntimeError
    __repr__ = __str__

raise Unprintable
"""


@pytest.mark.parametrize("base", ["Exception", "BaseException", "SystemExit"])
def test_a_plugin_whose_exception_cannot_be_printed(installed: Install, base: str) -> None:
    site = installed("every-hook")
    put(site / "one-1.dist-info", entry_points=b"[renaissance]\none = one_unprintable\n")
    (site / "one_unprintable.py").write_text(UNPRINTABLE.format(base=base))
    plugins = load_plugins()
    assert plugins.require("head", "zero").distribution == EVERY_HOOK
    (broken,) = plugins.broken
    assert broken.cause == (
        "Unprintable: (its message cannot be printed: __str__ raises RuntimeError)"
    )
    assert describe(UnprintableError()) == (
        "UnprintableError: (its message cannot be printed: __str__ raises RuntimeError)\n"
        "(the same command with --debug shows where)"
    )


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_a_clash_names_both_distributions(installed: Install) -> None:
    installed("same-name")
    installed("every-hook")
    plugins = load_plugins()
    with pytest.raises(PluginError) as caught:
        plugins.require("pooler", "max-text")
    # In sorted order, whichever was installed first.
    text = (
        "pooler 'max-text' is registered twice: by renaissance-every-hook 1.2 and by "
        "renaissance-same-name 0.1; uninstall one or rename its component"
    )
    assert str(caught.value) == text
    assert plugins.registry.clashes() == [text]
    # What else they register stays: a run that does not use the name goes on.
    assert plugins.require("head", "zero").distribution == EVERY_HOOK


def test_a_third_of_the_same_name_is_named_too(plugins_with: Any, every_hook: Plugins) -> None:
    zero = every_hook.require("head", "zero").component
    registry = plugins_with(*[("head", "zero", zero)] * 3).registry
    assert registry.find("head", "zero") is None
    by = " and by ".join(["test-distribution 1.0"] * 3)
    assert registry.unknown("head", "zero").startswith(f"head 'zero' is registered twice: by {by};")


def test_a_misspelt_hook_names_plugin_and_nearest_hook(installed: Install) -> None:
    installed("misspelt-hook")
    (broken,) = load_plugins().broken
    assert str(broken) == (
        "renaissance-misspelt-hook 0.1 (entry point 'misspelt-hook = renaissance_misspelt_hook'): "
        f"unknown hook 'register_encodres'; known: {', '.join(hook_names())}; "
        "did you mean 'register_encoders'?"
    )


def test_a_hook_without_its_decorator() -> None:
    class Plugin:
        def register_heads(self, register: Any) -> None: ...

    with pytest.raises(PluginError) as caught:
        check_hooks(Plugin())
    assert str(caught.value) == ("'register_heads' lacks its decorator; write @hookimpl above it")


def test_a_registration_without_a_name() -> None:
    class Plugin:
        @hookimpl
        def register_heads(self, register: Any) -> None:
            register(object)

    with pytest.raises(TypeError, match=r"^register\(\) missing 1 required .* 'component'$"):
        collect_components(Plugin())


def test_a_hook_that_asks_for_too_much() -> None:
    class Plugin:
        @hookimpl
        def evaluated(self, evaluation: Any, step: int) -> None: ...

    with pytest.raises(PluginError) as caught:
        check_hooks(Plugin())
    assert str(caught.value) == (
        "hook 'evaluated' asks for an argument 'step'; it is given: run, evaluation"
    )


def test_installed_with_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip builds inside the source folder, so it gets a copy.
    source = tmp_path / "source"
    source.mkdir()
    for file in (DISTRIBUTIONS / "every-hook").iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    target = tmp_path / "target"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    monkeypatch.syspath_prepend(target)
    monkeypatch.delitem(sys.modules, "renaissance_every_hook", raising=False)
    try:
        registration = load_plugins().require("pooler", "max-text")
        assert (registration.distribution, registration.version) == (EVERY_HOOK, "1.2")
        assert inspect.getfile(registration.component).startswith(str(target))
    finally:
        del sys.modules["renaissance_every_hook"]


# --- commands -------------------------------------------------------------------------------------


def test_list(installed: Install) -> None:
    installed("every-hook")
    installed("failing-import")
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    lines = [line.split("\t") for line in result.output.splitlines()]
    assert lines[0] == ["kind", "name", "distribution", "version"]
    assert ["pooler", "max-text", EVERY_HOOK, "1.2"] in lines
    assert [
        "renaissance-failing-import",
        "0.3",
        "failing-import = renaissance_failing_import",
        "ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
    ] in lines


def test_show(installed: Install) -> None:
    installed("every-hook")
    result = CliRunner().invoke(app, ["show", "encoder", "text-lengths"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "encoder 'text-lengths', from renaissance-every-hook 1.2: Encodes every token as zeros.",
        "option\ttype\tdefault\thelp",
        "hidden_size\tinteger\t4\tWidth of the states.",
    ]
    result = CliRunner().invoke(app, ["show", "head", "zero"])
    assert result.output.splitlines()[1:] == ["No options."]


def test_show_on_a_terminal_draws_a_table(installed: Install) -> None:
    installed("every-hook")
    result = CliRunner().invoke(
        app, ["show", "encoder", "text-lengths"], env={"FORCE_COLOR": "1", "COLUMNS": "80"}
    )
    assert "hidden_size" in result.output
    assert "\t" not in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("encodr", "x"), "unknown kind 'encodr'; known: encoder, pooler, fusion, objective, "),
        (("head", "zeros"), "did you mean 'zero'?"),
    ],
)
def test_show_unknown_exits_with_2(
    installed: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    text: str,
) -> None:
    from renaissance.cli import main

    installed("every-hook")
    monkeypatch.setattr(sys, "argv", ["renaissance", "plugins", "show", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


def test_loading_plugins_imports_no_library_that_only_runs_need() -> None:
    lines = (
        "import sys",
        "from renaissance.plugins.loading import load_plugins",
        "assert not load_plugins().broken",
        "print(sorted({'transformers', 'torchmetrics', 'tensorboard'} & set(sys.modules)))",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout == "[]\n"
