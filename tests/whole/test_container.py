"""The Dockerfile, without Docker: it has what it copies, and installs what the README says."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = "python -m pip install"


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, " ".join(rest.split())) for name, _, rest in (x.partition(" ") for x in lines)]


def arguments(steps: list[tuple[str, str]], name: str) -> list[str]:
    return [given for instruction, given in steps if instruction == name]


def context(steps: list[tuple[str, str]], folder: Path) -> None:
    """Copy what the instructions COPY, as Docker does, from what .dockerignore leaves."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    everything, *kept = [line for line in lines if not line.startswith(("#", "**/"))]
    assert everything == "*"
    for given in arguments(steps, "COPY"):
        *sources, target = given.split()
        for source in sources:
            assert f"!{source}" in kept
            path, name = ROOT / source, source if target == "./" else target
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, folder / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy(path, folder / name)


def test_it_installs_what_the_readme_says(steps: list[tuple[str, str]]) -> None:
    installs = [run for run in arguments(steps, "RUN") if run.startswith(PIP)]
    flags = ["--no-cache-dir", "--extra-index-url", "${TORCH_INDEX}", "--constraint"]
    parsed = [shlex.split(run.removeprefix(PIP)) for run in installs]
    assert [words[:5] for words in parsed] == [[*flags, "constraints.txt"]] * 2
    (first,), (second,) = (words[5:] for words in parsed)
    # The README: `pip install .` in the checkout; the versions in constraints.txt belong together.
    extras = re.fullmatch(r"\.\[([a-z,-]+)\]", second)
    assert extras is not None
    assert "`pip install .`" in (ROOT / "README.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[<>=]", name)[0] for name in project["dependencies"]} >= {first}
    needed = list(project["dependencies"])
    for extra in extras[1].split(","):
        needed += project["optional-dependencies"][extra]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in constraints}
    names = {re.split(r"[<>=\[]", name)[0].lower() for name in needed}
    assert names <= pinned
    oldest = project["requires-python"].removeprefix(">=")
    assert f"BASE=python:{oldest}-slim" in arguments(steps, "ARG")


def test_what_it_copies_is_the_whole_package(steps: list[tuple[str, str]], tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    context(steps, source)
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    finished = subprocess.run(
        [sys.executable, "-m", *command, "--wheel-dir", str(wheels), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("renaissance/")}
        (entry_points,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        entry_point = archive.read(entry_points).decode()
    (started,) = arguments(steps, "ENTRYPOINT")
    assert f"{json.loads(started)[0]} = renaissance.cli:main" in entry_point
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "renaissance").rglob("*.py")}
    recipes = {f"renaissance/{path.relative_to(ROOT)}" for path in ROOT.glob("recipes/*/*.toml")}
    assert packed >= modules | recipes | {"renaissance/serving/page.html"}
    assert len(recipes) > 10


def test_it_does_not_run_as_root(steps: list[tuple[str, str]]) -> None:
    (user,) = arguments(steps, "USER")
    assert int(user) > 0
    made = [run for run in arguments(steps, "RUN") if run.startswith("useradd")]
    assert f"--uid {user} " in made[0]
    # Whatever it writes, it writes where it may.
    assert f"--owner {user} {arguments(steps, 'WORKDIR')[-1]}" in made[0]
    names = [name for name, _ in steps]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
