"""`renaissance convert`: a checkpoint of another tool as a run folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import typer

from renaissance.convert.lxmert import convert_lxmert
from renaissance.convert.meter import convert_meter
from renaissance.convert.renaissance import convert_renaissance
from renaissance.convert.target import Target
from renaissance.convert.vilt import convert_vilt
from renaissance.convert.weights import Weights, read_weights
from renaissance.convert.write import write_run
from renaissance.errors import SpecError
from renaissance.export.folder import check_new

Tool = Literal["vilt", "meter", "lxmert", "renaissance"]
WITHOUT_IMAGE_ENCODER: Tool = "lxmert"
CONVERTERS: Mapping[Tool, Callable[[Weights], Target]] = {
    "vilt": convert_vilt,
    "meter": convert_meter,
    "renaissance": convert_renaissance,
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
DEFAULT_TOKENIZER = "bert-base-uncased"


def convert(
    source: str, tool: Tool, output: Path, tokenizer: str | None, image_encoder: str | None
) -> None:
    """Convert, and print what was loaded and what was left behind.

    Raises:
        RenaissanceError: If the checkpoint cannot be read or does not fit, the folder is not
            empty, or an image encoder is needed, or is not.
    """
    check_new(output)
    _check_image_encoder(tool, image_encoder)
    weights = read_weights(source)
    if image_encoder is None:
        target = CONVERTERS[tool](weights)
    else:
        target = convert_lxmert(weights, image_encoder)
    data = target.tables["data"]
    data["tokenizer"] = tokenizer or data.get("tokenizer") or _own_tokenizer(weights)
    for line in write_run(source, target, output).lines():
        typer.echo(line)
    typer.echo(f"written: {output}")


def _check_image_encoder(tool: Tool, image_encoder: str | None) -> None:
    if tool == WITHOUT_IMAGE_ENCODER and image_encoder is None:
        raise SpecError(
            "--image-encoder: LXMERT reads regions that a detector found, which no image encoder "
            "gives; name the one that takes their place, such as google/vit-base-patch16-224"
        )
    if tool != WITHOUT_IMAGE_ENCODER and image_encoder is not None:
        raise SpecError(
            f"--image-encoder: got {image_encoder!r}, but a checkpoint of {tool} has an image "
            "encoder of its own; leave it out"
        )


def _own_tokenizer(weights: Weights) -> str:
    folder = weights.folder
    if folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        return str(folder.absolute())
    return DEFAULT_TOKENIZER
