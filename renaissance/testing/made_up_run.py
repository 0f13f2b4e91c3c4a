"""A made-up run, for monitors to follow."""

from pathlib import Path
from typing import Any

import tomli_w
from PIL import Image

from renaissance.contracts.monitor import Evaluation, PanelImage, RunInfo, StepReport

TOTAL_STEPS = 8
STEPS_PER_EPOCH = 5
SPEC: dict[str, Any] = {
    "run": {"name": "made-up", "seed": 0, "plugins": []},
    "objectives": [{"type": "itm", "weight": 1.0}],
    "train": {"max_steps": TOTAL_STEPS, "compile": False},
}


def make_run_info(folder: Path, start_step: int = 0) -> RunInfo:
    """Return a run that starts from a step."""
    return RunInfo(
        spec=SPEC,
        spec_text=tomli_w.dumps(SPEC),
        folder=folder,
        rank=0,
        world_size=1,
        start_step=start_step,
        total_steps=TOTAL_STEPS,
        samples_per_epoch=40,
        batch_plan="8 samples per step: 1 rank x 8",
        unused_parameters=("model.image_encoder.pooler.weight",),
    )


def make_step_report(step: int) -> StepReport:
    """Return the figures of a step, always the same."""
    return StepReport(
        step=step,
        epoch=step / STEPS_PER_EPOCH,
        metrics={"loss": 2 / step, "itm/loss": 2 / step, "itm/accuracy": 1 - 0.5 / step},
        learning_rates={"encoder": 1e-4 * step, "fusion": 5e-4 * step, "head": 1e-3 * step},
        gradient_norm=3.0 / step,
        samples_per_second=100.0 + step,
        data_wait=0.01 * step,
        peak_memory=0.5,
    )


def make_evaluation(step: int, num_images: int = 0) -> Evaluation:
    """Return the figures of an evaluation, always the same."""
    return Evaluation(
        step=step,
        epoch=step / STEPS_PER_EPOCH,
        split="validate",
        metrics={"loss": 3 / step, "itm/loss": 3 / step, "itm/accuracy": 1 - 0.6 / step},
        panel=[
            PanelImage(
                Image.new("RGB", (224, 112 + 112 * (index % 2)), (40 * index, 99, 0)),
                (f"a [MASK] circle, {index}", "match 0.90"),
            )
            for index in range(num_images)
        ],
    )


def write_checkpoint(run: RunInfo, step: int) -> Path:
    """Write a stand-in for a checkpoint, and mark it as the best."""
    folder = run.folder / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(16))
    (folder / "spec.toml").write_text(run.spec_text)
    best = folder.parent / "best"
    best.unlink(missing_ok=True)
    best.symlink_to(folder.name)
    return folder
