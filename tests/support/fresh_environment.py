"""A fresh virtual environment, for what a user does with pip.

Installing torch into each would take minutes. So it borrows the libraries that the project declares
and what they need, no others, from the environment of the tests: what the project imports without
declaring it is missing here. The project itself is installed by pip.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# What a user has besides: to install, to build, to test.
TOOLS = ("pip", "setuptools", "pytest")
# Commands that stand in this environment's bin, as Python modules.
MODULES = {"pip": "pip", "pytest": "pytest", "torchrun": "torch.distributed.run"}
TIMEOUT = 300


class FreshEnvironment:
    """A virtual environment in a folder.

    Args:
        folder: Where the environment goes, and where commands run.
        with_project: Whether the project is installed already.
        is_bare: Nothing is borrowed: pip fetches everything.

    Attributes:
        folder: As given.
    """

    def __init__(self, folder: Path, with_project: bool = True, is_bare: bool = False) -> None:
        self.folder = folder
        self._bin = folder / "venv" / "bin"
        self._is_bare = is_bare
        pip = [] if is_bare else ["--without-pip"]
        run([sys.executable, "-m", "venv", *pip, str(folder / "venv")], folder, {})
        if not is_bare:
            self._borrow_libraries()
        if with_project:
            self.run(f"pip install {wheel()}")

    def _borrow_libraries(self) -> None:
        # Beside site-packages: pip takes nothing away from there.
        libraries = self.folder / "venv" / "libraries"
        libraries.mkdir()
        for library in borrowed():
            tops = {file.parts[0] for file in library.files or () if file.parts[0] != ".."}
            for top in tops - {"__pycache__"}:
                target = Path(str(library.locate_file(top)))
                # Distributions may share a folder, such as google.
                if target.exists() and not (libraries / top).exists():
                    (libraries / top).symlink_to(target)
        (site,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
        (site / "libraries.pth").write_text(f"{libraries}\n")
        for name, module in MODULES.items():
            script = self._bin / name
            script.write_text(f'#!/bin/sh\nexec "{self._bin}/python" -m {module} "$@"\n')
            script.chmod(0o755)

    def run(self, command: str, expected_exit: int = 0) -> str:
        """Run a command line in the environment, and return what it printed."""
        environment = {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "300",
        }
        if not self._is_bare:
            environment["PIP_NO_INDEX"] = "1"
            environment["PIP_NO_BUILD_ISOLATION"] = "0"  # Read as the option's value: no isolation.
        return run(["bash", "-c", command], self.folder, environment, expected_exit)


def borrowed() -> list[Distribution]:
    """Return the tools, what the project requires, and what these require in turn."""
    waiting = [(Requirement(tool), frozenset({""})) for tool in (*TOOLS, "renaissance")]
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    while waiting:
        requirement, extras = waiting.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            continue
        key = (requirement.name, frozenset({"", *requirement.extras}))
        if key not in found:
            found[key] = distribution(requirement.name)
            waiting += [(Requirement(line), key[1]) for line in found[key].requires or ()]
    return [library for (name, _), library in found.items() if name != "renaissance"]


def run(command: list[str], folder: Path, extra: dict[str, str], expected_exit: int = 0) -> str:
    """Run a command; with another exit code than expected, show what it printed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    finished = subprocess.run(
        command,
        cwd=folder,
        env=environment | extra,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert finished.returncode == expected_exit, f"{command}:\n{finished.stdout}"
    return finished.stdout


@functools.cache
def wheel() -> Path:
    """Build the project once."""
    folder = Path(tempfile.mkdtemp(prefix="renaissance-wheel-"))
    copy_source(folder / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder)]
    run([*command, str(folder / "source")], folder, {})
    (built,) = folder.glob("*.whl")
    return built


def copy_source(folder: Path) -> None:
    """Copy the project for pip to install from: it leaves files there."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "renaissance", folder / "renaissance", ignore=ignore)


def copy_package(name: str, folder: Path) -> None:
    """Copy a folder of `plugins/` for pip to install from."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "plugins" / name, folder / name, ignore=ignore)
