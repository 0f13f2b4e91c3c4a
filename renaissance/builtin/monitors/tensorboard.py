"""TensorBoard: losses, metrics, learning rates, speed, the spec as text, and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from renaissance import Evaluation, Monitor, RunInfo, StepReport, draw_panel, option

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Monitor):
    """Writes event files to `tensorboard/` in the run folder.

    Each split has its own folder there, with the same tags, so TensorBoard shows training and
    validation in one chart, losses first. Figures that belong to no split are in the folder of
    training.
    """

    @attrs.frozen
    class Options:
        """Options of `tensorboard`."""

        panel: bool = option(True, help="Write the picture panel of each evaluation.")

    def __init__(self, options: Options) -> None:
        self._panel = options.panel
        self._writers: dict[str, SummaryWriter] = {}

    def run_started(self, run: RunInfo) -> None:
        """Open the event file, and write the spec."""
        # TensorBoard renders Markdown, which leaves indented text as it is.
        text = "".join(f"    {line}\n" for line in run.spec_text.splitlines())
        self._writer(run, "train").add_text("spec", text, run.start_step)

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Write a training step."""
        self._write(run, "train", report.step, report.metrics)
        others = {
            **{f"optimizer/learning_rate/{r}": value for r, value in report.learning_rates.items()},
            "optimizer/gradient_norm": report.gradient_norm,
            "run/epoch": report.epoch,
            "run/samples_per_second": report.samples_per_second,
            "run/data_wait_share": report.data_wait,
            "run/peak_memory_gib": report.peak_memory,
        }
        for tag, value in others.items():
            self._writer(run, "train").add_scalar(tag, value, report.step)

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Write an evaluation, with its pictures."""
        self._write(run, evaluation.split, evaluation.step, evaluation.metrics)
        writer = self._writer(run, evaluation.split)
        if self._panel and evaluation.panel:
            pixels = np.asarray(draw_panel(evaluation.panel))
            writer.add_image("panel", pixels, evaluation.step, dataformats="HWC")
        for name, picture in evaluation.pictures.items():
            pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(name, pixels, evaluation.step, dataformats="HWC")
        self._flush()

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Flush, so that the figures on disk are never behind the checkpoint."""
        self._flush()

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, object]) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _write(self, run: RunInfo, split: str, step: int, metrics: Mapping[str, float]) -> None:
        writer = self._writer(run, split)
        for name, value in metrics.items():
            writer.add_scalar(_tag(name), value, step)

    def _writer(self, run: RunInfo, split: str) -> "SummaryWriter":
        # Takes a quarter of a second, and only runs need it.
        from torch.utils.tensorboard import SummaryWriter

        if split not in self._writers:
            # Hides the steps after the checkpoint from which the run resumes: they come again.
            self._writers[split] = SummaryWriter(
                str(run.folder / "tensorboard" / split), purge_step=run.start_step + 1
            )
        return self._writers[split]

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()


def _tag(metric: str) -> str:
    """Return the tag of a metric: `loss/total`, `loss/itm`, `metrics/itm/accuracy`.

    TensorBoard sorts charts by the first part of their tags: losses come first, then metrics,
    `optimizer` and `run`.
    """
    if metric == "loss":
        return "loss/total"
    if metric.endswith("/loss"):
        return f"loss/{metric.removesuffix('/loss')}"
    return f"metrics/{metric}"
