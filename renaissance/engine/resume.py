"""Resume a run: refuse what cannot be right, and say what else has changed since the checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import torch

from renaissance.engine.agreement import ABSENT, shown
from renaissance.engine.checkpoint import TrainState, load_spec_tables, load_verified
from renaissance.engine.run_parts import RunParts
from renaissance.errors import CheckpointError
from renaissance.spec.sections import ResolvedSpec
from renaissance.spec.write import record_tables, settings

# Where a run is, what it started from, what it keeps of images, and who follows it make no
# difference to what it computes.
FREE = (
    *("run.name", "run.output_dir", "run.resume", "monitors", "model.init_", "data.cache"),
    *("train.step_timeout", "train.parallel"),
)
# A component of another type gives other meanings to the same parameters or state.
FIXED = ("model.", "objectives.", "optimizer.")
# Of a model, only dropout may change, and where it came from, since that is not read again. Any
# other key, such as the number of heads, makes another model, even if all shapes are equal.
FREE_OF_MODEL = ("checkpoint", "random_init")
AVERAGE = "train.ema"

# Of the surroundings: with other samples, or other words for the same ids, training is another.
SAMPLES = ("training samples", "vocabulary")


def resume(
    checkpoint: Path,
    parts: RunParts,
    optimizer: torch.optim.Optimizer | None,
    scaler: torch.amp.GradScaler | None,
    surroundings: Mapping[str, str],
) -> tuple[TrainState, list[str]]:
    """Load a checkpoint of the same run, whose files have been compared with its manifest.

    Args:
        checkpoint: The checkpoint.
        parts: The parts of the run.
        optimizer: Its optimizer; None to check alone whether the run can go on.
        scaler: fp16's gradient scaler; None likewise.
        surroundings: What it depends on besides the spec; see `engine.agreement`.

    Returns:
        How far the run is, and what has changed since, one line each.

    Raises:
        CheckpointError: If the checkpoint is damaged, or a change cannot be right.
    """
    changes = _changes_since(checkpoint, parts.spec)
    _refuse_other_types(checkpoint, changes)
    state = load_verified(checkpoint, parts.network, optimizer)
    _refuse_other_samples(checkpoint, state, parts, surroundings)
    changes |= _changes(state.surroundings, surroundings) if state.surroundings else {}
    state.surroundings = dict(surroundings)
    # Without a state, the run had another precision until now.
    if scaler is not None and scaler.is_enabled() and state.scaler:
        scaler.load_state_dict(state.scaler)
    return state, [
        f"{name}: {before}, now {now}{_note(name)}" for name, (before, now) in changes.items()
    ]


def _note(name: str) -> str:
    is_read_once = name == "data.tokenizer" or _is_source(name)
    return " (not read again: the run keeps its own)" if is_read_once else ""


def _is_source(name: str) -> bool:
    """Return whether a setting says where a model came from."""
    return name.startswith("model.") and name.rpartition(".")[2] in FREE_OF_MODEL


def _changes_since(checkpoint: Path, spec: ResolvedSpec) -> dict[str, tuple[str, str]]:
    """Return the settings that were different when a checkpoint was saved: before and now."""
    before, now = (
        {path: str(value) for path, value in settings(tables)}
        for tables in (load_spec_tables(checkpoint), record_tables(spec))
    )
    changes = _changes(before, now)
    return {name: values for name, values in changes.items() if not name.startswith(FREE)}


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        name: (shown(before.get(name)), shown(now.get(name)))
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    }


def _refuse_other_types(checkpoint: Path, changes: Mapping[str, tuple[str, str]]) -> None:
    for name, (before, now) in changes.items():
        key = name.rpartition(".")[2]
        # A key that only a later version has: its default is what the run had.
        is_new = before == ABSENT and ".config." not in name
        is_free = "drop" in key or _is_source(name) or is_new
        is_model = name.startswith("model.") and not is_free
        # What an average began with is not in a checkpoint without one.
        is_average = name == AVERAGE and ABSENT in (before, now)
        if is_model or is_average or (name.startswith(FIXED) and key == "type"):
            raise CheckpointError(
                f"{checkpoint}: the run had {name} = {before}, now it is {now}, which does not fit "
                f"what was trained so far. {_remedy(checkpoint)}"
            )


def _refuse_other_samples(
    checkpoint: Path, state: TrainState, parts: RunParts, surroundings: Mapping[str, str]
) -> None:
    size = parts.plan.global_batch_size
    before: dict[str, object] = {
        "seed": state.seed,
        "number of samples": state.num_samples,
        "sampling weights": state.sampling_weights,
        **{name: state.surroundings.get(name, surroundings[name]) for name in SAMPLES},
        "train.global_batch_size": state.position // state.step if state.step else size,
    }
    now: dict[str, object] = {
        "seed": parts.spec.run.seed,
        "number of samples": parts.num_samples,
        "sampling weights": parts.stream().weights,
        **{name: surroundings[name] for name in SAMPLES},
        "train.global_batch_size": size,
    }
    for name, value in now.items():
        if before[name] != value:
            raise CheckpointError(
                f"{checkpoint}: the run had {name} = {before[name]}, now it is {value}; the "
                "order and the meaning of the remaining samples depend on it. "
                f"{_remedy(checkpoint)}"
            )


def _remedy(checkpoint: Path) -> str:
    return f"Restore it, or choose another run.name and model.init_from = '{checkpoint}'"
