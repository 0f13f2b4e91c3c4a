"""Checkpoints: whole or not at all, checked before they are read, strict about what they hold."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from renaissance import CheckpointError
from renaissance.engine import checkpoint
from renaissance.engine.checkpoint import (
    TrainState,
    find_checkpoint,
    keep_checkpoints,
    list_checkpoints,
    load_checkpoint,
    mark_best,
    save_checkpoint,
)

FILES = ["model.safetensors", "optimizer.safetensors", "spec.toml", "state.json"]


class MultiObjective(nn.Module):
    """A model and the head of an objective, as the engine has them."""

    def __init__(self, width: int = 3, depth: int = 2, tied: bool = False) -> None:
        super().__init__()
        layers = [nn.Linear(width, width) for _ in range(depth)]
        if tied:
            layers[-1].weight = layers[0].weight
        self.model = nn.Sequential(*layers)
        self.objectives = nn.ModuleDict({"itm": nn.Linear(width, 2)})

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.objectives["itm"](self.model(states))
        return logits


def trained(task: MultiObjective, num_steps: int = 2) -> torch.optim.Optimizer:
    """Train a task for some steps."""
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.1)
    for step in range(num_steps):
        states = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        task(states).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def saved(folder: Path, task: MultiObjective | None = None, step: int = 2) -> Path:
    """Write a checkpoint of a trained task."""
    task = task or MultiObjective()
    optimizer = trained(task)
    place = folder / f"step-{step:08d}"
    return save_checkpoint(place, task, optimizer, TrainState(step=step), "[run]\n")


def test_what_is_saved_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    task = MultiObjective()
    optimizer = trained(task)
    state = TrainState(2, 16, 50, 7, 1, 0.25, {"scale": 8.0})
    folder = save_checkpoint(tmp_path / "step-00000002", task, optimizer, state, "[run]\n")
    other = MultiObjective()
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.1)
    assert load_checkpoint(folder, other, other_optimizer) == state
    assert (folder / "spec.toml").read_text() == "[run]\n"
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    # One more step, which moments and step counts decide, is the same too.
    for each, its_optimizer in ((task, optimizer), (other, other_optimizer)):
        each(torch.ones(1, 3)).sum().backward()
        its_optimizer.step()
    assert all(
        torch.equal(one, two)
        for one, two in zip(task.parameters(), other.parameters(), strict=True)
    )


def test_the_manifest_lists_every_file_with_its_digest(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest) == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])
    for name, entry in manifest.items():
        data = (folder / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_a_full_disk_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = saved(tmp_path)

    def no_room(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sha256", no_room)
    with pytest.raises(CheckpointError) as caught:
        saved(tmp_path, step=4)
    assert str(caught.value) == (
        f"{tmp_path}/step-00000004: cannot write the checkpoint: [Errno 28] No space left on "
        "device; free space or change run.output_dir"
    )
    assert list_checkpoints(tmp_path) == [first]
    assert find_checkpoint(first, prefer_best=False) == first
    monkeypatch.undo()
    # The next attempt begins anew, and what was left behind goes.
    second = saved(tmp_path, step=4)
    keep_checkpoints(tmp_path, keep_last=5)
    assert sorted(tmp_path.iterdir()) == [first, second]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (Path.unlink, "missing"),
        (cut_short, "bytes with another checksum"),
        (flip_a_bit, "bytes with another checksum"),
    ],
)
def test_damage_is_found_and_the_file_named(
    tmp_path: Path, name: str, damage: Callable[[Path], None], found: str
) -> None:
    folder = saved(tmp_path)
    size = (folder / name).stat().st_size
    damage(folder / name)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, MultiObjective(), None)
    message = str(caught.value)
    assert message.startswith(f"{folder}/{name}: damaged: ")
    assert found in message
    assert message.endswith(
        f"expected {size} bytes; delete the folder {folder} to go on from the checkpoint before it"
    )


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"step-00000002: no readable manifest.json: "):
        load_checkpoint(folder, MultiObjective(), None)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"depth": 3}, "model.2.weight: missing; model.2.bias: missing."),
        ({"depth": 1}, "model.1.bias: not in this model; model.1.weight: not in this model."),
        (
            {"width": 4},
            "model.0.weight: shape (3, 3), this model has (4, 4); "
            "model.0.bias: shape (3,), this model has (4,); "
            "model.1.weight: shape (3, 3), this model has (4, 4); "
            "model.1.bias: shape (3,), this model has (4,); "
            "objectives.itm.weight: shape (2, 3), this model has (2, 4).",
        ),
        (
            {"depth": 6},
            "model.2.weight: missing; model.2.bias: missing; model.3.weight: missing; "
            "model.3.bias: missing; model.4.weight: missing and 3 more.",
        ),
    ],
)
def test_another_model_is_told_by_its_first_tensors(
    tmp_path: Path, device: str, other: dict[str, int], expected: str
) -> None:
    folder = saved(tmp_path)
    task = MultiObjective(**other).to(device)
    before = [parameter.clone() for parameter in task.parameters()]
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, task, None)
    assert str(caught.value) == (
        f"{folder} is a checkpoint of another model: {expected} Use the spec.toml in that folder, "
        "or another run.name for a new run"
    )
    # Nothing was loaded by half.
    if device == "cpu":
        assert all(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    task = MultiObjective(tied=True)
    folder = saved(tmp_path, task)
    tensors = checkpoint._read(folder / "model.safetensors")
    assert {"model.0.weight", "model.1.weight"} - set(tensors) == {"model.1.weight"}
    other = MultiObjective(tied=True)
    load_checkpoint(folder, other, None)
    assert torch.equal(other.model[1].weight, task.model[0].weight)
    assert other.model[1].weight is other.model[0].weight
    # A model that does not tie them lacks one.
    with pytest.raises(CheckpointError, match=r"another model: model\.1\.weight: missing\."):
        load_checkpoint(folder, MultiObjective(), None)


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    task = MultiObjective()
    task.model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, task, optimizer)
    assert str(caught.value) == (
        f"{folder}: the optimizer's state is of other trained parameters, first: model.0.bias, "
        "model.0.weight; frozen modules, objectives and the optimizer must be those of the run "
        "that is resumed"
    )


def test_checkpoints_are_found_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = run / "checkpoints"
    with pytest.raises(CheckpointError, match=r"run: no checkpoint there; expected a folder with"):
        find_checkpoint(run, prefer_best=True)
    steps = [100_000_000, 2, 30]
    folders = [saved(checkpoints, step=step) for step in steps]
    # No checkpoints: one that lacks its manifest, and names of another form.
    shutil.copytree(folders[1], checkpoints / "step-00000040")
    (checkpoints / "step-00000040/manifest.json").unlink()
    shutil.copytree(folders[1], checkpoints / "step-50")
    assert list_checkpoints(checkpoints) == [folders[1], folders[2], folders[0]]
    assert find_checkpoint(run, prefer_best=True) == folders[0]
    mark_best(folders[2])
    assert find_checkpoint(run, prefer_best=True) == folders[2]
    assert find_checkpoint(run, prefer_best=False) == folders[0]
    mark_best(folders[1])
    assert find_checkpoint(run, prefer_best=True) == folders[1]
    keep_checkpoints(checkpoints, keep_last=1)
    assert list_checkpoints(checkpoints) == [folders[1], folders[0]]
