"""A fresh virtual environment, for what a user does with pip.

Installing torch into each would take minutes, so it sees the libraries that the tests run with, but
not the project, which pip installs into it from a wheel.
"""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Commands that stand in this environment's bin, as Python modules.
MODULES = {"pip": "pip", "pytest": "pytest", "torchrun": "torch.distributed.run"}
TIMEOUT = 300


class FreshEnvironment:
    """A virtual environment with the project, in a folder.

    Attributes:
        folder: Where commands run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "venv" / "bin"
        run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder, {})
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        # Only what stands in a .pth file itself is read: the project's own link is left out.
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for name, module in MODULES.items():
            script = self._bin / name
            script.write_text(f'#!/bin/sh\nexec "{self._bin}/python" -m {module} "$@"\n')
            script.chmod(0o755)
        self.run(f"pip install --no-deps {wheel()}")

    def run(self, command: str, expected_exit: int = 0) -> str:
        """Run a command line in the environment, and return what it printed."""
        environment = {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # Read as the option's value: no isolation.
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "300",
        }
        return run(["bash", "-c", command], self.folder, environment, expected_exit)


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
    """Build the project once; pip leaves files in the source folder, so it gets a copy."""
    folder = Path(tempfile.mkdtemp(prefix="renaissance-wheel-"))
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "renaissance", source / "renaissance", ignore=ignore)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder)]
    run([*command, str(source)], folder, {})
    shutil.rmtree(source)
    (built,) = folder.glob("*.whl")
    return built


def copy_package(name: str, folder: Path) -> None:
    """Copy a folder of `plugins/` for pip to install from."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "plugins" / name, folder / name, ignore=ignore)
