"""What the documentation site and the papers of the project say, where a build cannot tell."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomli
import yaml

import renaissance
import renaissance.arrow
import renaissance.prepare
import renaissance.testing
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

ROOT = Path(__file__).parents[2]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(
    "module",
    [renaissance, renaissance.arrow, renaissance.prepare, renaissance.testing],
    ids=lambda m: m.__name__,
)
def test_the_reference_has_every_public_name_once(module: ModuleType) -> None:
    page = ROOT / "docs" / "api" / f"{module.__name__.removeprefix('renaissance.')}.md"
    named = re.findall(rf"^::: {re.escape(module.__name__)}\.(\w+)$", page.read_text(), re.M)
    assert sorted(named) == sorted(module.__all__)


@pytest.mark.parametrize("name", ["one-tower.svg", "two-tower.svg"])
def test_a_picture_of_an_architecture_is_as_the_script_draws_it(name: str) -> None:
    path = ROOT / "docs" / "draw_architectures.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    drawn = script.PICTURES[name]()
    assert (ROOT / "docs" / "images" / name).read_text() == drawn, "stale; run: make generated"


def test_no_command_of_a_page_asks_for_more_gpus_than_a_machine_may_have() -> None:
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
    pages += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "recipes" / "README.md"]
    fixed = [
        f"{page.relative_to(ROOT)}: {line.strip()}"
        for page in pages
        for line in page.read_text().splitlines()
        # What the page of the terminal shows was recorded without GPUs.
        if re.search(r"--nproc-per-node \d|--ranks \d", line) and page.name != "terminal.md"
        # These start processes only where they are told the number, or none at all.
        if "--nnodes" not in line and " check " not in line and "starts two" not in line
    ]
    assert fixed == []


@pytest.mark.parametrize(
    ("page", "objectives"),
    [
        ("README.md", [["classification"], ["mlm", "itm"]]),
        ("docs/index.md", [["mlm", "itm"]]),
    ],
)
def test_the_run_specs_of_a_front_page_can_be_read(
    page: str, objectives: list[list[str]], tmp_path: Path
) -> None:
    texts = re.findall(r"^```toml\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    file = tmp_path / "run.toml"
    for text, expected in zip(texts, objectives, strict=True):
        file.write_text(text)
        spec = load_spec([str(file)], load_plugins())
        assert [objective.type for objective in spec.objectives] == expected


def test_the_plugin_of_the_readme_keeps_its_contract() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    renaissance.testing.check_pooler(namespace["TextMean"])


def test_the_tour_of_the_code_names_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`([\w./]+(?:\.py|/))`", text))
    assert len(named) > 40
    folders = [ROOT, ROOT / "renaissance", ROOT / "renaissance" / "builtin"]
    folders += [path for path in (ROOT / "renaissance").iterdir() if path.is_dir()]
    made = {"site/"}
    assert [
        name
        for name in sorted(named - made)
        if not any((folder / name).exists() for folder in folders)
    ] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    # What the format requires.
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_a_changelog_fragment_has_a_name_that_is_collected() -> None:
    # towncrier leaves out any other file without a word.
    types = [kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]]
    name = re.compile(rf"\+[a-z0-9-]+\.({'|'.join(types)})\.md")
    fragments = [path.name for path in (ROOT / "changelog.d").iterdir()]
    assert [f for f in fragments if f != "README.md" and not name.fullmatch(f)] == []
