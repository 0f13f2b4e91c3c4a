"""What is due after a step: a log line, an evaluation, a checkpoint."""

import math
import resource
import time
from collections.abc import Mapping, Sequence

import torch

from renaissance.contracts.monitor import Evaluation, RunInfo, StepReport
from renaissance.engine.checkpoint import TrainState, save_checkpoint
from renaissance.engine.distributed import Ranks
from renaissance.engine.evaluate import evaluate
from renaissance.engine.metrics import MetricBook
from renaissance.engine.observers import Observers
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts
from renaissance.errors import SpecError


class AfterStep:
    """Logs, evaluates and saves, and tells the observers.

    Args:
        parts: The parts of the run.
        ranks: The processes of the run.
        info: The run, as observers see it.
        observers: Monitors and lifecycle hooks.
        optimizer: The optimizer, which is saved with checkpoints.
        scaler: fp16's gradient scaler, which is saved with checkpoints.
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
        self.parts = parts
        self.spec = parts.spec
        self.ranks = ranks
        self.info = info
        self.observers = observers
        self.optimizer = optimizer
        self.scaler = scaler
        self.last_evaluation: Mapping[str, float] = {}
        # The checkpoint that the run resumes from; a run that starts needs none of its first step.
        self._saved_step = info.start_step
        self._begin_window()

    def __call__(
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
            is_last or state.step % self.spec.evaluate.every_steps == 0
        )
        save_now = is_last or state.step % self.spec.checkpoint.every_steps == 0
        # A window never spans a checkpoint or an evaluation, so a resumed run logs the same figures
        # as one that was never interrupted.
        if save_now or evaluate_now or state.step % self.spec.train.log_every == 0:
            self._log(state, book, rates, gradient_norm)
        improved = evaluate_now and self._evaluate(state)
        if save_now or improved:
            self._save(state, is_best=improved)
        if evaluate_now or save_now:
            self._begin_window()

    def save(self, state: TrainState, book: MetricBook) -> None:
        """Save in the middle of a window, before leaving; every rank must call it."""
        book.reset()
        if state.step == self._saved_step:
            return  # Nothing has changed since.
        self._save(state, is_best=False)

    def report_bad_samples(self, messages: Sequence[str]) -> None:
        """Print which records were left out on this rank."""
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
            self.observers.step_finished(self.info, report)
        self._begin_window()

    def _begin_window(self) -> None:
        self._window_start = time.perf_counter()
        self._window_steps = 0
        self._waited = 0.0

    def _evaluate(self, state: TrainState) -> bool:
        """Evaluate; return whether the watched metric is the best so far."""
        validate = self.parts.require_validate()
        result = evaluate(self.parts.network, validate, self.spec, self.ranks)
        self.last_evaluation = result.metrics
        improved = self._is_best(state, result.metrics)
        if self.ranks.is_main:
            evaluation = Evaluation(
                step=state.step,
                epoch=self._epoch(state),
                split="validate",
                metrics=result.metrics,
                panel=result.panel,
            )
            self.observers.evaluated(self.info, evaluation)
        return improved

    def _is_best(self, state: TrainState, metrics: Mapping[str, float]) -> bool:
        metric = self.spec.checkpoint.best_metric
        value = metrics.get(metric)
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

    def _save(self, state: TrainState, is_best: bool) -> None:
        state.scaler = self.scaler.state_dict()

        # A full disk on rank 0 must stop the other ranks too.
        def write() -> None:
            if not self.ranks.is_main:
                return
            run = RunFolder(self.info.folder)
            folder = run.checkpoint(state.step)
            save_checkpoint(folder, self.parts.network, self.optimizer, state, self.info.spec_text)
            if is_best:
                run.mark_best(state.step)
            run.keep(self.spec.checkpoint.keep_last)
            self.observers.checkpoint_saved(self.info, state.step, folder)

        self.ranks.on_all_ranks(write)
        self._saved_step = state.step

    def _epoch(self, state: TrainState) -> float:
        return state.position / self.parts.num_samples


def peak_memory(device: torch.device) -> float:
    """Return this process's peak memory so far, in GiB: on the GPU, or resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux reports KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
