"""`renaissance serve`: a page that asks a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import typer

from renaissance.errors import RunError
from renaissance.inference.inputs import open_input
from renaissance.inference.loading import load
from renaissance.inference.model import Model

if TYPE_CHECKING:
    from renaissance.serving.answers import Gallery

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@attrs.frozen
class ServeRequest:
    """What to serve.

    Attributes:
        run: The run folder.
        checkpoint: "best", "last", or a checkpoint's folder.
        gallery: Tables of images or texts to search; none if empty.
        columns: Columns of the gallery by role, where they are given.
        host: Address to listen at.
        port: Port to listen at; 0 for any that is free.
        max_upload: Size of the largest request, bytes.
        device: "auto", "cpu" or "cuda".
        trust_plugins: Whether to run the Python files that the run folder names.
    """

    run: str
    checkpoint: str
    gallery: Sequence[str]
    columns: Mapping[str, str]
    host: str
    port: int
    max_upload: int
    device: str
    trust_plugins: bool


def serve(request: ServeRequest) -> None:
    """Serve until it is interrupted.

    Raises:
        RunError: If the packages of the extra `serve` are missing.
        RenaissanceError: If the run or the gallery is wrong.
    """
    try:
        import uvicorn

        from renaissance.serving.app import make_app
    except ImportError as error:
        raise RunError(
            f"serve: {error.name} is not installed; run pip install starlette uvicorn"
        ) from error
    model = load(request.run, request.device, request.checkpoint, request.trust_plugins)
    gallery = _gallery(request, model) if request.gallery else None
    is_local = request.host in LOOPBACK
    if not is_local:
        typer.echo(f"warning: every machine that reaches {request.host} can ask this model")
    hosts = (*LOOPBACK, request.host) if is_local else ("*",)
    app = make_app(model, gallery, hosts, request.max_upload)
    typer.echo(f"{request.run} at http://{request.host}:{request.port} (Ctrl-C ends it)")
    uvicorn.run(app, host=request.host, port=request.port, log_level="warning")


def _gallery(request: ServeRequest, model: Model) -> Gallery:
    from renaissance.serving.answers import Gallery

    rows = open_input(
        request.gallery, request.columns, model, frozenset(), optional=("image", "text")
    )
    gallery = Gallery.of_rows(model, rows)
    typer.echo(f"gallery: {len(gallery.pictures):,} images, {len(gallery.texts):,} texts")
    return gallery
