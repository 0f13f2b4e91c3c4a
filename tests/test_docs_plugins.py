"""Every code block of docs/plugins runs, and the tutorial's commands do what they say."""

import re
from pathlib import Path

import pytest
import tomli
from fresh_environment import ROOT, FreshEnvironment, copy_source
from installing import install_source
from running import TINY, metrics, run_here, write_spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from renaissance.commands.check import check_run
from renaissance.contracts import KINDS
from renaissance.engine.train import train
from renaissance.plugins import API_VERSION, load_plugins
from renaissance.spec.read import load_spec

FOLDER = Path(__file__).parents[1] / "docs" / "plugins"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
HEADINGS = ["Contract and shapes", "Lifecycle", "A minimal example", "Common mistakes"]


def blocks(page: str, language: str) -> list[str]:
    text = (FOLDER / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def test_every_code_block_is_tested_below() -> None:
    languages = {
        page: re.findall(r"^```(\w*)\n.*?^```", (FOLDER / f"{page}.md").read_text(), re.S | re.M)
        for page in PAGES
    }
    assert languages.pop("index") == [
        *("console", "diff", "diff", "console"),
        *("python", "toml", "toml", "toml"),
    ]
    assert languages.pop("hooks") == ["python"]
    assert languages.pop("versioning") == ["python"]
    assert languages == {kind: ["python", "toml"] for kind in sorted(KINDS)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_every_part(kind: str) -> None:
    found = re.findall(r"^## (.*)$", (FOLDER / f"{kind}.md").read_text(), re.M)
    assert found == HEADINGS


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+\.md)\)", (FOLDER / f"{page}.md").read_text()):
        assert (FOLDER / target).exists(), target


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_kind_keeps_its_contract_and_runs(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,), (spec,) = blocks(kind, "python"), blocks(kind, "toml")
    # It checks itself against its contract as it is loaded.
    assert f"\ncheck_{kind}(" in code
    (tmp_path / "example.py").write_text(code)
    base = write_spec(tmp_path, TINY)
    over = tmp_path / "over.toml"
    over.write_text(spec)
    plugins = load_plugins()
    arguments = [str(base), str(over), f'run.plugins=["{tmp_path}/example.py"]']
    loaded = load_spec(arguments, plugins)
    own = [r.name for r in plugins.registry if r.distribution == str(tmp_path / "example.py")]
    assert own[0] in spec
    check_run(loaded, plugins, 1)
    assert "ok: this run can start" in capsys.readouterr().out


def test_the_hook_example_runs(tmp_path: Path) -> None:
    (code,) = blocks("hooks", "python")
    (tmp_path / "best.py").write_text(code)
    plugins = load_plugins()
    namespace: dict[str, object] = {}
    exec(code, namespace)
    plugins.add(namespace["plugin"], "best", "docs", "1")
    spec = load_spec([str(write_spec(tmp_path)), f"run.output_dir={tmp_path}"], plugins)
    assert train(spec, plugins) == 0
    losses = {
        line["step"]: line["loss"]
        for line in metrics(tmp_path / "tiny")
        if line["split"] == "validate"  # type: ignore[comparison-overlap]
    }
    best = min(losses, key=losses.__getitem__)
    assert (tmp_path / "tiny" / "best.txt").read_text() == f"{losses[best]} at step {best}\n"


def test_the_declared_version_is_the_present_one() -> None:
    (code,) = blocks("versioning", "python")
    assert code == f"renaissance_api = {API_VERSION}\n"


def test_the_tutorial_task_trains(tmp_path: Path, installed: object) -> None:
    site = installed("every-hook")  # type: ignore[operator]
    (code,) = blocks("index", "python")
    project, spec, by_path = blocks("index", "toml")
    assert code.count("\n") < 150
    source = tmp_path / "counting"
    source.mkdir()
    (source / "renaissance_counting.py").write_text(code)
    (source / "pyproject.toml").write_text(project)
    assert tomli.loads(by_path)["run"]["plugins"] == ["./renaissance_counting.py"]
    settings = ["train.max_steps=4", "evaluate.every_steps=4"]
    # By path first: once it is installed as well, its names are taken.
    base = write_spec(source, TINY)
    (source / "counting.toml").write_text(by_path + spec)
    assert run_here(base, tmp_path / "path", str(source / "counting.toml"), *settings) == 0
    install_source(source, site)
    (source / "counting.toml").write_text(spec)
    assert run_here(base, tmp_path / "pip", str(source / "counting.toml"), *settings) == 0
    for way in ("path", "pip"):
        last = metrics(tmp_path / way / "tiny")[-1]
        assert last["step"] == 4
        assert 0 <= last["counting/off_by"] <= 3


def apply(change: str, folder: Path) -> None:
    """Make the change of a diff in a file of a folder, as a reader would by hand."""
    head, *hunks = change.split("@@\n")
    file = folder / head.removeprefix("--- ").strip()
    text = file.read_text()
    for hunk in hunks:
        before, after = (
            "".join(line[1:] for line in hunk.splitlines(True) if line[0] in kept)
            for kept in (" -", " +")
        )
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    file.write_text(text)


def follow_the_tutorial(fresh: FreshEnvironment) -> None:
    """Do what a new user reads, and look into TensorBoard's files for what it promises."""
    copy_source(fresh.folder / "renaissance")
    start, end = blocks("index", "console")
    printed = {command: fresh.run(command) for command in start.splitlines()}
    for change in blocks("index", "diff"):
        apply(change, fresh.folder)
    printed |= {command: fresh.run(command) for command in end.splitlines()}
    assert "2 passed" in printed["pytest my-task"]
    shown = printed["renaissance plugins show objective my-task"]
    assert "focus\tnumber\t2.0\tHow much less easy pairs count." in shown
    assert "ok: this run can start" in printed["renaissance check my-task/run.toml --ranks 2"]
    run = fresh.folder / "runs" / "my-task"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for split, steps in (("train", [5, 10, 15, 20]), ("validate", [10, 20])):
        lines = [line for line in metrics(run) if line["split"] == split]  # type: ignore[comparison-overlap]
        for name in ("my-task/loss", "my-task/accuracy", "my-task/sureness"):
            scalars = events.Scalars(f"{split}/{name}")
            assert [scalar.step for scalar in scalars] == steps
            values = [scalar.value for scalar in scalars]
            assert values == pytest.approx([line[name] for line in lines], rel=1e-5)
            assert all(0 < value < 2 for value in values)


def test_a_new_user_from_nothing_to_tensorboard(tmp_path: Path) -> None:
    follow_the_tutorial(FreshEnvironment(tmp_path, with_project=False))


@pytest.mark.slow
def test_a_new_user_with_nothing_borrowed(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path, with_project=False, is_bare=True)
    # What the tutorial takes for granted: pytest, and a torch that fits the machine.
    fresh.run(f"pip install --constraint {ROOT / 'constraints.txt'} pytest torch")
    follow_the_tutorial(fresh)
