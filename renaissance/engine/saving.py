"""Checkpoints of a run, written beside training."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from renaissance.contracts.monitor import RunInfo
from renaissance.engine.checkpoint import TrainState, take_snapshot
from renaissance.engine.distributed import Ranks
from renaissance.engine.messages import say
from renaissance.engine.nonfinite import check_finite
from renaissance.engine.observers import Observers
from renaissance.engine.record import record_parts
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts
from renaissance.engine.shards import position_of
from renaissance.engine.snapshot import Snapshot
from renaissance.engine.writing import (
    abandon,
    begin_writing,
    finish_writing,
    write_part,
    write_snapshot,
)
from renaissance.errors import CheckpointError, SpecError

NO_WINDOW: Mapping[str, Tensor] = MappingProxyType({})


class Saving:
    """Writes one checkpoint at a time, on a thread of rank 0, and tells the observers.

    Of a sharded network, each rank writes its part on a thread, and rank 0 puts them together.

    Args:
        parts: The parts of the run.
        ranks: The processes of the run.
        info: The run, as observers see it.
        observers: Monitors and lifecycle hooks.
        optimizer: The optimizer, which is saved with the network.
        scaler: fp16's gradient scaler, which is saved as well.
    """

    def __init__(
        self,
        parts: RunParts,
        ranks: Ranks,
        info: RunInfo,
        observers: Observers,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self._parts = parts
        self._ranks = ranks
        self._info = info
        self._observers = observers
        self._optimizer = optimizer
        self._scaler = scaler
        # The checkpoint that the run resumes from; a run that starts needs none of its first step.
        self._saved_step = info.start_step
        # The step whose checkpoint is being written, and the one that observers do not know yet.
        self._saving: int | None = None
        self._untold: int | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Mapping[str, str]] | None = None
        self._position = position_of(parts.network)
        self._snapshot: Snapshot | None = None

    @property
    def num_writers(self) -> int:
        """How many ranks write a checkpoint."""
        return 1 if self._position is None else self._position.count

    @property
    def is_written(self) -> bool:
        """Whether what this rank has been writing of a checkpoint is there, or has failed."""
        return self._writing is not None and self._writing.done()

    @property
    def is_under_way(self) -> bool:
        """Whether this rank writes a checkpoint, or has written one that is not settled."""
        return self._writing is not None

    def is_saved(self, step: int) -> bool:
        """Return whether a step is the last one with a checkpoint, or the first of the run."""
        return step == self._saved_step

    def begin(self, state: TrainState, window: Mapping[str, Tensor] = NO_WINDOW) -> None:
        """Begin to write a checkpoint of the step, beside whatever comes next."""
        state.scaler = self._scaler.state_dict()
        folder = self._folder.checkpoint(state.step)
        network, spec_text = self._parts.network, self._info.spec_text

        def prepare() -> None:
            check_finite(network, state.step)
            if self._ranks.is_main and not self._folder.spec.exists():
                self._record_again()
            if self._ranks.is_main and self._position is not None:
                try:
                    begin_writing(folder)
                # All ranks find out when they write.
                except CheckpointError as error:
                    say(f"warning: {error}")

        def begin() -> None:
            snapshot = take_snapshot(network, self._optimizer, state, spec_text, window)
            if snapshot.position is None:
                self._writing = self._thread.submit(_write_whole, folder, snapshot)
                return
            if snapshot.position.is_first:
                self._writing = self._thread.submit(write_part, folder, snapshot)
            # Rank 0 still needs the rest of it.
            self._snapshot = snapshot

        def prepare_and_begin() -> None:
            prepare()
            begin()

        # A failure on any rank must stop the others too.
        if self._position is None:
            self._on_main(prepare_and_begin)
        else:
            self._ranks.on_all_ranks(prepare)
            self._ranks.on_all_ranks(begin)
        self._saving = state.step

    def end(self, must: bool = False) -> None:
        """Wait until it is written. A full disk ends no run that can still be saved later."""
        if self._saving is None:
            return
        writing, self._writing = self._writing, None
        digests: dict[str, str] = {}

        def end() -> None:
            digests.update({} if writing is None else writing.result())

        is_there = self._is_done(end, must)
        if self._snapshot is not None:
            folder = self._folder.checkpoint(self._saving)
            is_there = self._finish(folder, self._snapshot, digests, is_there, must)
        if is_there:
            self._saved_step = self._untold = self._saving
        self._saving = self._snapshot = None

    def _finish(
        self,
        folder: Path,
        snapshot: Snapshot,
        digests: Mapping[str, str],
        is_there: bool,
        must: bool,
    ) -> bool:
        """Let rank 0 make a checkpoint of what all ranks have written."""
        texts = self._ranks.gather_text(json.dumps(digests))

        def finish() -> None:
            together = {n: d for text in texts for n, d in json.loads(text).items()}
            if self._ranks.is_main and is_there:
                finish_writing(folder, snapshot, together)

        is_there &= self._is_done(finish, must)
        if self._ranks.is_main and not is_there:
            abandon(folder)
        return is_there

    def _is_done(self, work: Callable[[], object], must: bool) -> bool:
        """Do some of the writing; return whether it worked on all ranks, which all call it."""

        def tried() -> float:
            try:
                work()
            except CheckpointError as error:
                if must:
                    raise
                say(f"warning: {error}; the run goes on, and saves again when that is due")
                return 0
            return 1

        num_done = self._ranks.sum([self._ranks.on_all_ranks(tried)])[0]
        return num_done == self._ranks.world_size

    def settle(self, must: bool = False) -> None:
        """Wait for the checkpoint that is being written, delete old ones, and tell the observers.

        Every rank must call it.

        Raises:
            CheckpointError: If it cannot be written, but `must`.
        """
        self.end(must)
        if self._untold is not None:
            step, self._untold = self._untold, None
            self.prune()
            self.report(step)

    def finish_writing(self) -> None:
        """Wait for the checkpoint that this rank is writing, and write no other."""
        self._thread.shutdown()

    def close(self) -> None:
        """Wait for the checkpoint that this rank is writing; the other ranks may be gone."""
        self.finish_writing()
        if self._writing is None or self._saving is None:
            return
        folder = self._folder.checkpoint(self._saving)
        if self._position is not None:
            # Without the other ranks, nothing can be made of what this one has written.
            if self._ranks.is_main:
                abandon(folder)
            return
        try:
            self._writing.result()
        except CheckpointError as error:
            say(f"warning: {error}")
            return
        tried(lambda: self._folder.keep(self._parts.spec.checkpoint.keep_last))
        self._observers.checkpoint_saved(self._info, self._saving, folder)

    def prune(self) -> None:
        """Delete old checkpoints; every rank must call it."""
        keep_last = self._parts.spec.checkpoint.keep_last
        self._on_main(lambda: tried(lambda: self._folder.keep(keep_last)))

    def report(self, step: int) -> None:
        """Tell the observers, once the link to the best is as it should be."""
        folder = self._folder.checkpoint(step)
        self._on_main(lambda: self._observers.checkpoint_saved(self._info, step, folder))

    def _record_again(self) -> None:
        """Write what a checkpoint is of no use without."""
        say(f"warning: {self._folder.path} was moved or deleted; it is made again")
        try:
            self._folder.create()
            record_parts(self._parts, self._info.spec_text)
        # The checkpoint itself cannot be written either, then.
        except SpecError as error:
            say(f"warning: {error}")

    def _on_main(self, function: Callable[[], object]) -> None:
        self._ranks.on_all_ranks(lambda: function() if self._ranks.is_main else None)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self._info.folder)


def _write_whole(folder: Path, snapshot: Snapshot) -> Mapping[str, str]:
    write_snapshot(folder, snapshot)
    return {}


def tried(change: Callable[[], object]) -> bool:
    """Change files beside the checkpoints; return whether it worked."""
    try:
        change()
    except OSError as error:
        say(f"warning: {error}; the run goes on")
        return False
    return True
