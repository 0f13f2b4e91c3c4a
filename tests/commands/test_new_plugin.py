"""`renaissance plugins new`: what it writes installs, passes its tests, checks and trains."""

import sys
from pathlib import Path

import pytest
from support.fresh_environment import FreshEnvironment
from typer.testing import CliRunner

from renaissance.commands.check import check_run
from renaissance.commands.new_plugin import render_package, write_package
from renaissance.commands.plugins import app
from renaissance.errors import PluginError
from renaissance.plugins.kinds import KINDS
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

ALL = [part for kind in KINDS for part in ("--kind", kind)]


@pytest.mark.slow
def test_a_package_of_all_kinds_works_as_generated(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    fresh.run(f"renaissance plugins new renaissance-all-kinds {' '.join(ALL)}")
    fresh.run("pip install -e renaissance-all-kinds")
    assert "6 passed" in fresh.run("pytest renaissance-all-kinds")
    listed = fresh.run("renaissance plugins")
    for kind in KINDS:
        assert f"{kind}\tall-kinds\trenaissance-all-kinds\t0.1.0" in listed
    assert "nothing is wrong" in fresh.run("renaissance plugins doctor")
    assert "ok: this run can start" in fresh.run("renaissance check renaissance-all-kinds/run.toml")
    fresh.run("torchrun --nproc-per-node 1 -m renaissance renaissance-all-kinds/run.toml")
    assert '"all-kinds/accuracy"' in (tmp_path / "runs" / "all-kinds" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_spec_of_one_kind_can_start(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_package(tmp_path, "one-kind", [kind])
    package = tmp_path / "one-kind"
    assert sorted(str(p.relative_to(package)) for p in package.rglob("*.py")) == [
        "one_kind/__init__.py",
        f"one_kind/{kind}.py",
        f"tests/test_one_kind_{kind}.py",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(package)
    for module in [name for name in sys.modules if name.split(".")[0] == "one_kind"]:
        monkeypatch.delitem(sys.modules, module)
    # By path, instead of an installation: the run spec is what is tried here.
    plugins = load_plugins()
    spec = load_spec(
        [str(package / "run.toml"), 'run.plugins=["one-kind/one_kind/__init__.py"]'], plugins
    )
    check_run(spec, plugins, 1)
    assert "ok: this run can start" in capsys.readouterr().out
    assert plugins.require(kind, "one-kind").version.startswith("sha256:")  # type: ignore[arg-type]
    # The run's name, and where the component is used: a dataset in both splits.
    uses = (package / "run.toml").read_text().count('"one-kind"')
    assert uses == (3 if kind == "dataset" else 2)


def test_a_hook_a_kind() -> None:
    init = render_package("some", ["encoder", "head"])["some/__init__.py"]
    assert "def register_encoders(register):" in init
    assert "def register_heads(register):" in init
    assert "def register_poolers" not in init
    assert "renaissance_api = 1" in init


@pytest.mark.parametrize(
    ("name", "kinds", "text"),
    [
        ("My_Plugin", ["head"], "plugins new: got 'My_Plugin', expected kebab-case, such as "),
        ("-x", ["head"], "plugins new: got '-x', expected kebab-case"),
        ("some", ["haed"], "unknown kind 'haed'; known: encoder, pooler, fusion, objective, "),
        ("some", [], "plugins new: no kind; add --kind, one of encoder, pooler, "),
        ("taken", ["head"], "exists; choose another name, or remove it"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, kinds: list[str], text: str) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(PluginError) as caught:
        write_package(tmp_path, name, kinds)
    assert text in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_the_command_says_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new", "some", "--kind", "head", "--kind", "head"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:-1] == [f"wrote some/{path}" for path in render_package("some", ["head"])]
    assert lines[-1].startswith("next: pip install -e some && pytest some && ")
