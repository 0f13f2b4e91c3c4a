"""Run folders of a study with made-up figures, as training and evaluation leave them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from renaissance.study import Study

STUDY = """
[study]
name = "made-up"
output_dir = "{folder}"
seeds = [0, 1, 2]

[study.axes]
text = {{ small = [], large = "large.toml" }}

[study.report]
metrics = ["itm/accuracy"]
"""


def write_study(folder: Path, text: str = STUDY) -> Study:
    """Write a study file whose runs are in the same folder."""
    path = folder / "study.toml"
    path.write_text(text.format(folder=folder))
    return Study.read(path)


def write_run(
    folder: Path,
    figures: Mapping[str, float],
    scores: Mapping[str, Sequence[float]] | None = None,
    data: str = "same",
    split: str = "validate",
) -> None:
    """Write the folder of a run that is finished."""
    checkpoint = folder / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    manifest = {"model.safetensors": {"size": 1, "sha256": "0123"}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    (checkpoint / "state.json").write_text(json.dumps({"versions": {"renaissance": "9"}}))
    (folder / "spec.toml").write_text("[train]\nmax_steps = 2\n")
    (folder / "results.json").write_text(json.dumps({split: {"metrics": figures}}))
    lines = [{"step": step, "split": "validate", **figures} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if scores:
        tensors = {name: np.array(values, np.float32) for name, values in scores.items()}
        save_file(tensors, folder / f"scores-{split}.safetensors", {"data": data})


def write_scored(folder: Path, scores: Sequence[float], data: str = "same") -> None:
    """Write a finished run whose accuracy is the mean of its scores."""
    figures = {"itm/accuracy": float(np.mean(scores)), "itm/loss": 0.5}
    write_run(folder, figures, {"itm/accuracy": scores}, data)
