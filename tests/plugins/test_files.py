"""Plugins named by path in `[run] plugins`."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import tomli
from support.command_line import renaissance
from support.running import TINY, run_here, write_spec

from renaissance import PluginError, SpecError
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

COMPONENT = '''
from __future__ import annotations

import attrs
from renaissance import Head, hookimpl, option
from torch import nn


class Scaled(Head):
    """A linear layer, scaled."""

    @attrs.frozen
    class Options:
        """Options of `scaled`."""

        scale: float = option(2.0, help="Factor of the logits.")

    def __init__(self, options, input_size, output_size):
        super().__init__()
        self.scale, self.linear = options.scale, nn.Linear(input_size, output_size)

    def forward(self, hidden_states):
        return self.scale * self.linear(hidden_states)


@hookimpl
def register_heads(register):
    register("scaled", Scaled)
'''
SPEC = TINY.replace('name = "tiny"', 'name = "tiny"\nplugins = ["./my_component.py"]') + (
    '\n[[objectives]]\ntype = "itm"\nname = "scaled"\nhead = { type = "scaled", scale = 3.0 }\n'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_spec(tmp_path / "experiment", SPEC)
    (tmp_path / "experiment" / "my_component.py").write_text(COMPONENT)
    return tmp_path / "experiment"


def test_a_run_records_the_file_with_its_sha256(folder: Path, tmp_path: Path) -> None:
    settings = ["train.max_steps=2", "evaluate.every_steps=2"]
    assert run_here(folder / "run.toml", tmp_path, *settings) == 0
    run = tmp_path / "tiny"
    file = folder / "my_component.py"
    first = {
        "path": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "from_step": 0,
    }
    assert json.loads((run / "plugins.json").read_text()) == [first]
    # The resolved spec names the file from anywhere.
    resolved = tomli.loads((run / "spec.toml").read_text())
    assert resolved["run"]["plugins"] == [str(file)]
    spec = load_spec([str(run / "spec.toml")], load_plugins(), trust_plugins=True)
    assert spec.objectives[2].head is not None
    assert spec.objectives[2].head.options.scale == 3.0
    # A run that goes on with another version of the file says so, and from where.
    file.write_text(COMPONENT + "# changed\n")
    assert run_here(folder / "run.toml", tmp_path, "train.max_steps=4") == 0
    second = {
        "path": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "from_step": 2,
    }
    assert json.loads((run / "plugins.json").read_text()) == [first, second]


def test_a_file_is_found_from_the_spec_that_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "further").mkdir()
    (folder / "further" / "over.toml").write_text('extends = ["../run.toml"]\n')
    monkeypatch.chdir("/")
    for spec in (folder / "run.toml", folder / "further" / "over.toml"):
        plugins = load_plugins()
        assert load_spec([str(spec)], plugins).run.plugins == (str(folder / "my_component.py"),)
        registration = plugins.require("head", "scaled")
        assert registration.distribution == str(folder / "my_component.py")
        assert registration.version.startswith("sha256:")


def test_on_the_command_line_it_is_relative_to_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(folder / "elsewhere", TINY)
    monkeypatch.chdir(folder)
    loaded = load_spec([str(spec), 'run.plugins=["my_component.py"]'], load_plugins())
    assert loaded.run.plugins == (str(folder / "my_component.py"),)


def test_a_file_that_is_not_named_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    spec = write_spec(folder, SPEC.replace('plugins = ["./my_component.py"]', ""))
    with pytest.raises(SpecError, match="unknown head 'scaled'"):
        load_spec([str(spec)], load_plugins())


def test_a_file_is_loaded_once(folder: Path) -> None:
    plugins = load_plugins()
    first = load_spec([str(folder / "run.toml")], plugins)
    assert load_spec([str(folder / "run.toml")], plugins) == first
    assert plugins.registry.clashes() == []


def test_a_name_that_another_file_has_is_a_clash(folder: Path) -> None:
    shutil.copy(folder / "my_component.py", folder / "other.py")
    plugins = ["./my_component.py", "./other.py"]
    spec = write_spec(folder, SPEC.replace('["./my_component.py"]', str(plugins)))
    with pytest.raises(SpecError, match=r"head 'scaled' is registered twice: by .*my_component.py"):
        load_spec([str(spec)], load_plugins())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (None, "cannot be read: No such file or directory; name a Python file, relative to the "),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_"),
        ("def f(:", "SyntaxError: invalid syntax (my_component.py, line 1); fix the file, or "),
        ("renaissance_api = 7", "renaissance_api is 7, expected 1"),
        (COMPONENT.replace("(self, options, ", "(self, "), "Scaled.__init__(self, input_size, "),
    ],
)
def test_what_is_wrong_with_a_file(folder: Path, source: str | None, text: str) -> None:
    file = folder / "my_component.py"
    if source is None:
        os.remove(file)
    else:
        file.write_text(source)
    with pytest.raises(SpecError) as caught:
        load_spec([str(folder / "run.toml")], load_plugins())
    assert f"{folder / 'run.toml'}: run.plugins[0]: {file}: " in str(caught.value)
    assert text in str(caught.value)


def test_a_list_is_expected(folder: Path) -> None:
    spec = write_spec(folder, SPEC.replace('["./my_component.py"]', '"./my_component.py"'))
    with pytest.raises(SpecError, match=r"run.plugins: got .* expected list of strings"):
        load_spec([str(spec)], load_plugins())


@pytest.fixture
def record(folder: Path, tmp_path: Path) -> Path:
    """What a run left behind, with a file that leaves a trace when it is run."""
    file = folder / "my_component.py"
    trace = f"import attrs\nfrom pathlib import Path\nPath({str(tmp_path / 'trace')!r}).touch()\n"
    file.write_text(COMPONENT.replace("import attrs\n", trace, 1))
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "spec.toml").write_text(SPEC.replace("./my_component.py", str(file)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (run / "plugins.json").write_text(
        json.dumps([{"path": "/elsewhere/x.py", "sha256": digest, "from_step": 0}])
    )
    return run


@pytest.mark.parametrize("command", ["evaluate", "check", "train"])
def test_a_run_folder_runs_no_file_of_its_own(command: str, record: Path, tmp_path: Path) -> None:
    spec = record if command == "evaluate" else record / "spec.toml"
    finished = renaissance(command, str(spec))
    assert finished.code == 2
    assert f"{record / 'spec.toml'}: run.plugins[0]: the run used the Python file " in finished.err
    assert "add --trust-plugins, or name a file of yours" in finished.err
    assert not (tmp_path / "trace").exists()
    # Beyond the plugins: there is no checkpoint.
    if command == "evaluate":
        assert "no checkpoint there" in renaissance(command, str(spec), "--trust-plugins").err
    else:
        settings = ["train.max_steps=1", f"run.output_dir={tmp_path}"]
        assert renaissance(command, str(spec), "--trust-plugins", *settings).code == 0
    assert (tmp_path / "trace").exists()


def test_what_a_record_extends_or_what_extends_it_is_no_way_around(
    record: Path, tmp_path: Path
) -> None:
    text = (record / "spec.toml").read_text()
    (record / "base.toml").write_text(text)
    mine = write_spec(tmp_path / "mine", f'extends = ["{record}/spec.toml"]\n')
    # As written, and reached by way of another file of the folder.
    for content in (text, 'extends = ["base.toml"]\n'):
        (record / "spec.toml").write_text(content)
        with pytest.raises(SpecError, match=r"add --trust-plugins"):
            load_spec([str(mine)], load_plugins())
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", ["{", "3", "[{}]", '[{"path": "a", "sha256": "b"}]', "\xff"])
def test_a_run_does_not_overwrite_a_record_that_is_damaged(
    folder: Path, tmp_path: Path, content: str
) -> None:
    settings = ["train.max_steps=2", "evaluate.every_steps=2"]
    record = tmp_path / "tiny" / "plugins.json"
    record.parent.mkdir()
    record.write_text(content, "latin-1")
    with pytest.raises(PluginError) as caught:
        run_here(folder / "run.toml", tmp_path, *settings)
    assert str(caught.value) == (
        f"{record}: cannot be read: expected a list of files, each with path, sha256 and "
        "from_step, as training writes it; restore it from a copy, or delete it to begin a new one"
    )
    assert record.read_text("latin-1") == content


def test_a_file_that_the_user_names_runs_in_place_of_the_recorded_one(
    record: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "mine.py").write_text(COMPONENT)
    plugins = load_plugins()
    spec = load_spec([str(record / "spec.toml"), f'run.plugins=["{folder}/mine.py"]'], plugins)
    assert spec.run.plugins == (str(folder / "mine.py"),)
    assert not (tmp_path / "trace").exists()


def test_a_trusted_file_is_the_recorded_one(record: Path, folder: Path, tmp_path: Path) -> None:
    arguments = [str(record / "spec.toml")]
    load_spec(arguments, load_plugins(), trust_plugins=True)
    (tmp_path / "trace").unlink()
    file = folder / "my_component.py"
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(SpecError, match=r"not the file that the run used: its sha256 is not in "):
        load_spec(arguments, load_plugins(), trust_plugins=True)
    (record / "plugins.json").write_text('{"path": 1}')
    with pytest.raises(SpecError, match=r"plugins.json: cannot be read: expected a list of files"):
        load_spec(arguments, load_plugins(), trust_plugins=True)
    assert not (tmp_path / "trace").exists()
    (record / "plugins.json").unlink()
    load_spec(arguments, load_plugins(), trust_plugins=True)
