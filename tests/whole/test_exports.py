"""A run on real photos, exported, finds the same images in other programs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("run", "hf", "sentence_transformers", "onnx")


@pytest.mark.slow
@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ, reason="RENAISSANCE_SHARED_DATA is not set"
)
def test_recall_is_the_same_in_every_program() -> None:
    command = [sys.executable, "benchmarks/export.py", "--steps", "3", "--images", "30"]
    finished = subprocess.run(
        [*command, "--captions", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    figures = dict(re.findall(r"(\w+)=(\S+)", finished.stdout.splitlines()[-1]))
    recalls = {figures[f"{program}_recall"] for program in PROGRAMS}
    assert len(recalls) == 1, figures
