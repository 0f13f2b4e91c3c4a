"""Every code block of docs/plugins runs, and the tutorial's commands do what they say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomli
import torch
from PIL import Image
from support.command_line import renaissance
from support.fresh_environment import ROOT, FreshEnvironment, copy_source
from support.installing import install_source
from support.running import TINY, metrics, run_here, write_spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from renaissance import EncoderContext
from renaissance.commands.check import check_run
from renaissance.commands.evaluate import EvaluationRequest, evaluate_run
from renaissance.commands.submission import check_submission
from renaissance.engine.train import train
from renaissance.plugins.kinds import KINDS
from renaissance.plugins.loading import API_VERSION, load_plugins
from renaissance.spec.read import load_spec

FOLDER = Path(__file__).parents[2] / "docs" / "plugins"
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
    assert languages.pop("objective") == ["python", "python", "toml", "python"]
    assert languages.pop("source") == ["python", "console"]
    others = sorted(set(KINDS) - {"objective", "source"})
    assert languages == {kind: ["python", "toml"] for kind in others}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_every_part(kind: str) -> None:
    headings = re.findall(r"^## (.*)$", (FOLDER / f"{kind}.md").read_text(), re.M)
    assert [heading for heading in headings if heading in HEADINGS] == HEADINGS


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+\.md)\)", (FOLDER / f"{page}.md").read_text()):
        assert (FOLDER / target).exists(), target


# A source is no part of a run.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "source"])
def test_the_example_of_a_kind_keeps_its_contract_and_runs(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The page of objectives begins with a classification, whose labels the tiny spec lacks.
    code = blocks(kind, "python")[kind == "objective"]
    (spec,) = blocks(kind, "toml")
    # It checks itself against its contract as it is loaded.
    assert f"\ncheck_{kind}(" in code
    (tmp_path / "example.py").write_text(code)
    base = write_spec(tmp_path, TINY)
    over = tmp_path / "over.toml"
    over.write_text(spec)
    plugins = load_plugins()
    arguments = [str(base), str(over), f'run.plugins=["{tmp_path}/example.py"]']
    loaded = load_spec(arguments, plugins)
    names = [r.name for r in plugins.registry if r.distribution == str(tmp_path / "example.py")]
    assert names[0] in spec
    check_run(loaded, 1)
    assert "ok: this run can start" in capsys.readouterr().out


def test_the_source_example_keeps_its_contract_and_prepares(
    tmp_path: Path, installed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,), (commands,) = blocks("source", "python"), blocks("source", "console")
    # It checks itself against its contract as it is loaded.
    assert "\n    check_source(" in code
    source = tmp_path / "distribution"
    source.mkdir()
    (source / "renaissance_postcards.py").write_text(code)
    (source / "pyproject.toml").write_text(
        '[project]\nname = "renaissance-postcards"\nversion = "1"\n\n'
        '[project.entry-points.renaissance]\npostcards = "renaissance_postcards"\n'
    )
    install_source(source, installed("every-hook"))  # type: ignore[operator]
    (tmp_path / "download" / "scans").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "download" / "scans" / "7.png")
    cards = [{"file": "7.png", "en": ["a beach"], "fr": ["une plage", "du soleil"]}]
    (tmp_path / "download" / "postcards.json").write_text(json.dumps(cards))
    monkeypatch.chdir(tmp_path)
    prepared, inspected = (renaissance(*command.split()[1:]) for command in commands.splitlines())
    assert (prepared.code, inspected.code) == (0, 0), prepared.err + inspected.err
    assert "postcards.arrow\t1\t2\t1\t" in prepared.out
    assert "['une plage', 'du soleil']" in inspected.out
    assert "ok: 1 files, every image decoded" in inspected.out


def load(code: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    return namespace


def test_the_encoder_example_fits_another_image_size() -> None:
    patches = load(blocks("encoder", "python")[0])["Patches"]
    small, large = (patches(patches.Options(), EncoderContext(size, 8, 8)) for size in (32, 64))
    # The same everywhere: interpolation must leave it alone.
    table = torch.arange(16.0).expand(4, 16)
    fitted = large.fit_tensor("positions", table)
    assert fitted.shape == large.positions.shape == (16, 16)
    assert torch.allclose(fitted, torch.arange(16.0).expand(16, 16), atol=1e-5)
    assert small.fit_tensor("positions", table).equal(table)
    assert small.fit_tensor("patches.weight", table) is None


# A dataset for the example of predictions: its split `test` has no labels.
SHADES = """
import attrs
from PIL import Image
from renaissance import Dataset, Sample, hookimpl, option


class Shades(Dataset):
    \"\"\"Grey pictures.\"\"\"

    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "light", "or", "dark")

    @attrs.frozen
    class Options:
        split: str | None = option(None, help="Split; test has no labels.")

    def __init__(self, options, context):
        self.labelled = options.split != "test"
        labels = {"light"} if self.labelled else set()
        self.provides = frozenset({"text", "image", "number"} | labels)

    def __len__(self):
        return 20

    def sample(self, index, generator):
        picture = Image.new("L", (32, 32), 12 * index)
        labels = {"number": index} | ({"light": index >= 10} if self.labelled else {})
        return Sample("light or dark", None, (picture,), (index,), labels, f"shades: {index}")


@hookimpl
def register_datasets(register):
    register("shades", Shades)
"""


def test_the_prediction_example_predicts_a_split_without_labels(tmp_path: Path) -> None:
    (tmp_path / "shades.py").write_text(SHADES)
    # The page's first example, and what it adds to it later.
    first, _, more = blocks("objective", "python")
    (tmp_path / "shade.py").write_text(first + more)
    start, end = TINY.index("[[data.train]]"), TINY.index("[optimizer]")
    tables = "".join(
        f'[[{table}]]\ntype = "{name}"\n\n'
        for table, name in (
            ("data.train", "shades"),
            ("data.validate", "shades"),
            ("objectives", "shade"),
        )
    )
    files = f'plugins = ["{tmp_path}/shades.py", "{tmp_path}/shade.py"]\n'
    text = (TINY[:start] + tables + TINY[end:]).replace("[run]\n", f"[run]\n{files}")
    settings = ("train.max_steps=2", "evaluate.every_steps=2")
    assert run_here(write_spec(tmp_path, text), tmp_path, *settings) == 0
    run = tmp_path / "tiny"
    last = metrics(run)[-1]
    file = tmp_path / "answers.txt"
    plugins = load_plugins()
    evaluate_run(EvaluationRequest([str(run)], "test", "last", file, trust_plugins=True), plugins)
    rows = [line.split(",") for line in file.read_text().splitlines()]
    assert [int(index) for index, _ in rows] == list(range(20))
    assert {answer for _, answer in rows} <= {"light", "dark"}
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(map(str, range(20))))
    report = check_submission(file, "shade", questions, plugins)
    assert set(report.counts.values()) == {0}
    # The images are those of the validation split, the labels are not there.
    actual = json.loads((run / "results.json").read_text())["test"]["metrics"]
    assert "shade/loss" in last
    assert "shade/loss" not in actual
    assert last["shade/spread"] > 0
    assert actual["shade/spread"] == pytest.approx(last["shade/spread"], rel=1e-4)


def test_the_hook_example_runs(tmp_path: Path) -> None:
    (code,) = blocks("hooks", "python")
    (tmp_path / "best.py").write_text(code)
    plugins = load_plugins()
    plugins.add(load(code)["plugin"], "best", "docs", "1")
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
    assert "ok: this run can start" in printed["renaissance check my-task/run.toml"]
    run = fresh.folder / "runs" / "my-task"
    for split, steps in (("train", [5, 10, 15, 20]), ("validate", [10, 20])):
        events = EventAccumulator(str(run / "tensorboard" / split))
        events.Reload()
        lines = [line for line in metrics(run) if line["split"] == split]  # type: ignore[comparison-overlap]
        tags = {
            "my-task/loss": "loss/my-task",
            "my-task/accuracy": "metrics/my-task/accuracy",
            "my-task/sureness": "metrics/my-task/sureness",
        }
        for name, tag in tags.items():
            scalars = events.Scalars(tag)
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
