"""Draw validation curves of runs from their metrics.jsonl.

python docs/plot_curves.py OUTPUT.png RUN_FOLDER...
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

FIGURES = ("mlm/loss", "mlm/accuracy", "itm/loss", "itm/accuracy")


def main() -> None:
    """Draw one small chart per figure, with one line per run."""
    output, *folders = sys.argv[1:]
    figure, axes = pyplot.subplots(1, len(FIGURES), figsize=(12, 2.8), layout="constrained")
    for folder in map(Path, folders):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        evaluations = [line for line in lines if line["split"] == "validate"]
        steps = [line["step"] for line in evaluations]
        for axis, name in zip(axes, FIGURES, strict=True):
            axis.plot(steps, [line[name] for line in evaluations], marker="o", label=folder.name)
            axis.set_title(f"validate/{name}", fontsize=10)
            axis.set_xlabel("step", fontsize=9)
            axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
