"""`renaissance plugins new`: what it writes installs, passes its tests, checks and trains."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.answering import png
from support.fresh_environment import FreshEnvironment, copy_source
from transformers import BertTokenizer
from typer.testing import CliRunner

from renaissance import LeftOut, SourceContext
from renaissance.commands.check import check_run
from renaissance.commands.new_plugin import render_package, write_package
from renaissance.commands.plugins import app
from renaissance.data.prepare.writer import PrepareOptions, write_tables
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
    assert f"{len(KINDS)} passed" in fresh.run("pytest renaissance-all-kinds")
    listed = fresh.run("renaissance plugins")
    for kind in KINDS:
        assert f"{kind}\tall-kinds\trenaissance-all-kinds\t0.1.0" in listed
    assert "nothing is wrong" in fresh.run("renaissance plugins doctor")
    assert "ok: this run can start" in fresh.run("renaissance check renaissance-all-kinds/run.toml")
    fresh.run("torchrun --nproc-per-node 1 -m renaissance renaissance-all-kinds/run.toml")
    assert '"all-kinds/accuracy"' in (tmp_path / "runs" / "all-kinds" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_mypy_follows_editable_installs_and_finds_nothing_in_the_package(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path, with_project=False)
    copy_source(tmp_path / "checkout")
    fresh.run("pip install -e checkout")
    fresh.run(f"renaissance plugins new all-kinds {' '.join(ALL)}")
    fresh.run("pip install -e all-kinds")
    (tmp_path / "mine.py").write_text(
        "import all_kinds.head\nimport renaissance\n\n"
        "head: type[renaissance.Head] = all_kinds.head.AllKindsHead\n"
        "wrong: int = renaissance.Head\n"
    )
    mypy = f"{sys.executable} -m mypy --strict --python-executable venv/bin/python"
    assert "no issues found" in fresh.run(f"{mypy} all-kinds")
    found = fresh.run(f"{mypy} mine.py", expected_exit=1)
    assert 'mine.py:5: error: Incompatible types in assignment (expression has type "type' in found
    assert "Found 1 error" in found


def test_a_monitor_and_a_source_of_a_package_work_as_generated(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    fresh.run("renaissance plugins new watcher --kind monitor --kind source")
    fresh.run("pip install ./watcher")
    (row,) = [
        line
        for line in fresh.run("renaissance data prepare --help").splitlines()
        if " watcher " in line
    ]
    assert "Images with captions." in row
    flags = fresh.run("renaissance data prepare watcher --help")
    assert "--min-words" in flags
    assert "captions.tsv" in flags

    (tmp_path / "download" / "images").mkdir(parents=True)
    names = [f"{i}.png" for i in range(8)]
    for level, name in enumerate(names):
        (tmp_path / "download" / "images" / name).write_bytes(png(level * 30))
    captions = [f"{name}\ta photo of it" for name in names]
    (tmp_path / "download" / "captions.tsv").write_text("\n".join([*captions, "0.png\tit"]))
    prepared = fresh.run(
        "renaissance data prepare watcher --source download --output data --min-words 2"
    )
    assert "captions.tsv: line 9\ttoo few words" in prepared
    (tmp_path / "tokenizer").mkdir()
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "it")
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(
        tmp_path / "tokenizer"
    )
    # The generated spec, on the file that the source wrote.
    (tmp_path / "watcher.toml").write_text(
        "[data]\ntokenizer = 'tokenizer'\nroot = 'data'\n"
        "train = [{ type = 'image-text', files = 'watcher.arrow' }]\n"
        "validate = [{ type = 'image-text', files = 'watcher.arrow' }]\n"
        "[train]\nglobal_batch_size = 4\n[evaluate]\nmicro_batch_size = 4\n"
    )
    monitors = 'monitors=[{type="jsonl"}, {type="watcher", metric="itm/loss"}]'
    over = f"watcher/run.toml watcher.toml '{monitors}'"
    assert "ok: this run can start" in fresh.run(f"renaissance check {over}")
    fresh.run(f"torchrun --nproc-per-node 1 -m renaissance {over}")
    folder = tmp_path / "runs" / "watcher"
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = {line["step"]: line["itm/loss"] for line in lines if line["split"] == "validate"}
    lowest = min(losses, key=lambda step: losses[step])
    assert len(losses) == 2
    assert json.loads((folder / "watcher.json").read_text()) == {
        "step": lowest,
        "value": losses[lowest],
    }


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
    check_run(spec, 1)
    assert "ok: this run can start" in capsys.readouterr().out
    assert plugins.require(kind, "one-kind").version.startswith("sha256:")  # type: ignore[arg-type]
    # The run's name, and where the component is used: a dataset in both splits, a source nowhere.
    uses = (package / "run.toml").read_text().count('"one-kind"')
    assert uses == {"dataset": 3, "source": 1}.get(kind, 2)


def test_the_test_of_a_source_checks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, text in render_package("some-source", ["source"]).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, Any] = {}
    exec((tmp_path / "tests" / "test_some_source_source.py").read_text(), namespace)
    download = tmp_path / "download"
    download.mkdir()
    namespace["test_contract"](download)
    component = namespace["SomeSourceSource"]
    source = component(component.Options(min_words=3), SourceContext(str(download)))
    (download / "captions.tsv").write_text("red.png\ta red square\nred.png\tred\n")
    report = write_tables(source, PrepareOptions(output=tmp_path / "out", progress=False))
    assert {file: table.texts for file, table in report.tables.items()} == {"some-source.arrow": 1}
    assert report.left_out == (
        LeftOut("some-source", f"{download}/captions.tsv: line 2", "too few words", is_row=False),
    )


def test_a_hook_a_kind() -> None:
    init = render_package("some", ["encoder", "head"])["some/__init__.py"]
    assert "def register_encoders(register: Callable[[str, type[Encoder]], None]) -> None:" in init
    assert "def register_heads(register: Callable[[str, type[Head]], None]) -> None:" in init
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
