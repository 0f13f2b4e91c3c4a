"""Rank 0 decides what a run resumes from, and gives it to the other ranks.

Nodes need not share a disk: only rank 0 reads checkpoints. The others get the small files of the
run folder, and then parameters and optimizer state, through the process group.
"""

import base64
import contextlib
import json
import platform
import secrets
import tempfile
from collections.abc import Iterator

import attrs
import torch

from renaissance.engine.checkpoint import TrainState
from renaissance.engine.distributed import Ranks
from renaissance.engine.manifest import MANIFEST, SPEC
from renaissance.engine.messages import say
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.optimizer_state import optimizer_tensors, set_optimizer_tensors
from renaissance.engine.run_folder import RunFolder, step_of
from renaissance.engine.tensors import without_aliases
from renaissance.errors import SpecError
from renaissance.files import remove
from renaissance.spec.sections import RunSpec


def kept_spec(spec: RunSpec, ranks: Ranks, stack: contextlib.ExitStack) -> RunSpec:
    """Return the spec to build the run with: its folder holds what rank 0's run folder keeps.

    Every rank must call it. On rank 0 it is the spec itself. On another, the folder is a temporary
    one with copies of what building needs, so that all ranks build what rank 0 builds.

    Args:
        spec: The run spec.
        ranks: The processes of the run.
        stack: The temporary folder is deleted when it is closed.

    Raises:
        SpecError: On every rank, if another node has a later checkpoint in a folder of its own, or
            has a folder of its own and checkpoints are in shards.
    """
    if ranks.world_size == 1:
        return spec
    apart = _check_others(RunFolder(spec.folder), ranks)
    if apart and spec.train.parallel == "fsdp":
        raise SpecError(
            f"train.parallel: 'fsdp', but {spec.folder} on rank 0 is not shared with {apart}, and "
            "each rank writes a part of a checkpoint; choose a run.output_dir on a disk that all "
            "nodes share, or use 'ddp'"
        )
    if apart and spec.train.parallel == "auto":
        spec = attrs.evolve(spec, train=attrs.evolve(spec.train, parallel="ddp"))
    sent = ranks.from_main(lambda: json.dumps(dict(_small_files(RunFolder(spec.folder)))))
    return ranks.on_all_ranks(lambda: spec if ranks.is_main else _copied(spec, sent, stack))


def give_state(
    network: MultiObjective,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: TrainState,
    ranks: Ranks,
) -> TrainState:
    """Give every rank the parameters, buffers, optimizer state and progress of rank 0.

    Args:
        network: Model and objectives.
        optimizer: Its optimizer; that of another rank than 0 has no state yet.
        scaler: fp16's gradient scaler.
        state: How far the run is, as rank 0 knows.
        ranks: The processes of the run; every one must call it.

    Returns:
        How far the run is.
    """
    state = TrainState(**json.loads(ranks.from_main(lambda: json.dumps(attrs.asdict(state)))))
    if scaler.is_enabled() and state.scaler:
        scaler.load_state_dict(state.scaler)
    if network.is_sharded:
        return state
    ranks.copy_from_main(without_aliases(network.state_dict()).values())
    tensors = optimizer_tensors(network, optimizer)
    forms = {name: (list(t.shape), str(t.dtype)) for name, t in tensors.items()}
    forms = json.loads(ranks.from_main(lambda: json.dumps(forms)))
    if not ranks.is_main:
        empty = {
            name: torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            for name, (shape, dtype) in forms.items()
        }
        set_optimizer_tensors(network, optimizer, empty)
        tensors = optimizer_tensors(network, optimizer)
    # In rank 0's order.
    ranks.copy_from_main(tensors[name] for name in forms)
    return state


def _copied(spec: RunSpec, sent: str, stack: contextlib.ExitStack) -> RunSpec:
    """Return the spec with a temporary folder, in which the files are that rank 0 has sent."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="renaissance-"))
    copied = attrs.evolve(spec, run=attrs.evolve(spec.run, output_dir=folder))
    for name, content in json.loads(sent).items():
        path = copied.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    return copied


def _check_others(folder: RunFolder, ranks: Ranks) -> str:
    """Return the nodes that do not share rank 0's run folder.

    They must not be further than rank 0.
    """
    path = folder.path / ranks.from_main(lambda: _leave_token(folder))
    mine = ranks.on_all_ranks(
        lambda: json.dumps([platform.node(), path.exists(), _last_step(folder)])
    )
    (main_node, _, main_step), *others = map(json.loads, ranks.gather_text(mine))
    if ranks.is_main:
        remove(path)
    apart = [(rank, *other) for rank, other in enumerate(others, 1) if not other[1]]
    for rank, node, _, step in apart:
        if step > main_step:
            has = f"one of step {main_step}" if main_step >= 0 else "none"
            raise SpecError(
                f"run.output_dir: rank {rank} ({node}) has a checkpoint of step {step} in "
                f"{folder.path}, but rank 0 ({main_node}), which decides, has {has} and does not "
                f"share that folder. Start with {node} as the first node, copy the checkpoint to "
                f"{main_node}, or delete it"
            )
    nodes = ", ".join(dict.fromkeys(node for _, node, *_ in apart))
    if apart and ranks.is_main:
        say(
            f"{folder.path} is not shared with {nodes}: checkpoints and figures are written by "
            f"rank 0 ({main_node}) alone, which must be the first node again when the run resumes"
        )
    return nodes


def _leave_token(folder: RunFolder) -> str:
    token = f".shared-{secrets.token_hex(8)}"
    (folder.path / token).touch()
    return token


def _last_step(folder: RunFolder) -> int:
    """Return the step of the last checkpoint, or -1."""
    checkpoints = folder.checkpoints()
    return step_of(checkpoints[-1]) if checkpoints else -1


def _small_files(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """Yield name and content of what `engine.run_parts.build` reads of a run that has begun."""
    last = folder.last
    if last is None:
        return
    paths = [folder.classes, folder.tokenizer_digest, last / SPEC, last / MANIFEST]
    for kept in (folder.tokenizer, folder.encoders):
        paths += sorted(kept.rglob("*"))
    for path in paths:
        if path.is_file():
            name = path.relative_to(folder.path).as_posix()
            yield name, base64.b64encode(path.read_bytes()).decode()
