"""Fixtures: a registry made by hand, and third-party distributions on the import path."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli

from renaissance.contracts import Component, Kind
from renaissance.plugins import BrokenPlugin, Plugins, new_manager
from renaissance.registry import Registration, Registry

DISTRIBUTIONS = Path(__file__).parent / "distributions"

MakePlugins = Callable[..., Plugins]


@pytest.fixture
def plugins_with() -> MakePlugins:
    """Return a function that makes Plugins of `(kind, name, class)` triples."""

    def make(
        *components: tuple[Kind, str, type[Component]], broken: tuple[BrokenPlugin, ...] = ()
    ) -> Plugins:
        registry = Registry()
        for kind, name, component in components:
            registry.add(Registration(kind, name, component, "test-distribution", "1.0"))
        return Plugins(new_manager(), registry, broken)

    return make


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Return a function that installs a folder of tests/distributions for one test.

    It writes what pip would: the module and its metadata in a folder on the import path.
    """
    before = set(sys.modules)
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(name: str) -> Path:
        install_source(DISTRIBUTIONS / name, site)
        return site

    yield install
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


def install_source(source: Path, site: Path) -> None:
    """Put a source folder's modules and metadata into a folder on the import path."""
    project = tomli.loads((source / "pyproject.toml").read_text())["project"]
    for module in source.glob("*.py"):
        shutil.copy(module, site)
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entries = [
        f"{name} = {value}\n" for name, value in project["entry-points"]["renaissance"].items()
    ]
    (metadata / "entry_points.txt").write_text(f"[renaissance]\n{''.join(entries)}")
    importlib.invalidate_caches()
