"""The training loop. It names no component, and is the only place that calls backward."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing

import attrs
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from renaissance.contracts.objective import ObjectiveOutput
from renaissance.data.loader import MicroBatchLoader, StoppedWaitingError
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.order import TrainingOrder
from renaissance.data.workers import count_workers
from renaissance.engine.after_step import AfterStep
from renaissance.engine.agreement import probe_keys
from renaissance.engine.bf16_copies import bf16_copies
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.data_parallel import clip, exchange, gradient_norm, wrap
from renaissance.engine.device_copies import copier
from renaissance.engine.distributed import Ranks
from renaissance.engine.guard import NUM_UNREAD, GuardedStep, StepGuard
from renaissance.engine.messages import say
from renaissance.engine.metrics import MetricBook, weighted_loss
from renaissance.engine.nonfinite import stop_not_finite
from renaissance.engine.optim import learning_rate, set_learning_rates, trainable_parameters
from renaissance.engine.precision import autocast, training_kernels
from renaissance.engine.run_parts import RunParts
from renaissance.engine.signals import StopRequest, largest_signal
from renaissance.engine.whole_batch import compare_whole_batch
from renaissance.errors import DataError
from renaissance.randomness import keyed_seed

# fp16's scaler halves its scale at each overflow; this many in a row mean that scaling cannot help.
MAX_SKIPPED_STEPS = 25


class Loop:
    """Runs optimizer steps from `state.step` to `parts.total_steps`.

    Args:
        parts: The parts of the run; `parts.network` on its device.
        ranks: The processes of the run.
        optimizer: Of the network's trainable parameters.
        scaler: fp16's gradient scaler, disabled for other precisions.
        state: How far the run is; updated after each step.
        after_step: Logs, evaluates and saves after a step, when due.
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
        self.parts, self.spec, self.ranks = parts, parts.spec, ranks
        self.optimizer, self.scaler = optimizer, scaler
        self.state, self.after_step = state, after_step
        self.module = wrap(parts.network, ranks.world_size, self.spec.train.gradient_compression)
        self.copy = copier(ranks.device)
        self.copies = bf16_copies(parts.network, parts.spec.train)
        self.parameters = trainable_parameters(parts.network)
        self.objectives = parts.network.learning_objectives()
        # fp16 skips steps and goes on, for which an optimizer must be as if it had never seen them.
        waits = scaler.is_enabled() or not StepGuard.fits(optimizer)
        self.guard = None if waits else StepGuard(optimizer, ranks.device)
        self.book = MetricBook(self.objectives, self.spec.loss_weights, ranks.device)
        self.after_step.restore(state, self.book)
        self.skipped_steps = 0

    def run(self) -> int:
        """Train to the end, or until a signal.

        Returns:
            The signal that stopped the run, or 0 if it finished.

        Raises:
            RunError: If a loss or gradient is not finite.
            DataError: If a record cannot be read.
        """
        with (
            StopRequest() as request,
            closing(self._micro_batches(request)) as micro_batches,
        ):
            self._lay_out_buckets()
            while self.state.step < self.parts.total_steps and not self.after_step.gives_up:
                with self.after_step.watch.step(self.state.step + 1):
                    stop = self._iterate(micro_batches, request)
                if stop:
                    return stop
        return 0

    def _lay_out_buckets(self) -> None:
        """Let DDP lay out its buckets before the first step, with gradients that are not used.

        It does so after its first backward, in the order in which gradients come. The order in
        which more than two ranks add up, and so the rounding, depends on the layout: a run that
        resumes must not begin with another one than it would have had.
        """
        if self.ranks.world_size < 3 or not isinstance(self.module, DistributedDataParallel):
            return
        train, device = self.parts.train, self.ranks.device
        probe = self.ranks.on_all_ranks(lambda: train[probe_keys(train)]).to(device)
        precision = self.spec.train.precision
        buffers = {n: b.clone() for n, b in self.parts.network.running_buffers().items()}
        with self.copies.in_use(), training_kernels(device):
            with autocast(precision, device):
                output = self.module(probe)
            targets = dict.fromkeys(self.objectives, 1.0)
            torch.autograd.backward(weighted_loss(output, targets, self.spec.loss_weights))
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.parts.network.running_buffers().items():
            buffer.copy_(buffers[name])

    def _iterate(self, micro_batches: Iterator[MicroBatch], request: StopRequest) -> int:
        """Do one step, and what is due after it; returns the signal to stop at, or 0."""
        started = time.perf_counter()
        batches, num_targets, stop = self._next(micro_batches, request)
        if stop:
            # The step's micro-batches are dropped; a resumed run reads them again.
            self.after_step.save(self.state, self.book)
            return stop
        waited = time.perf_counter() - started
        rates, norm = self._step(batches, num_targets)
        self.state.step += 1
        self.state.position += self.parts.plan.global_batch_size
        if self.after_step.is_due(self.state.step):
            # Nothing is logged, measured or saved of a step that was not finite.
            self._check_steps()
        try:
            self.after_step(self.state, self.book, rates, norm, waited, request)
        except StoppedWaitingError:
            # A resumed run repeats the evaluation. Saved already, unless the disk was full.
            self.after_step.save(self.state, self.book)
            return largest_signal(self.ranks.sum(request.one_hot()))
        return 0

    def _step(
        self, micro_batches: list[MicroBatch], num_targets: Mapping[str, float]
    ) -> tuple[Mapping[str, float], Tensor]:
        """One optimizer step; returns the learning rates and the gradient's norm, on the device."""
        step, spec, device = self.state.step, self.spec, self.ranks.device
        peak = spec.optimizer.learning_rate
        rate = learning_rate(step, self.parts.total_steps, peak, spec.schedule)
        rates = set_learning_rates(self.optimizer, rate)
        # Dropout is a function of the seed and of these: resuming needs no generator state.
        place = (step, self.ranks.rank)
        seeds = [keyed_seed(spec.run.seed, "step", *place, i) for i in range(len(micro_batches))]
        self.copies.refresh()
        micro_batches = compare_whole_batch(
            self.parts.network, micro_batches, seeds, spec.train.precision, device, self.copies
        )
        outputs: list[dict[str, ObjectiveOutput]] = []
        buffers = self._buffers()
        for index, micro_batch in enumerate(micro_batches):
            batch = self.copy(micro_batch)
            torch.manual_seed(seeds[index])
            # Gradients add up in place; ranks exchange them once per step, with the last.
            is_last = index + 1 == len(micro_batches)
            with (
                self.copies.in_use(),
                exchange(self.module, is_last),
                training_kernels(device),
            ):
                with autocast(spec.train.precision, device):
                    output = self.module(batch)
                loss = weighted_loss(output, num_targets, spec.loss_weights)
                # Exchanging divides by the number of ranks; num_targets counts those of all ranks.
                scaled = self.scaler.scale(self.ranks.world_size * loss)
                # A loss that is not finite may have a gradient that is. This makes it NaN, so that
                # all ranks see it in the norm, without reading or exchanging any loss.
                weight = torch.where(loss.detach().isfinite(), 1.0, torch.nan)
                torch.autograd.backward(scaled, weight.to(scaled.dtype))
            self.book.update(batch, output)
            outputs.append(_detached(output))
        # Unscaled first, so that the norm that is logged and clipped is the true gradient's.
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters)
        if spec.train.gradient_clip is not None:
            clip(self.parameters, spec.train.gradient_clip, norm)
        done = GuardedStep(attrs.evolve(self.state), micro_batches, outputs)
        # All ranks have the same gradient and norm, so each decides as the others do.
        if self.guard is not None:
            self.guard.step(norm, done)
        elif not norm.isfinite():
            self._not_finite(done)
            self._skip(buffers)
        else:
            self.skipped_steps = 0
            # Not `scaler.step`: an optimizer that heeds the scaler itself may skip only the update
            # of the parameters, and keep a state that it has not initialized (SGD's momentum).
            self.optimizer.step()
            self.scaler.update()
        # Set to None, not to zero: the next backward then writes instead of adding.
        self.optimizer.zero_grad(set_to_none=True)
        return rates, norm

    def _next(
        self, micro_batches: Iterator[MicroBatch], request: StopRequest
    ) -> tuple[list[MicroBatch], dict[str, float], int]:
        """Fetch a step's micro-batches; count targets over all ranks; agree on whether to stop.

        Returns:
            The micro-batches, the number of targets by objective, and the signal to stop at or 0.
        """
        self._check_steps(NUM_UNREAD)
        batches: list[MicroBatch] = []
        error: Exception | None = None
        try:
            batches = [next(micro_batches) for _ in range(self.parts.plan.grad_accum_steps)]
        except StoppedWaitingError:
            pass  # The request says why.
        # Raised on all ranks after the exchange below, so that no rank waits for this one.
        except Exception as caught:
            error = caught
        names = list(self.objectives)
        bad = {i: text for batch in batches for i, text in batch.bad_samples.items()}
        counts = [sum(batch.num_targets(name) for batch in batches) for name in names]
        is_written = self.after_step.saving.is_written
        own = [*counts, len(bad), float(error is not None), float(is_written)]
        totals = self.ranks.sum([*own, *request.one_hot()])
        *_, num_bad, num_errors, num_written = totals[: len(own)]
        stop = largest_signal(totals[len(own) :])
        if num_errors or num_bad or stop:
            # What follows may save, and a step that was not finite was before it.
            self._check_steps()
        if num_written == self.after_step.saving.num_writers:
            self.after_step.saving.settle()
        if num_errors:
            self.after_step.save(self.state, self.book, must=False)
            self.ranks.on_all_ranks(lambda: _raise(error))
        if num_bad:
            self._count_bad_samples(bad)
        # Without targets (no word was masked) the loss is 0 rather than 0 / 0.
        num_targets = {name: max(1.0, total) for name, total in zip(names, totals, strict=False)}
        return batches, num_targets, stop

    def _count_bad_samples(self, messages: Mapping[int, str]) -> None:
        """Report the records that this rank has left out for the first time; limit their number."""
        known = set(self.state.bad_samples)
        for index, message in messages.items():
            if index not in known:
                say(f"left out (rank {self.ranks.rank}): {message}")
        self.state.bad_samples = sorted(known | self.ranks.union(messages))
        count, limit = len(self.state.bad_samples), self.spec.data.max_bad_samples
        if count > limit:
            self.after_step.save(self.state, self.book, must=False)
            raise DataError(
                f"step {self.state.step + 1}: {count} records could not be read so far, more than "
                f"data.max_bad_samples = {limit}; fix the data or raise it. The same command "
                "resumes from here"
            )

    def _check_steps(self, num_unread: int = 0) -> None:
        """Stop if a step was not finite, other than the last ones, which are not awaited."""
        bad = None if self.guard is None else self.guard.first_bad(num_unread)
        if bad is not None:
            self._not_finite(bad)

    def _not_finite(self, bad: GuardedStep) -> None:
        # fp16's scaler skips such a step and lowers its scale, so the first few are not errors.
        self.skipped_steps += 1
        if self.scaler.is_enabled() and self.skipped_steps <= MAX_SKIPPED_STEPS:
            return
        stop_not_finite(
            self.spec.folder,
            self.parts.network,
            bad.state,
            self.after_step.info.spec_text,
            self.ranks,
            bad.micro_batches,
            bad.outputs,
        )

    def _buffers(self) -> dict[str, Tensor]:
        """Return copies of what forward may change, where a step may be skipped after it."""
        if not self.scaler.is_enabled():
            return {}
        buffers = self.parts.network.running_buffers()
        return {name: buffer.clone() for name, buffer in buffers.items()}

    def _skip(self, buffers: Mapping[str, Tensor]) -> None:
        """Leave everything as it was before the step, but lower the scale."""
        for name, buffer in self.parts.network.running_buffers().items():
            buffer.copy_(buffers[name])
        scale = self.scaler.get_scale()
        self.scaler.update()
        # The scaler looks at gradients only; if just the loss overflowed, it has done nothing.
        self.scaler.update(scale * self.scaler.get_backoff_factor())

    def _micro_batches(self, request: StopRequest) -> Generator[MicroBatch]:
        plan = self.parts.plan
        order = TrainingOrder(
            plan,
            self.ranks.rank,
            self.parts.stream(),
            start=self.state.position,
            stop=self.parts.total_steps * plan.global_batch_size,
        )
        yield from MicroBatchLoader(
            self.parts.train,
            order,
            count_workers(self.spec.data.num_workers),
            self.ranks.device,
            is_stopping=request.is_made,
        )


def _detached(outputs: Mapping[str, ObjectiveOutput]) -> dict[str, ObjectiveOutput]:
    """Return outputs that keep no graph, and nothing but losses, in memory."""
    return {name: ObjectiveOutput(output.loss_sum.detach()) for name, output in outputs.items()}


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
