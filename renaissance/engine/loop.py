"""The training loop. It names no component, and is the only place that calls backward."""

import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from renaissance.contracts.objective import ObjectiveOutput
from renaissance.data.collate import MicroBatch
from renaissance.data.loader import MicroBatchLoader, TrainingOrder
from renaissance.engine.after_step import AfterStep
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.distributed import Ranks
from renaissance.engine.metrics import MetricBook
from renaissance.engine.nonfinite import stop_not_finite
from renaissance.engine.optim import learning_rate, set_learning_rates, trainable_parameters
from renaissance.engine.precision import autocast
from renaissance.engine.run_parts import RunParts
from renaissance.engine.signals import StopRequest
from renaissance.errors import DataError, RunError
from renaissance.randomness import keyed_seed

# fp16's scaler halves its scale at each overflow; so many in a row mean that scaling is no remedy.
MAX_SKIPPED_STEPS = 25


class Loop:
    """Runs optimizer steps from `state.step` to `parts.total_steps`.

    Args:
        parts: The parts of the run; `parts.network` on its device.
        ranks: The processes of the run.
        optimizer: Of the network's trainable parameters.
        scaler: fp16's gradient scaler, disabled for other precisions.
        state: Where the run is; updated as it goes.
        after_step: Logs, evaluates and saves after a step where these are due.
    """

    def __init__(
        self,
        parts: RunParts,
        ranks: Ranks,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        state: TrainState,
        after_step: AfterStep,
    ) -> None:
        self.parts = parts
        self.spec = parts.spec
        self.ranks = ranks
        self.optimizer = optimizer
        self.scaler = scaler
        self.state = state
        self.after_step = after_step
        self.module = _wrap(parts.network, ranks)
        self.parameters = trainable_parameters(parts.network)
        self.objectives = parts.network.named_objectives()
        self.weights = {o.name or o.type: o.weight for o in self.spec.objectives}
        self.book = MetricBook(self.objectives, self.weights, ranks.device)
        self.skipped_steps = 0

    def run(self) -> int:
        """Train to the end, or until a signal.

        Returns:
            The signal that stopped the run, 0 if it came to its end.

        Raises:
            RunError: If a loss or gradient is not finite.
            DataError: If a record cannot be read.
        """
        micro_batches = iter(self._loader())
        with StopRequest() as request:
            while self.state.step < self.parts.total_steps:
                started = time.perf_counter()
                batches, num_targets, stop = self._next(micro_batches, request)
                if stop:
                    self.after_step.save(self.state, self.book)
                    return stop
                waited = time.perf_counter() - started
                rates, norm = self._step(batches, num_targets)
                self.state.step += 1
                self.state.position += self.parts.plan.global_batch_size
                self.after_step.after_step(self.state, self.book, rates, norm, waited)
        return 0

    def _step(
        self, micro_batches: list[MicroBatch], num_targets: Mapping[str, float]
    ) -> tuple[Mapping[str, float], float]:
        """One optimizer step; returns the learning rates and the gradient's norm."""
        step, spec = self.state.step, self.spec
        rate = learning_rate(
            step, self.parts.total_steps, spec.optimizer.learning_rate, spec.schedule
        )
        rates = set_learning_rates(self.optimizer, rate)
        # Dropout is a function of (seed, step, rank): resuming needs no generator state.
        torch.manual_seed(keyed_seed(spec.run.seed, "step", step, self.ranks.rank))
        outputs: list[dict[str, ObjectiveOutput]] = []
        total_loss = torch.zeros((), device=self.ranks.device)
        for number, micro_batch in enumerate(micro_batches):
            batch = micro_batch.to(self.ranks.device)
            # Gradients are exchanged once a step, with the last micro-batch.
            with self._no_sync(number + 1 < len(micro_batches)):
                with autocast(spec.train.precision, self.ranks.device, training=True):
                    output = self.module(batch)
                # Sums over the number of targets in the whole global batch, not a mean of means;
                # DDP divides by the number of ranks, which is undone here.
                loss = (
                    self.ranks.world_size
                    * torch.stack(
                        [
                            self.weights[name] * result.loss_sum / num_targets[name]
                            for name, result in output.items()
                        ]
                    ).sum()
                )
                torch.autograd.backward(self.scaler.scale(loss))
            total_loss += loss.detach()
            self.book.update(batch, output)
            outputs.append(output)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, spec.train.gradient_clip or float("inf"))
        # The host waits for the GPU here, once a step, so that no bad step reaches the weights.
        # Ranks share the norm but not the loss: they agree before any of them acts.
        is_bad = not torch.isfinite(norm + total_loss)
        if self.ranks.sum([float(is_bad)])[0]:
            self._not_finite(micro_batches, outputs)
        else:
            self.skipped_steps = 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return rates, float(norm)

    def _next(
        self, micro_batches: Iterator[MicroBatch], request: StopRequest
    ) -> tuple[list[MicroBatch], dict[str, float], int]:
        """Fetch a step's micro-batches; count targets over all ranks; agree whether to go on.

        Returns:
            The micro-batches, the number of targets by objective, and a signal or 0.
        """
        batches: list[MicroBatch] = []
        error: Exception | None = None
        try:
            batches = [next(micro_batches) for _ in range(self.parts.plan.grad_accum_steps)]
        # Raised on every rank after the exchange, so that no rank waits for this one.
        except Exception as caught:
            error = caught
        names = list(self.objectives)
        bad = [message for batch in batches for message in batch.bad_samples]
        counts = [sum(_num_targets(b, name) for b in batches) for name in names]
        totals = self.ranks.sum([*counts, len(bad), float(error is not None)])
        # The largest signal number that any rank got.
        signals = self.ranks.sum(_one_hot(request.signal))
        if totals[-1]:
            self.ranks.on_all_ranks(lambda: _raise(error))
        self.after_step.report_bad_samples(bad)
        self.state.num_bad_samples += int(totals[-2])
        limit = self.spec.data.max_bad_samples
        if self.state.num_bad_samples > limit:
            raise DataError(
                f"step {self.state.step + 1}: {self.state.num_bad_samples} records could not be "
                f"read so far, more than data.max_bad_samples = {limit}; mend the data or raise it"
            )
        # A step without targets (no masked word at all) has a loss of 0, not of 0 / 0.
        num_targets = {name: max(1.0, totals[i]) for i, name in enumerate(names)}
        return batches, num_targets, max((s for s, n in enumerate(signals) if n), default=0)

    def _not_finite(
        self, micro_batches: list[MicroBatch], outputs: list[dict[str, ObjectiveOutput]]
    ) -> None:
        # fp16's scaler skips such a step and lowers its scale: no error unless it goes on.
        self.skipped_steps += 1
        if self.scaler.is_enabled() and self.skipped_steps <= MAX_SKIPPED_STEPS:
            return
        stop_not_finite(
            self.spec.folder,
            self.parts.network,
            self.state,
            self.after_step.info.spec_text,
            self.ranks,
            micro_batches,
            outputs,
        )
        raise RunError(f"step {self.state.step + 1}: not finite")

    def _loader(self) -> MicroBatchLoader:
        plan = self.parts.plan
        order = TrainingOrder(
            plan,
            self.ranks.rank,
            self.parts.stream(),
            start=self.state.position,
            stop=self.parts.total_steps * plan.global_batch_size,
        )
        return MicroBatchLoader(
            self.parts.train, order, self.spec.data.num_workers, self.ranks.device
        )

    def _no_sync(self, active: bool) -> Any:
        if active and isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()


def _wrap(network: nn.Module, ranks: Ranks) -> nn.Module:
    if ranks.world_size == 1:
        return network
    # Only batch norm has buffers that change; every rank must keep the same.
    has_statistics = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    # torch 2.13 renamed the option; 2.11 knows the old name only.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: has_statistics}
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **options)


def _num_targets(batch: MicroBatch, name: str) -> int:
    objective = batch.objectives.get(name)
    return 0 if objective is None else objective.num_targets


def _one_hot(signal_number: int) -> list[float]:
    return [float(number == signal_number and number > 0) for number in range(32)]


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
