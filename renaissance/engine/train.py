"""Train a run from its spec: build, resume, loop, report how it ended."""

import contextlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch

from renaissance.contracts.monitor import RunInfo
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.tokenizer import tokenizer_sha256
from renaissance.engine.after_step import AfterStep
from renaissance.engine.agreement import check_agreement, surroundings
from renaissance.engine.cache_needs import cache_needs
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.compiling import compile_layers
from renaissance.engine.distributed import Ranks
from renaissance.engine.gathering import layers_are_called
from renaissance.engine.image_cache import with_cache
from renaissance.engine.init_from import initialize, may_keep_encoder
from renaissance.engine.loop import Loop
from renaissance.engine.manifest import verify
from renaissance.engine.messages import say
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.observers import Observers
from renaissance.engine.optim import make_optimizer
from renaissance.engine.parallelism import check_sharding, settled_parallel, with_parallel
from renaissance.engine.precision import autocast, set_tf32
from renaissance.engine.rank_zero import give_state, kept_spec
from renaissance.engine.record import record_parts
from renaissance.engine.resume import resume
from renaissance.engine.run_folder import RunFolder, step_of
from renaissance.engine.run_parts import RunParts, build
from renaissance.engine.saving import Saving
from renaissance.engine.starting import enable_gradient_checkpointing, read_probe
from renaissance.engine.tensors import without_aliases
from renaissance.engine.unused import freeze_unused_parameters
from renaissance.errors import RenaissanceError, SpecError
from renaissance.files import locked
from renaissance.plugins.loading import Plugins
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import record_tables, tables_to_toml

# Seconds for which a run waits for the one that had its folder before.
LOCK_PATIENCE = 10.0


def train(spec: RunSpec, plugins: Plugins) -> int:
    """Train, on every rank of the run.

    Args:
        spec: The run spec.
        plugins: The plugins, whose lifecycle hooks are called.

    Returns:
        Exit code: 0, or 128 plus the signal that stopped the run.

    Raises:
        RenaissanceError: On every rank, if any rank fails.
    """
    ranks = Ranks(spec.train.device)
    with contextlib.ExitStack() as stack:
        stack.callback(ranks.close)
        ranks.on_all_ranks(lambda: _enter_folder(spec, ranks, stack))
        set_tf32(spec.train.tf32, ranks.device)
        return _train(spec, kept_spec(spec, ranks, stack), plugins, ranks)


def _train(spec: RunSpec, kept: RunSpec, plugins: Plugins, ranks: Ranks) -> int:
    last = RunFolder(kept.folder).last
    init_from = spec.model.init_from
    # Reading pretrained parameters takes a while; a checkpoint may replace all of them, and the
    # other ranks get those of rank 0.
    is_new = last is None and (init_from is None or may_keep_encoder(spec.model))
    load_weights = is_new and ranks.is_main
    parts = ranks.on_all_ranks(lambda: build(kept, ranks.world_size, load_weights))
    parts = attrs.evolve(parts, spec=attrs.evolve(parts.spec, run=spec.run))
    network = parts.network.to(ranks.device)
    if last is None and init_from is not None:
        ranks.on_all_ranks(lambda: _initialize(network, init_from, spec) if ranks.is_main else None)
    probe = ranks.on_all_ranks(lambda: read_probe(parts))
    check_agreement(parts, probe, plugins, ranks)
    parts = _shared(parts, probe, ranks)
    with autocast(parts.spec.train.precision, ranks.device), layers_are_called():
        unused = freeze_unused_parameters(network, probe, ranks)
    optimizer = make_optimizer(network, spec.optimizer)
    average = network.average
    if average is not None:
        optimizer.register_step_post_hook(lambda *_: average.update(network))
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=parts.spec.train.precision == "fp16")
    found = surroundings(parts, probe)
    state = TrainState(
        num_samples=parts.num_samples,
        seed=spec.run.seed,
        sampling_weights=parts.stream().weights,
        surroundings=found,
    )
    changes: list[str] = []
    if last is not None:
        # What another rank than 0 has of it may be a copy of a few files.
        checkpoint = RunFolder(spec.folder).checkpoint(step_of(last))
        reads = ranks.is_main or network.is_sharded
        ranks.on_all_ranks(lambda: verify(checkpoint) if ranks.is_main else None)
        state, changes = ranks.on_all_ranks(
            lambda: (
                _resume(checkpoint, parts, optimizer, scaler, found, ranks.is_main)
                if reads
                else (state, changes)
            )
        )
    state = give_state(network, optimizer, scaler, state, ranks)
    # After loading: what is kept of images may depend on the parameters of a frozen encoder.
    parts = ranks.on_all_ranks(lambda: _with_cache(parts, ranks.is_main))
    # After the probe, which runs in evaluation mode and would be compiled for nothing.
    if spec.train.compile:
        compile_layers(parts.network.model.parts().values(), "inductor")
    monitors = ranks.on_all_ranks(
        lambda: [monitor.build() for monitor in spec.monitors] if ranks.is_main else []
    )
    observers = Observers(monitors, plugins.manager.hook)
    info = _run_info(parts, ranks, state, unused)
    replaced = last if changes else None
    ranks.on_all_ranks(
        lambda: record_parts(parts, info.spec_text, replaced) if ranks.is_main else None
    )
    return _loop(parts, ranks, info, observers, optimizer, scaler, state)


def _shared(parts: RunParts, probe: MicroBatch, ranks: Ranks) -> RunParts:
    """Settle how ranks share the network, and shard it if they do."""
    # Before memory is estimated.
    enable_gradient_checkpointing(parts)
    num_shards = ranks.mesh_shape()[-1]
    parallel = ranks.from_main(lambda: settled_parallel(parts, probe, num_shards))
    parts = with_parallel(parts, parallel)
    if parallel == "fsdp" and ranks.world_size > 1:
        ranks.on_all_ranks(lambda: check_sharding(parts))
        ranks.copy_from_main(without_aliases(parts.network.state_dict()).values())
        # It takes a second to import, which other runs need not wait for.
        from renaissance.engine.sharding import shard

        shard(parts.network, parts.spec.train, ranks)
    return parts


def _initialize(network: MultiObjective, source: str, spec: RunSpec) -> None:
    say("\n".join(initialize(network, source, spec).lines()))


def _resume(
    checkpoint: Path,
    parts: RunParts,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    found: Mapping[str, str],
    is_main: bool,
) -> tuple[TrainState, list[str]]:
    """Resume, and say on rank 0 what has changed."""
    folder = parts.spec.folder
    RunFolder(folder).check_tokenizer(tokenizer_sha256(parts.tokenizer))
    state, changes = resume(checkpoint, parts, optimizer, scaler, found)
    if changes and is_main:
        say("\n  ".join([f"changed since step {state.step} of {folder}:", *changes]))
    if state.step >= parts.total_steps and is_main:
        say(_how_to_go_on(folder, state.step, parts.total_steps))
    return state, changes


def _with_cache(parts: RunParts, is_main: bool) -> RunParts:
    """Let the run use its cache, and say on rank 0 where its images do not fit."""
    cached = with_cache(parts)
    needs = cache_needs(parts) if is_main else None
    for warning in () if needs is None else needs.warnings:
        say(f"warning: {warning}")
    return cached


def _run_info(parts: RunParts, ranks: Ranks, state: TrainState, unused: Sequence[str]) -> RunInfo:
    tables = record_tables(parts.spec)
    return RunInfo(
        spec=tables,
        spec_text=tables_to_toml(tables),
        folder=parts.spec.folder,
        rank=ranks.rank,
        world_size=ranks.world_size,
        start_step=state.step,
        total_steps=parts.total_steps,
        samples_per_epoch=parts.num_samples,
        batch_plan=str(parts.plan),
        unused_parameters=tuple(unused),
    )


def _loop(
    parts: RunParts,
    ranks: Ranks,
    info: RunInfo,
    observers: Observers,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: TrainState,
) -> int:
    ranks.on_all_ranks(lambda: observers.run_started(info))
    saving = Saving(parts, ranks, info, observers, optimizer, scaler)
    after_step = AfterStep(parts, ranks, info, observers, saving)
    reason = "failed"
    stopped_by = 0
    with after_step.watch:
        try:
            after_step.resume(state)
            stopped_by = Loop(parts, ranks, optimizer, scaler, state, after_step).run()
            reason = f"stopped by {signal.Signals(stopped_by).name}" if stopped_by else "finished"
        except RenaissanceError as error:
            error.exit_code = 1  # A run was under way.
            raise
        finally:
            after_step.close()
            if ranks.is_main:
                summary = {"step": state.step, "metrics": dict(after_step.last_evaluation)}
                observers.run_finished(info, reason, summary)
    return 128 + stopped_by if stopped_by else 0


def _how_to_go_on(folder: Path, step: int, total_steps: int) -> str:
    return (
        f"{folder} is finished: {step} of {total_steps} steps are done, so nothing is trained. To "
        f"train it further, set train.max_steps above {step} (or train.max_epochs accordingly); to "
        f"train anew, choose another run.name; to evaluate it: renaissance evaluate {folder}"
    )


def _enter_folder(spec: RunSpec, ranks: Ranks, stack: contextlib.ExitStack) -> None:
    """Create the run folder, and keep other runs out of it until the stack is closed."""
    if not ranks.is_main:
        return
    folder = RunFolder(spec.folder)
    folder.create()
    busy = SpecError(
        f"run.name: another process is training in {spec.folder}; expected one at a time. Wait "
        "until it has ended, or choose another run.name"
    )
    # A rank that was killed goes on holding its lock until the system has taken it apart.
    stack.enter_context(locked(folder.lock, busy, LOCK_PATIENCE))
    folder.restore()
    folder.check_resume(spec.run.resume)
    for message in folder.set_aside_damaged():
        print(message, flush=True)
