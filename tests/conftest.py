"""Fixtures: a registry made by hand, and third-party distributions on the import path."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.installing import DISTRIBUTIONS, install_source

from renaissance.contracts.component import Component
from renaissance.plugins.kinds import Kind
from renaissance.plugins.loading import Plugins, new_manager
from renaissance.plugins.registry import Registration, Registry

MakePlugins = Callable[..., Plugins]


@pytest.fixture
def plugins_with() -> MakePlugins:
    """Return a function that makes Plugins of `(kind, name, class)` triples."""

    def make(*components: tuple[Kind, str, type[Component]]) -> Plugins:
        registry = Registry()
        for kind, name, component in components:
            registry.add(Registration(kind, name, component, "test-distribution", "1.0"))
        return Plugins(new_manager(), registry)

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
