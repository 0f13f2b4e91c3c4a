"""The files and folders in a run folder.

runs/NAME/
  spec.toml         the resolved spec
  spec.step-N.toml  the one until step N, if the run was resumed with another
  tokenizer/        the tokenizer
  tokenizer.sha256  digest of the tokenizer that the run was trained with
  encoders/         the configurations of the encoders
  classes.json      the classes of the labels (see training_data.py)
  plugins.json      plugins named by path, with their digests (written by plugins/files.py)
  metrics.jsonl     figures, one JSON object per line (written by the monitor `jsonl`)
  results.json      what `renaissance evaluate` measured, by split
  scores-SPLIT.safetensors  the scores of the split's samples, by metric (see scores.py)
  checkpoints/
    step-00001000/  see checkpoint.py
    step-00001000.damaged  one that could not be read when the run was resumed
    best            a link to one of them
    best.json       the step that was evaluated last, and the best value of the watched metric

An exported folder (see `renaissance.export`) is a run folder that is its own checkpoint.
"""

import json
import re
from pathlib import Path
from typing import Any

import attrs

from renaissance.engine.manifest import MANIFEST, SHA256, is_checkpoint, verify
from renaissance.engine.tensors import first_few
from renaissance.engine.writing import restore_replaced
from renaissance.errors import CheckpointError, SpecError, quoted
from renaissance.files import PARTIAL, flush_to_disk, locked, remove, why_not_writable, write_whole

CHECKPOINT = re.compile(r"step-(\d{8,})")
UNFINISHED = re.compile(rf"\.step-\d{{8,}}{re.escape(PARTIAL)}")
BEST = "best"
RECORD = "best.json"
# Appended to the name of a checkpoint that cannot be read.
DAMAGED = ".damaged"


@attrs.frozen
class RunFolder:
    """A run folder, which need not exist yet.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def spec(self) -> Path:
        """The file with the resolved spec."""
        return self.path / "spec.toml"

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer."""
        return self.path / "tokenizer"

    @property
    def tokenizer_digest(self) -> Path:
        """The file with the digest of the tokenizer."""
        return self.path / "tokenizer.sha256"

    @property
    def encoders(self) -> Path:
        """The folder with the configurations of the encoders."""
        return self.path / "encoders"

    @property
    def classes(self) -> Path:
        """The file with what the objectives know about the training data."""
        return self.path / "classes.json"

    @property
    def plugins(self) -> Path:
        """The file that lists the plugins named by path."""
        return self.path / "plugins.json"

    @property
    def lock(self) -> Path:
        """The file that the run that is under way holds a lock of."""
        return self.path / "run.lock"

    @property
    def metrics(self) -> Path:
        """The file with the figures of training."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """The file with what `renaissance evaluate` measured."""
        return self.path / "results.json"

    def scores(self, split: str) -> Path:
        """Return the file with the scores of a split's samples."""
        return self.path / f"scores-{split}.safetensors"

    def spec_arguments(self) -> list[str]:
        """Return the arguments that read its spec, as on a command line.

        The spec names the folder as it was when the run began; it may have been moved since.
        """
        output_dir, name = (toml_string(s) for s in (str(self.path.parent), self.path.name))
        return [str(self.spec), f"run.output_dir={output_dir}", f"run.name={name}"]

    @property
    def last(self) -> Path | None:
        """The checkpoint of the latest step, if there is one; of an exported folder, itself."""
        checkpoints = self.checkpoints()
        if self.is_exported and not checkpoints:
            return self.path
        return checkpoints[-1] if checkpoints else None

    @property
    def is_exported(self) -> bool:
        """Whether the folder itself is a checkpoint."""
        return is_checkpoint(self.path)

    @property
    def best(self) -> Path | None:
        """The checkpoint with the best value of the watched metric, if one is marked."""
        link = self._checkpoints / BEST
        return link.resolve() if is_checkpoint(link) else None

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check(self) -> None:
        """Check that a run could be trained here; nothing is changed.

        Raises:
            SpecError: If the folder cannot be made or written to, or is an exported model.
        """
        reason = why_not_writable(self._checkpoints)
        if reason:
            raise SpecError(
                f"run.output_dir: cannot create {self.path}: {reason}; choose a writable folder"
            )
        if self.is_exported:
            raise SpecError(
                f"run.name: {self.path} is an exported model, which has no optimizer to resume "
                f"with; choose another run.name, and set model.init_from = '{self.path}'"
            )

    def create(self) -> None:
        """Make the folder, unless it exists.

        Raises:
            SpecError: As `check`.
        """
        self.check()
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(
                f"run.output_dir: cannot create {self.path}: {error}; choose a writable folder"
            ) from error

    def check_resume(self, resume: str) -> None:
        """Refuse a folder that was used, if the run may not resume: `run.resume`.

        Raises:
            SpecError: If it has checkpoints.
        """
        if resume == "never" and self.checkpoints():
            raise SpecError(
                f"run.resume: 'never', but {self.path} holds checkpoints of an earlier run; "
                "choose another run.name, delete the folder, or set run.resume = 'auto'"
            )

    @property
    def is_busy(self) -> bool:
        """Whether a run is being trained here."""
        if not self.lock.exists():
            return False
        try:
            with locked(self.lock, BlockingIOError()):
                return False
        except OSError:
            return True

    def restore(self) -> None:
        """Finish what a run that was killed left unfinished; no other run may be under way."""
        restore_replaced(self._checkpoints)

    def damaged(self) -> dict[Path, CheckpointError]:
        """Return the checkpoints that are damaged and later than the last whole one, and why.

        Raises:
            CheckpointError: If all are damaged: a run must not start over without being told to.
        """
        damaged: dict[Path, CheckpointError] = {}
        for folder in reversed(self._step_folders()):
            try:
                verify(folder)
                break
            except CheckpointError as error:
                damaged[folder] = error
        else:
            if damaged:
                faults = first_few([str(error) for error in damaged.values()])
                raise CheckpointError(
                    f"{self.path}: none of its checkpoints is whole: {faults}. Restore one from a "
                    "copy, or delete the folder to start over"
                )
        return damaged

    def set_aside_damaged(self) -> list[str]:
        """Rename the checkpoints that `damaged` returns.

        Returns:
            What is wrong with each of them.

        Raises:
            CheckpointError: As `damaged`.
        """
        damaged = self.damaged()
        for folder in damaged:
            aside = folder.with_name(folder.name + DAMAGED)
            remove(aside)
            folder.rename(aside)
        return [
            f"{error}. The checkpoint is set aside as {folder.name}{DAMAGED}, and the run goes on "
            "from the one before"
            for folder, error in damaged.items()
        ]

    def checkpoint(self, step: int) -> Path:
        """Return the folder for the checkpoint of a step, whether or not there is one."""
        return self._checkpoints / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Return the whole checkpoints, oldest first."""
        return [path for path in self._step_folders() if is_checkpoint(path)]

    def _step_folders(self) -> list[Path]:
        """Return whatever has the name of a checkpoint, in the order of steps."""
        if not self._checkpoints.is_dir():
            return []
        paths = [p for p in self._checkpoints.iterdir() if CHECKPOINT.fullmatch(p.name)]
        return sorted(paths, key=step_of)

    def check_tokenizer(self, sha256: str) -> None:
        """Compare a tokenizer with that of the run, whose embeddings belong to its ids.

        Args:
            sha256: The tokenizer's digest.

        Raises:
            CheckpointError: If the run was trained with another.
        """
        try:
            expected = self.tokenizer_digest.read_text(errors="replace").strip()
        except OSError:
            return  # Not trained yet: there is nothing to compare.
        if SHA256.fullmatch(expected) is None:
            raise CheckpointError(
                f"{self.tokenizer_digest}: got {quoted(expected)}, expected the SHA-256 of the "
                "tokenizer that the run was trained with, 64 digits. Restore it from a copy"
            )
        if sha256 != expected:
            raise CheckpointError(
                f"{self.tokenizer}: not the tokenizer that the run was trained with: its SHA-256 "
                f"begins with {sha256[:12]}, expected {expected[:12]}, as in "
                f"{self.tokenizer_digest.name}. Restore the folder from a copy"
            )

    def find(self, prefer_best: bool) -> Path:
        """Return a checkpoint.

        Args:
            prefer_best: Return the best checkpoint if one is marked; otherwise the last.

        Raises:
            CheckpointError: If there is none.
        """
        checkpoint = (self.best if prefer_best else None) or self.last
        if checkpoint is None:
            raise CheckpointError(
                f"{self.path}: no checkpoint there; expected a folder with {MANIFEST}, or a run "
                "folder with checkpoints/step-*"
            )
        return checkpoint

    def mark_best(self, step: int) -> None:
        """Make the checkpoint of a step the best one, atomically."""
        link = self._checkpoints / ".best.partial-link"
        remove(link)
        link.symlink_to(self.checkpoint(step).name)
        best = self._checkpoints / BEST
        if not best.is_symlink():
            remove(best)  # A copy of the run folder may have a folder in place of the link.
        link.replace(best)
        flush_to_disk(self._checkpoints)

    def record_best(self, step: int, best: float | None, num_worse: int = 0) -> None:
        """Record that a step was evaluated, and what was found.

        Args:
            step: The step.
            best: The best value so far; None if there is none.
            num_worse: Evaluations since that one.
        """
        record = {"step": step, "best": best, "num_worse": num_worse}
        write_whole(self._checkpoints / RECORD, json.dumps(record, allow_nan=False) + "\n")

    def best_after(self, step: int) -> dict[str, Any] | None:
        """Return the record of `record_best`; None if the last one is of another step."""
        try:
            record = json.loads((self._checkpoints / RECORD).read_text())
            best = None if record["best"] is None else float(record["best"])
            num_worse = int(record.get("num_worse", 0))
            found = {"step": step, "best": best, "num_worse": num_worse}
            return found if record["step"] == step else None
        # Absent or damaged: the step is evaluated again.
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def keep(self, num_last: int) -> None:
        """Delete all checkpoints but the last ones and the best, and unfinished ones.

        Args:
            num_last: How many of the last ones to keep, at least 1.
        """
        kept = {path.name for path in self.checkpoints()[-num_last:]}
        link = self._checkpoints / BEST
        if link.is_symlink():
            kept.add(link.readlink().name)
        for path in list(self._checkpoints.iterdir()):
            if CHECKPOINT.fullmatch(path.name) and path.name not in kept:
                # A checkpoint that is half deleted must not be taken for a whole one.
                unfinished = path.with_name(f".{path.name}{PARTIAL}")
                remove(unfinished)
                path = path.rename(unfinished)
            if UNFINISHED.fullmatch(path.name):
                remove(path)


def run_of(checkpoint: Path) -> RunFolder:
    """Return the run folder that a checkpoint is in; that of an exported folder is itself."""
    checkpoint = checkpoint.resolve()
    is_inside = CHECKPOINT.fullmatch(checkpoint.name) is not None
    return RunFolder(checkpoint.parents[1] if is_inside else checkpoint)


def toml_string(text: str) -> str:
    """Return a text as a TOML string, so that "2024" is not read as a number."""
    return json.dumps(text, ensure_ascii=False)


def find_checkpoint(path: Path, prefer_best: bool) -> Path:
    """Return a checkpoint, given its folder or a run folder.

    Args:
        path: The folder of a checkpoint or of a run.
        prefer_best: In a run folder, the best checkpoint if one is marked; otherwise the last.

    Raises:
        CheckpointError: If there is none.
    """
    return path if is_checkpoint(path) else RunFolder(path).find(prefer_best)


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint in a run folder."""
    return int(checkpoint.name.removeprefix("step-"))
