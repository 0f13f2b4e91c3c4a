"""TensorBoard: losses, metrics, learning rates, speed, the spec as text, pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch.utils.tensorboard import SummaryWriter

from renaissance import hookimpl
from renaissance.contracts.monitor import Evaluation, PanelImage, RunInfo, StepReport

COLUMNS = 4
CELL_WIDTH = 280
LINE_HEIGHT = 16
MAX_LINES = 9
MARGIN = 8


class TensorBoard:
    """Writes event files into `tensorboard/` of the run folder."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None

    @hookimpl
    def run_started(self, run: RunInfo) -> None:
        """Open the event file; steps after a resumed checkpoint are purged from view."""
        if run.rank != 0:
            return
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.start_step + 1)
        # Indented text is shown as it is.
        text = "".join(f"    {line}\n" for line in run.spec_text.splitlines())
        self._call("add_text", "spec", text, run.start_step)

    @hookimpl
    def step_finished(self, report: StepReport) -> None:
        """Write a training step."""
        for name, value in report.metrics.items():
            self._call("add_scalar", f"train/{name}", value, report.step)
        for name, value in report.learning_rates.items():
            self._call("add_scalar", f"learning_rate/{name}", value, report.step)
        for name, value in {
            "gradient_norm": report.gradient_norm,
            "epoch": report.epoch,
            "samples_per_second": report.samples_per_second,
            "data_wait_share": report.data_wait,
            "peak_memory_gib": report.peak_memory,
        }.items():
            self._call("add_scalar", f"run/{name}", value, report.step)

    @hookimpl
    def evaluated(self, evaluation: Evaluation) -> None:
        """Write an evaluation, with its picture panel."""
        for name, value in evaluation.metrics.items():
            self._call("add_scalar", f"{evaluation.split}/{name}", value, evaluation.step)
        if evaluation.panel and self._writer is not None:
            pixels = np.asarray(draw_panel(evaluation.panel))
            name = f"{evaluation.split}/panel"
            self._call("add_image", name, pixels, evaluation.step, dataformats="HWC")
        if self._writer is not None:
            self._writer.flush()

    @hookimpl
    def checkpoint_saved(self, step: int, folder: Path) -> None:
        """Flush, so that what is shown is never behind what can be resumed."""
        if self._writer is not None:
            self._writer.flush()

    @hookimpl
    def run_finished(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _call(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._writer is not None:
            getattr(self._writer, method)(*arguments, **options)


def draw_panel(images: list[PanelImage] | tuple[PanelImage, ...] | Any) -> Image.Image:
    """Draw images in a grid, each with its lines of text below."""
    font = ImageFont.load_default(12)
    cell_height = 224 + MAX_LINES * LINE_HEIGHT + 2 * MARGIN
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (min(len(images), COLUMNS) * CELL_WIDTH, rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, entry in enumerate(images):
        x = number % COLUMNS * CELL_WIDTH + MARGIN
        y = number // COLUMNS * cell_height + MARGIN
        sheet.paste(entry.image, (x, y))
        y += 224 + 4
        for line in _wrapped(entry.lines, font):
            draw.text((x, y), line, fill="black", font=font)
            y += LINE_HEIGHT
    return sheet


def _wrapped(lines: tuple[str, ...], font: Any) -> list[str]:
    wrapped: list[str] = []
    for line in lines:
        current = ""
        for word in line.split():
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > CELL_WIDTH - 2 * MARGIN:
                wrapped.append(current)
                longer = word
            current = longer
        wrapped.append(current)
    if len(wrapped) > MAX_LINES:
        wrapped = [*wrapped[: MAX_LINES - 1], "..."]
    return wrapped


plugin = TensorBoard()
