"""`renaissance convert`: a checkpoint of another tool as a run folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import typer

from renaissance.convert.meter import convert_meter
from renaissance.convert.renaissance import convert_renaissance
from renaissance.convert.target import Target
from renaissance.convert.vilt import convert_vilt
from renaissance.convert.weights import Weights, read_weights
from renaissance.convert.write import write_run
from renaissance.export.folder import check_new

Tool = Literal["vilt", "meter", "renaissance"]
CONVERTERS: Mapping[Tool, Callable[[Weights], Target]] = {
    "vilt": convert_vilt,
    "meter": convert_meter,
    "renaissance": convert_renaissance,
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
DEFAULT_TOKENIZER = "bert-base-uncased"


def convert(source: str, tool: Tool, output: Path, tokenizer: str | None) -> None:
    """Convert, and print what was loaded and what was left behind.

    Raises:
        RenaissanceError: If the checkpoint cannot be read or does not fit, or the folder is not
            empty.
    """
    check_new(output)
    weights = read_weights(source)
    target = CONVERTERS[tool](weights)
    data = target.tables["data"]
    data["tokenizer"] = tokenizer or data.get("tokenizer") or _own_tokenizer(weights)
    for line in write_run(source, target, output).lines():
        typer.echo(line)
    typer.echo(f"written: {output}")


def _own_tokenizer(weights: Weights) -> str:
    folder = weights.folder
    if folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        return str(folder.absolute())
    return DEFAULT_TOKENIZER
