"""Loss curves of the demo's model in fp32, in bf16 with fp32 residual, and in bf16, over seeds.

    python benchmarks/curves.py [--folder runs/curves] [--picture docs/images/precision-curves.png]

Nine runs, one after the other; those that have ended before are not repeated. Printed are, for each
precision, the loss of the last tenth of the steps: its mean over the seeds and its standard
deviation between them. Then, for bf16, the largest difference of its smoothed mean curve from that
of fp32, in units of what two means of as many runs of fp32 differ by when only the seeds do (the
standard error of such a difference). The picture needs the extra `plots`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PRECISIONS = {
    "fp32": ["train.precision=fp32"],
    "bf16, fp32 residual": ["train.precision=bf16", "train.residual=fp32"],
    "bf16": ["train.precision=bf16", "train.residual=bf16"],
}
LOG_EVERY = 10
# Points of the log in a moving average: 50 steps.
SMOOTHED = 5
COLOURS = ("#000000", "#0072B2", "#D55E00")

Array = NDArray[np.float64]


def train(folder: Path, precision: str, seed: int, num_steps: int) -> Array:
    """Train one run, and return its loss at each log line, (points,)."""
    name = f"{precision.replace(', ', '-').replace(' ', '-')}-{seed}"
    settings = [f"run.name={name}", f"run.output_dir={folder}", f"run.seed={seed}"]
    settings += [f"train.max_steps={num_steps}", f"train.log_every={LOG_EVERY}"]
    settings += [f"evaluate.every_steps={num_steps}", f"checkpoint.every_steps={num_steps}"]
    command = [sys.executable, "-m", "renaissance", "train", "recipe:shapes"]
    finished = subprocess.run(
        [*command, *settings, *PRECISIONS[precision]], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        sys.exit(f"{name}: {finished.stderr[-2000:]}")
    print(f"{name}: done", flush=True)
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return np.array([row["loss"] for row in rows if row["split"] == "train"])


def smooth(curves: Array) -> Array:
    """Return moving averages over `SMOOTHED` points, (runs, points) in and (runs, fewer) out."""
    kernel = np.full(SMOOTHED, 1 / SMOOTHED)
    return np.array([np.convolve(curve, kernel, mode="valid") for curve in curves])


def compare(curves: dict[str, Array]) -> dict[str, float]:
    """Return the printed figures of the curves of each precision, (seeds, points) each."""
    figures = {}
    for name, runs in curves.items():
        last = runs[:, -max(1, runs.shape[1] // 10) :].mean(1)
        figures[f"{name}: final loss"] = float(last.mean())
        figures[f"{name}: spread between seeds"] = float(last.std(ddof=1))
    reference = smooth(curves["fp32"])
    num_seeds = len(reference)
    # Of three seeds, the deviation at one point is a poor estimate; over all points it is not.
    noise = np.sqrt(reference.var(0, ddof=1).mean() * 2 / num_seeds)
    for name in list(curves)[1:]:
        difference = np.abs(smooth(curves[name]).mean(0) - reference.mean(0))
        figures[f"{name}: largest difference"] = float(difference.max())
        figures[f"{name}: largest difference / noise"] = float(difference.max() / noise)
    return figures


def draw(curves: dict[str, Array], path: Path) -> None:
    """Draw the smoothed curves: the mean over seeds, with a band from the lowest to the highest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    whole, apart = figure.subplots(1, 2)
    reference = smooth(curves["fp32"]).mean(0)
    for colour, (name, runs) in zip(COLOURS, curves.items(), strict=True):
        smoothed = smooth(runs)
        steps = LOG_EVERY * (np.arange(smoothed.shape[1]) + SMOOTHED)
        for axis, values in ((whole, smoothed), (apart, smoothed - reference)):
            axis.plot(steps, values.mean(0), color=colour, label=name, linewidth=1.2)
            axis.fill_between(
                steps, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0
            )
    whole.set_ylabel("training loss, mean of 50 steps")
    apart.set_ylabel("difference from the mean of fp32")
    for axis in (whole, apart):
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    whole.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/curves"))
    parser.add_argument("--picture", type=Path, help="file to draw, such as curves.png")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    runs: dict[str, list[Array]] = {name: [] for name in PRECISIONS}
    for seed in range(arguments.seeds):
        for name, curves in runs.items():
            curves.append(train(arguments.folder, name, seed, arguments.steps))
    figures = compare({name: np.stack(curves) for name, curves in runs.items()})
    if arguments.picture is not None:
        draw({name: np.stack(curves) for name, curves in runs.items()}, arguments.picture)
    words = str.maketrans({" ": "_", ",": None, ":": None})
    print(" ".join(f"{key.translate(words)}={value:.4g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
