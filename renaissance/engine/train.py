"""Train a run from its spec: build, resume, loop, say how it ended."""

import os
import signal
from pathlib import Path

import torch
from rich.console import Console

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.contracts.monitor import RunInfo
from renaissance.engine.after_step import AfterStep
from renaissance.engine.checkpoint import TrainState, list_checkpoints, load_checkpoint
from renaissance.engine.distributed import Ranks
from renaissance.engine.init_from import may_keep_encoder, start_from
from renaissance.engine.loop import Loop
from renaissance.engine.optim import make_optimizer
from renaissance.engine.precision import autocast
from renaissance.engine.run_parts import RunParts, build
from renaissance.engine.unused import freeze_unused_parameters
from renaissance.errors import CheckpointError, RenaissanceError, SpecError
from renaissance.plugins.loading import Plugins
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import spec_tables, spec_to_toml

# Enough to give every objective something to do.
NUM_PROBE_SAMPLES = 4


def train(spec: RunSpec, plugins: Plugins) -> int:
    """Train, on every rank of the run.

    Returns:
        Exit code: 0, or 128 plus the signal that stopped the run.

    Raises:
        RenaissanceError: The same, or an echo of it, on every rank.
    """
    ranks = Ranks(spec.train.device)
    try:
        return _train(spec, plugins, ranks)
    finally:
        ranks.close()


def _train(spec: RunSpec, plugins: Plugins, ranks: Ranks) -> int:
    ranks.on_all_ranks(lambda: _prepare_folder(spec, ranks))
    checkpoints = list_checkpoints(spec.folder / "checkpoints")
    last = checkpoints[-1] if checkpoints else None
    load_weights = last is None and (spec.model.init_from is None or may_keep_encoder(spec.model))
    parts = ranks.on_all_ranks(lambda: build(spec, plugins, ranks.world_size, load_weights))
    network = parts.network.to(ranks.device)
    if spec.train.gradient_checkpointing:
        _enable_gradient_checkpointing(parts)
    if last is None and spec.model.init_from is not None:
        start = ranks.on_all_ranks(lambda: start_from(spec, network))
        if ranks.is_main:
            Console(highlight=False, soft_wrap=True).print(start.table())
    probe = ranks.on_all_ranks(lambda: parts.train[_probe_request(parts)])
    with autocast(spec.train.precision, ranks.device):
        unread = freeze_unused_parameters(network, probe, ranks)
    optimizer = make_optimizer(network, spec.optimizer)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=spec.train.precision == "fp16")
    state = TrainState(
        num_samples=parts.num_samples, seed=spec.run.seed, weights=parts.stream().weights
    )
    if last is not None:
        checkpoint = last
        state = ranks.on_all_ranks(lambda: _resume(checkpoint, parts, optimizer, scaler))
    if spec.train.compile:
        _compile(parts)
    info = RunInfo(
        spec=spec_tables(spec),
        spec_text=spec_to_toml(spec),
        folder=spec.folder,
        rank=ranks.rank,
        world_size=ranks.world_size,
        start_step=state.step,
        total_steps=parts.total_steps,
        samples_per_epoch=parts.num_samples,
        batch_plan=str(parts.plan),
        unused_parameters=tuple(unread),
    )
    return _loop(parts, ranks, info, optimizer, scaler, state)


def _loop(
    parts: RunParts,
    ranks: Ranks,
    info: RunInfo,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: TrainState,
) -> int:
    hook = parts.plugins.manager.hook
    if ranks.is_main:
        (info.folder / "spec.toml").write_text(info.spec_text)
    hook.run_started(run=info)
    after_step = AfterStep(parts, ranks, info, optimizer, scaler)
    reason = "failed"
    stopped_by = 0
    try:
        stopped_by = Loop(parts, ranks, optimizer, scaler, state, after_step).run()
        reason = f"stopped by {signal.Signals(stopped_by).name}" if stopped_by else "finished"
    except RenaissanceError as error:
        error.exit_code = 1  # A run was under way.
        raise
    finally:
        if ranks.is_main:
            summary = {"step": state.step, "metrics": dict(after_step.last_evaluation)}
            hook.run_finished(run=info, reason=reason, summary=summary)
    return 128 + stopped_by if stopped_by else 0


def _prepare_folder(spec: RunSpec, ranks: Ranks) -> None:
    if not ranks.is_main:
        return
    checkpoints = spec.folder / "checkpoints"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"run.output_dir: cannot create {spec.folder}: {error}; choose a writable folder"
        ) from error
    if not os.access(checkpoints, os.W_OK):
        raise SpecError(f"run.output_dir: {spec.folder} is not writable; choose a writable folder")
    if spec.run.resume == "never" and list_checkpoints(checkpoints):
        raise SpecError(
            f"run.resume: 'never', but {spec.folder} holds checkpoints of an earlier run; "
            "choose another run.name, delete the folder, or set run.resume = 'auto'"
        )


def _resume(
    folder: Path,
    parts: RunParts,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> TrainState:
    state = load_checkpoint(folder, parts.network, optimizer)
    expected = {
        "seed": parts.spec.run.seed,
        "num_samples": parts.num_samples,
        "weights": parts.stream().weights,
    }
    for name, value in expected.items():
        found = getattr(state, name)
        if found != value:
            raise CheckpointError(
                f"{folder}: the run had {name} = {found}, now it is {value}; which samples are "
                "still to come depends on it. Restore it, or choose another run.name and "
                f"model.init_from = '{folder}'"
            )
    if state.position != state.step * parts.plan.global_batch_size:
        raise CheckpointError(
            f"{folder}: {state.step} steps took {state.position} samples, but "
            f"train.global_batch_size is now {parts.plan.global_batch_size}; restore it, or choose "
            f"another run.name and model.init_from = '{folder}'"
        )
    if scaler.is_enabled():
        scaler.load_state_dict(state.scaler)
    return state


def _probe_request(parts: RunParts) -> list[tuple[int, int]]:
    """Return a few samples of each dataset, so that every objective has some."""
    request: list[tuple[int, int]] = []
    start = 0
    for length in parts.train.datasets.lengths:
        request += [(0, start + place) for place in range(min(NUM_PROBE_SAMPLES, length))]
        start += length
    return request


def _enable_gradient_checkpointing(parts: RunParts) -> None:
    for name, part in parts.network.model.parts().items():
        if isinstance(part, Encoder | Fusion):
            try:
                part.enable_gradient_checkpointing()
            except ValueError as error:
                raise SpecError(f"train.gradient_checkpointing: model.{name}: {error}") from error


def _compile(parts: RunParts) -> None:
    # Text lengths differ from one micro-batch to the next: dynamic shapes spare recompilation.
    for part in parts.network.model.parts().values():
        for method in ("encode_text", "encode_image", "encode_joint", "fuse"):
            if hasattr(part, method):
                setattr(part, method, torch.compile(getattr(part, method), dynamic=True))
