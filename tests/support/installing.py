"""Install the source of a distribution as pip would, without the seconds that pip takes."""

import importlib
import shutil
from pathlib import Path

import tomli

DISTRIBUTIONS = Path(__file__).parent / "distributions"


def install_source(source: Path, site: Path) -> None:
    """Put a source folder's modules and metadata into a folder on the import path."""
    content = tomli.loads((source / "pyproject.toml").read_text())
    for module in source.glob("*.py"):
        shutil.copy(module, site)
    for package in content.get("tool", {}).get("setuptools", {}).get("packages", ()):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / package, site / package, ignore=ignore)
    install_metadata(source, site)


def install_metadata(source: Path, site: Path) -> None:
    """Put a source folder's metadata there, for modules that can be imported already."""
    project = tomli.loads((source / "pyproject.toml").read_text())["project"]
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entries = [
        f"{name} = {value}\n" for name, value in project["entry-points"]["renaissance"].items()
    ]
    (metadata / "entry_points.txt").write_text(f"[renaissance]\n{''.join(entries)}")
    importlib.invalidate_caches()
