"""`renaissance export`: a trained model as a folder that other programs load."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import attrs
import typer

from renaissance.engine.run_folder import RunFolder, run_of
from renaissance.errors import RunError, SpecError
from renaissance.export.folder import check_new, new_folder
from renaissance.export.quiet import quiet
from renaissance.files import HUB_NAME
from renaissance.hub import upload
from renaissance.inference.loading import load
from renaissance.inference.model import Model

Form = Literal["hf", "sentence-transformers", "torch", "onnx"]


@attrs.frozen
class ExportRequest:
    """What to export.

    Attributes:
        run: The run folder.
        form: What to make of it.
        output: The folder to write.
        push: Name on the hub to upload it to, ORGANIZATION/NAME; None for none.
        checkpoint: "best", "last", or a checkpoint's folder.
        trust_plugins: Whether to run the Python files that the run folder names.
    """

    run: str
    form: Form
    output: Path
    push: str | None = None
    checkpoint: str = "best"
    trust_plugins: bool = False

    @property
    def name(self) -> str:
        """The name of the model, for its card."""
        return self.push or self.output.name

    def command(self) -> list[str]:
        """Return the command line that makes this request, without the upload."""
        options = {
            "--to": self.form,
            "--output": str(self.output),
            "--checkpoint": self.checkpoint,
        }
        flags = ["--trust-plugins"] if self.trust_plugins else []
        return ["export", self.run, *(text for pair in options.items() for text in pair), *flags]


# Writes a model into an empty folder, and returns what to print.
Exporter: TypeAlias = Callable[[Model, RunFolder, Path, ExportRequest], list[str]]


def export(request: ExportRequest) -> None:
    """Export, check that the outputs agree, and upload if asked to.

    Raises:
        RenaissanceError: If the run cannot be loaded, the folder is not empty, or outputs differ.
    """
    check_new(request.output)
    if request.push is not None and not HUB_NAME.fullmatch(request.push):
        raise SpecError(f"--push: got {request.push!r}, expected ORGANIZATION/NAME")
    model = load(request.run, "cpu", request.checkpoint, request.trust_plugins)
    run = RunFolder(model.spec.folder)
    if run_of(model.checkpoint) != run:
        raise SpecError(
            f"--checkpoint: {model.checkpoint} is not in {run.path}; export the run that it is in"
        )
    with new_folder(request.output) as folder, quiet():
        lines = EXPORTERS[request.form](model, run, folder, request)
    for line in lines:
        typer.echo(line)
    typer.echo(f"written: {request.output}")
    if request.push is not None:
        typer.echo(f"pushed: {upload(request.output, request.push)}")


def _huggingface(model: Model, run: RunFolder, folder: Path, request: ExportRequest) -> list[str]:
    from renaissance.export.huggingface import export_huggingface

    towers = export_huggingface(model, run, folder, request.name, request.command())
    lines = [f"{tower.name}: transformers loads it with {tower.loader}" for tower in towers]
    lines += [f"{tower.name}: {tower.note}" for tower in towers if tower.note]
    return lines


def _retriever(model: Model, run: RunFolder, folder: Path, request: ExportRequest) -> list[str]:
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise RunError(
            "--to sentence-transformers: it is not installed; pip install "
            "'renaissance[sentence-transformers]'"
        ) from error
    from renaissance.export.retriever import export_retriever

    return export_retriever(model, run, folder, request.name, request.command())


def _torch(model: Model, run: RunFolder, folder: Path, request: ExportRequest) -> list[str]:
    from renaissance.export.programs import export_torch

    return export_torch(model, folder)


def _onnx(model: Model, run: RunFolder, folder: Path, request: ExportRequest) -> list[str]:
    from renaissance.export.programs import export_onnx

    return export_onnx(model, folder)


EXPORTERS: Mapping[Form, Exporter] = {
    "hf": _huggingface,
    "sentence-transformers": _retriever,
    "torch": _torch,
    "onnx": _onnx,
}
