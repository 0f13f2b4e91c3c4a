"""What a run folder keeps of its parts, so that the model can be built without hub or data."""

import json
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from renaissance.data.tokenizer import tokenizer_sha256
from renaissance.engine.manifest import SPEC
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts
from renaissance.engine.training_data import TrainingAnswers
from renaissance.errors import SpecError
from renaissance.files import PARTIAL, remove, write_whole
from renaissance.model.build import encoders_of
from renaissance.spec.sections import RunSpec


def record_parts(parts: RunParts, spec_text: str, replaced: Path | None = None) -> None:
    """Write what `write_parts` writes, of a run that trains.

    Args:
        parts: The parts of the run.
        spec_text: The resolved spec, TOML.
        replaced: A checkpoint that was made with another spec, which is kept as
            `spec.step-<step>.toml`.

    Raises:
        SpecError: If they cannot be written.
    """
    folder = RunFolder(parts.spec.folder)
    try:
        if replaced is not None:
            step = int(replaced.name.removeprefix("step-"))
            write_whole(folder.path / f"spec.step-{step}.toml", (replaced / SPEC).read_bytes())
        write_parts(folder, parts.spec, parts.tokenizer, parts.answers, spec_text)
    except OSError as error:
        raise SpecError(
            f"run.output_dir: cannot write to {folder.path}: {error}; free space, or choose "
            "another folder"
        ) from error


def write_parts(
    folder: RunFolder,
    spec: RunSpec,
    tokenizer: PreTrainedTokenizerFast,
    answers: TrainingAnswers,
    spec_text: str,
) -> None:
    """Write spec and classes, and tokenizer and encoder configs unless they are there.

    Raises:
        OSError: If they cannot be written.
    """

    def write_encoders(path: Path) -> None:
        for table, encoder in encoders_of(spec.model).items():
            (path / table).mkdir()
            encoder.save_config(path / table)

    write_whole(folder.spec, spec_text)
    write_whole(folder.tokenizer_digest, tokenizer_sha256(tokenizer) + "\n")
    classes = answers.records()
    if classes:
        text = json.dumps(classes, indent=1, ensure_ascii=False)
        write_whole(folder.classes, text + "\n")
    # What a run left that has no checkpoint may be of another spec.
    is_trained = folder.last is not None
    if not (is_trained and folder.tokenizer.is_dir()):
        _write_folder(folder.tokenizer, lambda path: tokenizer.save_pretrained(path))
    if not (is_trained and folder.encoders.is_dir()):
        _write_folder(folder.encoders, write_encoders)


def _write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Make a folder that is there whole or not at all."""
    partial = folder.with_name(folder.name + PARTIAL)
    remove(partial)
    partial.mkdir()
    write(partial)
    remove(folder)
    partial.rename(folder)
