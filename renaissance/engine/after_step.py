"""What happens after a step where it is due: a log line, an evaluation, a checkpoint."""

import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from renaissance.contracts.monitor import Evaluation, RunInfo, StepReport
from renaissance.engine.checkpoint import (
    TrainState,
    keep_checkpoints,
    mark_best,
    save_checkpoint,
)
from renaissance.engine.distributed import Ranks
from renaissance.engine.evaluate import evaluate
from renaissance.engine.metrics import MetricBook
from renaissance.engine.run_parts import RunParts
from renaissance.errors import SpecError


class AfterStep:
    """Logs, evaluates and saves, and tells the lifecycle hooks.

    Args:
        parts: The parts of the run.
        ranks: The processes of the run.
        info: What hooks are told of the run.
        optimizer: Saved with checkpoints.
        scaler: Likewise.
    """

    def __init__(
        self,
        parts: RunParts,
        ranks: Ranks,
        info: RunInfo,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.parts = parts
        self.ranks = ranks
        self.info = info
        self.optimizer = optimizer
        self.scaler = scaler
        self.hook = parts.plugins.manager.hook
        self.last_evaluation: Mapping[str, float] = {}
        self._window_start = time.perf_counter()
        self._window_steps = 0
        self._waited = 0.0

    def after_step(
        self,
        state: TrainState,
        book: MetricBook,
        rates: Mapping[str, float],
        gradient_norm: float,
        waited: float,
    ) -> None:
        """Do what is due after a step; every rank must call it."""
        self._window_steps += 1
        self._waited += waited
        is_last = state.step == self.parts.total_steps
        evaluate_now = self.parts.validate is not None and (
            is_last or state.step % self._evaluation_interval() == 0
        )
        save_now = is_last or state.step % self._checkpoint_interval() == 0
        # A window never reaches over a checkpoint or an evaluation, so a resumed run logs the
        # same figures as one that was never interrupted.
        if save_now or evaluate_now or state.step % self.parts.spec.train.log_every == 0:
            self._log(state, book, rates, gradient_norm)
        improved = evaluate_now and self._evaluate(state)
        if save_now or improved:
            self._save(state, is_best=improved)
        if evaluate_now or save_now:
            self._begin_window()

    def save(self, state: TrainState, book: MetricBook) -> None:
        """Save in the middle of a window, before leaving; every rank must call it."""
        book.reset()
        self._save(state, is_best=False)

    def report_bad_samples(self, messages: Sequence[str]) -> None:
        """Say which records were left out on this rank."""
        for message in messages:
            print(f"left out (rank {self.ranks.rank}): {message}", flush=True)

    def _log(
        self,
        state: TrainState,
        book: MetricBook,
        rates: Mapping[str, float],
        gradient_norm: float,
    ) -> None:
        metrics = book.compute()
        book.reset()
        seconds = time.perf_counter() - self._window_start
        if self.ranks.is_main:
            report = StepReport(
                step=state.step,
                epoch=self._epoch(state),
                metrics=metrics,
                learning_rates=rates,
                gradient_norm=gradient_norm,
                samples_per_second=self._window_steps * self.parts.plan.global_batch_size / seconds,
                data_wait=self._waited / seconds,
                peak_memory=peak_memory(self.ranks.device),
            )
            self.hook.step_finished(run=self.info, report=report)
        self._begin_window()

    def _begin_window(self) -> None:
        self._window_start = time.perf_counter()
        self._window_steps = 0
        self._waited = 0.0

    def _evaluate(self, state: TrainState) -> bool:
        """Evaluate; return whether the watched metric is the best so far."""
        assert self.parts.validate is not None
        spec = self.parts.spec
        result = evaluate(self.parts.network, self.parts.validate, spec, self.ranks)
        self.last_evaluation = result.metrics
        value = result.metrics.get(spec.checkpoint.best_metric)
        if value is None:
            raise SpecError(
                f"checkpoint.best_metric: {spec.checkpoint.best_metric!r} is not among what "
                f"this evaluation measures: {', '.join(result.metrics)}; choose one of these"
            )
        sign = 1 if spec.checkpoint.best_mode == "max" else -1
        improved = state.best is None or sign * value > sign * state.best
        if improved:
            state.best = value
        if self.ranks.is_main:
            evaluation = Evaluation(
                step=state.step,
                epoch=self._epoch(state),
                split="validate",
                metrics=result.metrics,
                panel=result.panel,
            )
            self.hook.evaluated(run=self.info, evaluation=evaluation)
        return improved

    def _save(self, state: TrainState, is_best: bool) -> None:
        state.scaler = self.scaler.state_dict()

        def write() -> None:
            if not self.ranks.is_main:
                return
            folder = self.checkpoints / f"step-{state.step:08d}"
            save_checkpoint(folder, self.parts.network, self.optimizer, state, self.info.spec_text)
            if is_best:
                mark_best(folder)
            keep_checkpoints(self.checkpoints, self.parts.spec.checkpoint.keep_last)
            self.hook.checkpoint_saved(run=self.info, step=state.step, folder=folder)

        self.ranks.on_all_ranks(write)

    @property
    def checkpoints(self) -> Path:
        """The run's folder of checkpoints."""
        return self.info.folder / "checkpoints"

    def _evaluation_interval(self) -> int:
        section = self.parts.spec.evaluate
        if section.every_steps is not None:
            return section.every_steps
        return self.parts.steps_in(section.every_epochs or 1.0)

    def _checkpoint_interval(self) -> int:
        return self.parts.spec.checkpoint.every_steps or self._evaluation_interval()

    def _epoch(self, state: TrainState) -> float:
        return state.position / self.parts.num_samples


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process so far, GiB: the GPU's, or resident memory on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux reports KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
