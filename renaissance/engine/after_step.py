"""What is due after a step: a log line, an evaluation, a checkpoint."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import SupportsFloat

from renaissance.contracts.monitor import Evaluation, RunInfo, StepReport
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.distributed import Ranks
from renaissance.engine.evaluate import SplitResult, evaluate
from renaissance.engine.memory import peak_memory
from renaissance.engine.messages import say
from renaissance.engine.metrics import MetricBook
from renaissance.engine.observers import Observers
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts
from renaissance.engine.saving import Saving, tried
from renaissance.engine.signals import StopRequest
from renaissance.engine.watch import Pulse, StepWatch
from renaissance.engine.window import gather_window, restore_window
from renaissance.errors import DataError, RenaissanceError, SpecError

# Bytes per second at which a checkpoint is written at least.
SLOWEST_STORAGE = 10_000_000


class AfterStep:
    """Logs, evaluates and saves, and tells the observers.

    Args:
        parts: The parts of the run.
        ranks: The processes of the run.
        info: The run, as observers see it.
        observers: Monitors and lifecycle hooks.
        saving: Writes the checkpoints.
    """

    def __init__(
        self,
        parts: RunParts,
        ranks: Ranks,
        info: RunInfo,
        observers: Observers,
        saving: Saving,
    ) -> None:
        self.parts = parts
        self.spec = parts.spec
        self.ranks = ranks
        self.info = info
        self.observers = observers
        self.last_evaluation: Mapping[str, float] = {}
        # Whether the run ends early: `train.patience` is exhausted.
        self.gives_up = False
        self._without_targets: set[str] = set()
        self.saving = saving
        self.watch = StepWatch(parts.spec.train.step_timeout)
        self._begin_window()

    def __call__(
        self,
        state: TrainState,
        book: MetricBook,
        rates: Mapping[str, float],
        gradient_norm: SupportsFloat,
        waited: float,
        request: StopRequest,
    ) -> None:
        """Do what is due after a step; every rank must call it.

        Raises:
            StoppedWaitingError: On every rank, if a request to stop ended the evaluation. The step
                is saved by then, and its evaluation is repeated when the run resumes.
        """
        if self.ranks.is_main:
            self.observers.progressed(self.info, state.step)
        self._window_steps += 1
        self._waited += waited
        evaluate_now = self._evaluation_is_due(state.step)
        save_now = evaluate_now or self._save_is_due(state.step)
        # A window never spans a checkpoint or an evaluation, so a resumed run logs the same figures
        # as one that was never interrupted.
        if self.is_due(state.step):
            self._log(state, book, rates, gradient_norm)
        if not save_now:
            return
        self._settle()
        # First: an evaluation that fails must not cost the steps since the last checkpoint.
        self.saving.begin(state)
        is_last = state.step == self.parts.total_steps
        if evaluate_now:
            self._evaluate_saved(state, request.is_made)
        if evaluate_now or is_last:
            self._settle()
        if is_last and not self.saving.is_saved(state.step):
            self.saving.begin(state)
            self._settle(must=True)
        self._begin_window()

    def close(self) -> None:
        """Wait for the checkpoint that this rank is writing; the other ranks may be gone."""
        with self._writing() as pulse:
            self.saving.finish_writing()
            pulse.rest()
            self.saving.close()

    def _settle(self, must: bool = False) -> None:
        with self._writing() as pulse:
            self.saving.end(must)
            # Observers may take any time.
            pulse.rest()
            self.saving.settle()

    @contextmanager
    def _writing(self) -> Iterator[Pulse]:
        """Watch a checkpoint that is awaited: its storage may be gone."""
        fault = "the checkpoint has not been written"
        # Parameters, and about as much of an optimizer's state as AdamW has.
        num_bytes = 3 * sum(p.nbytes for p in self.parts.network.parameters())
        with self.watch.going_on(fault, "checkpoint", num_bytes / SLOWEST_STORAGE) as pulse:
            if not self.saving.is_under_way:
                pulse.rest()
            yield pulse

    def is_due(self, step: int) -> bool:
        """Return whether a step is logged, evaluated or saved."""
        is_logged = step % self.spec.train.log_every == 0
        return is_logged or self._evaluation_is_due(step) or self._save_is_due(step)

    def resume(self, state: TrainState) -> None:
        """Finish what was due after the step that the run resumes from; every rank must call it.

        A checkpoint is saved before its evaluation, so `state` lacks what that has found.
        """
        if state.step == 0:
            return
        if self._evaluation_is_due(state.step):
            # Rank 0 has written the file, and decides.
            found = self._folder.best_after(state.step) if self.ranks.is_main else None
            found = json.loads(self.ranks.gather_text(json.dumps(found))[0])
            if found is None:
                self._evaluate(state)
                self.saving.report(state.step)
            else:
                state.best, state.num_worse = found["best"], found["num_worse"]
                self._judge(state)
        self.saving.prune()
        self._begin_window()

    def save(self, state: TrainState, book: MetricBook, must: bool = True) -> None:
        """Save in the middle of a window, before leaving; every rank must call it.

        Raises:
            CheckpointError: If it cannot be saved, but `must`.
        """
        self._settle()
        if self.saving.is_saved(state.step):
            return  # Nothing has changed since.
        self.saving.begin(state, gather_window(book, self.ranks))
        self._settle(must)

    def restore(self, state: TrainState, book: MetricBook) -> None:
        """Continue the window of the checkpoint that the run resumes from, if it has one."""
        restore_window(self._folder.checkpoint(state.step), book, self.ranks)

    def _log(
        self,
        state: TrainState,
        book: MetricBook,
        rates: Mapping[str, float],
        gradient_norm: SupportsFloat,
    ) -> None:
        metrics = book.compute()
        book.reset()
        seconds = time.perf_counter() - self._window_start
        if self.ranks.is_main:
            self._report_without_targets(state, metrics)
            report = StepReport(
                step=state.step,
                epoch=self._epoch(state),
                metrics=metrics,
                learning_rates=rates,
                gradient_norm=float(gradient_norm),
                samples_per_second=self._window_steps * self.parts.plan.global_batch_size / seconds,
                data_wait=self._waited / seconds,
                peak_memory=peak_memory(self.ranks.device),
            )
            self.observers.step_finished(self.info, report)
        self._begin_window()

    def _report_without_targets(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Say, once per objective, that the samples have nothing for it to learn from."""
        for name in [choice.name for choice in self.spec.objectives if choice.learns]:
            if f"{name}/loss" not in metrics and name not in self._without_targets:
                self._without_targets.add(name)
                say(
                    f"warning: objective '{name}' had no targets in the last steps before step "
                    f"{state.step}, so its loss counted as 0; are its samples labelled?"
                )

    def _begin_window(self) -> None:
        self._window_start = time.perf_counter()
        self._window_steps = 0
        self._waited = 0.0

    def _evaluation_is_due(self, step: int) -> bool:
        is_due = step == self.parts.total_steps or step % self.spec.evaluate.every_steps == 0
        return is_due and self.parts.validate is not None

    def _save_is_due(self, step: int) -> bool:
        return step == self.parts.total_steps or step % self.spec.checkpoint.every_steps == 0

    def _evaluate_saved(self, state: TrainState, is_stopping: Callable[[], bool]) -> None:
        """Evaluate a step whose checkpoint is being written."""
        try:
            self._evaluate(state, is_stopping)
        # On all ranks alike; what they write together, none can finish alone.
        except RenaissanceError:
            self.saving.end()
            raise

    def _evaluate(
        self,
        state: TrainState,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Evaluate a step; mark its checkpoint, if it is saved, if it is the best so far."""
        validate = self.parts.require_validate()
        network = self.parts.network
        fault = f"the evaluation of step {state.step} has not gone on"
        # At rest from the end of `evaluate` on.
        with self.watch.going_on(fault) as pulse:
            with network.averaged():
                result = evaluate(
                    network, validate, self.spec, self.ranks, is_stopping=is_stopping, pulse=pulse
                )
            self._take(state, result)

    def _take(self, state: TrainState, result: SplitResult) -> None:
        """Take what an evaluation has found: log it, and mark the best."""
        self.last_evaluation = result.metrics
        with self._writing():
            self.saving.end()
        is_saved = self.saving.is_saved(state.step)
        best_before = state.best
        improved = self._is_best(state, result.metrics)
        state.num_worse = 0 if improved else state.num_worse + 1
        evaluation = Evaluation(
            step=state.step,
            epoch=self._epoch(state),
            split="validate",
            metrics=result.metrics,
            panel=result.panel,
            pictures=result.pictures,
        )

        # Recorded last: a run that is killed before that evaluates again when it resumes.
        def report() -> None:
            is_marked = is_saved and tried(
                lambda: self._folder.mark_best(state.step) if improved else None
            )
            self.observers.evaluated(self.info, evaluation)
            if is_marked:
                record = (state.step, state.best, state.num_worse)
                tried(lambda: self._folder.record_best(*record))
            else:
                state.best = best_before

        self._on_main(report)
        self._judge(state)

    def _judge(self, state: TrainState) -> None:
        """Decide whether the run ends early; every rank must call it."""
        patience = self.spec.train.patience
        if patience is None:
            return
        # Rank 0 decides: only there, a best that could not be marked on the disk is taken back.
        is_over = self.ranks.is_main and state.num_worse >= patience
        self.gives_up = bool(self.ranks.sum([float(is_over)])[0])
        if self.gives_up and self.ranks.is_main:
            say(
                f"step {state.step}: {self.spec.checkpoint.best_metric} was not better in "
                f"{state.num_worse} evaluations in a row (train.patience); training ends"
            )

    def _is_best(self, state: TrainState, metrics: Mapping[str, float]) -> bool:
        metric = self.spec.checkpoint.best_metric
        value = metrics.get(metric)
        if not metrics:
            raise DataError(
                "data.validate: no sample has a target of any objective, so nothing can be "
                "measured; choose a split with labels, or remove [[data.validate]]"
            )
        if value is None:
            raise SpecError(
                f"checkpoint.best_metric: got {metric!r}, but this evaluation measures: "
                f"{', '.join(metrics)}; choose one of these"
            )
        sign = 1 if self.spec.checkpoint.best_mode == "max" else -1
        # Every comparison with NaN is false: as the best, it would stay the best.
        if state.best is not None and not math.isfinite(state.best):
            state.best = None
        improved = math.isfinite(value) and (state.best is None or sign * value > sign * state.best)
        if improved:
            state.best = value
        return improved

    def _on_main(self, function: Callable[[], object]) -> None:
        self.ranks.on_all_ranks(lambda: function() if self.ranks.is_main else None)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.info.folder)

    def _epoch(self, state: TrainState) -> float:
        return state.position / self.parts.num_samples
