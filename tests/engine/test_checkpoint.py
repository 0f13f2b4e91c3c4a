"""Checkpoints: whole or not at all, verified before they are read, and loaded strictly."""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from support.full_disk import full_disk
from support.kills import is_killed
from torch import Tensor, nn

from renaissance import CheckpointError
from renaissance.engine import writing
from renaissance.engine.checkpoint import (
    TrainState,
    load_checkpoint,
    load_spec_tables,
    save_checkpoint,
    take_snapshot,
)
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.tensors import read_tensors, write_tensors
from renaissance.engine.writing import write_snapshot
from renaissance.files import remove

FILES = ["model.safetensors", "optimizer.safetensors", "spec.toml", "state.json"]


class Network(nn.Module):
    """A model and the head of an objective, named as in the engine."""

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


def trained(network: Network, num_steps: int = 2) -> torch.optim.Optimizer:
    """Train a network for some steps; return its optimizer."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    for step in range(num_steps):
        states = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        network(states).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def saved(folder: Path, network: Network | None = None, step: int = 2) -> Path:
    """Write a checkpoint of a trained network."""
    network = network or Network()
    optimizer = trained(network)
    path = folder / f"step-{step:08d}"
    return save_checkpoint(path, network, optimizer, TrainState(step=step), "[run]\n")


def test_what_is_saved_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    network = Network()
    optimizer = trained(network)
    state = TrainState(
        step=2,
        position=16,
        num_samples=50,
        seed=7,
        sampling_weights=[1.0, 3.0],
        bad_samples=[3, 11],
        best=0.25,
        scaler={"scale": 8.0},
    )
    folder = save_checkpoint(tmp_path / "step-00000002", network, optimizer, state, "[run]\n")
    other = Network()
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.1)
    assert load_checkpoint(folder, other, other_optimizer) == state
    assert (folder / "spec.toml").read_text() == "[run]\n"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    # One more step, which depends on moments and step counts, is the same too.
    for each, its_optimizer in ((network, optimizer), (other, other_optimizer)):
        each(torch.ones(1, 3)).sum().backward()
        its_optimizer.step()
    assert all(
        torch.equal(one, two)
        for one, two in zip(network.parameters(), other.parameters(), strict=True)
    )


def test_the_manifest_lists_every_file_with_its_digest(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest) == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])
    for name, entry in manifest.items():
        data = (folder / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_tensors_are_written_as_safetensors_writes_them(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype)
        for name, shape, dtype in (
            ("b.half", (3, 5), torch.bfloat16),
            ("a.flag", (7,), torch.bool),
            ("step", (), torch.float32),
            ("empty", (0, 4), torch.float16),
            ("ids", (2, 2), torch.int64),
            ("bytes", (9,), torch.uint8),
            ("ä", (1,), torch.float64),
            # More than is hashed at once.
            ("long", (5_000_000,), torch.float32),
        )
    }
    for metadata in ({}, {"optimizer": "AdamW"}):
        digest = write_tensors(tmp_path / "ours", tensors, metadata)
        assert digest == hashlib.sha256((tmp_path / "ours").read_bytes()).hexdigest()
        loaded = load_file(tmp_path / "ours")
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)
        save_file(tensors, tmp_path / "theirs", metadata or None)
        sizes = [(tmp_path / name).stat().st_size for name in ("ours", "theirs")]
        assert abs(sizes[0] - sizes[1]) < 200  # Their headers differ in spaces.
        with safe_open(tmp_path / "ours", "pt") as file:
            assert (file.metadata() or {}) == metadata
    with pytest.raises(SafetensorError, match=r"odd: safetensors has no torch\.complex128"):
        write_tensors(tmp_path / "ours", {"odd": torch.zeros(1, dtype=torch.complex128)}, {})


def test_training_on_does_not_change_what_is_being_saved(tmp_path: Path) -> None:
    network = Network(tied=True)
    optimizer = trained(network)
    expected = save_checkpoint(tmp_path / "a", network, optimizer, TrainState(step=2), "[run]\n")
    state = TrainState(step=2)
    snapshot = take_snapshot(network, optimizer, state, "[run]\n")
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state.bad_samples.append(7)
    actual = write_snapshot(tmp_path / "b", snapshot)
    for name in [*FILES, "manifest.json"]:
        assert (actual / name).read_bytes() == (expected / name).read_bytes(), name


def test_a_full_disk_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    first = saved(tmp_path / "checkpoints")

    def no_room(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "sha256_of", no_room)
    with pytest.raises(CheckpointError) as caught:
        saved(tmp_path / "checkpoints", step=4)
    assert str(caught.value) == (
        f"{tmp_path}/checkpoints/step-00000004: cannot write the checkpoint: [Errno 28] No space "
        "left on device; free space or change run.output_dir"
    )
    assert run.checkpoints() == [first]
    monkeypatch.undo()
    # The next attempt starts over, and what was left behind is removed.
    second = saved(tmp_path / "checkpoints", step=4)
    run.keep(5)
    assert sorted((tmp_path / "checkpoints").iterdir()) == [first, second]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    old, new = Network(), Network()
    folder = saved(tmp_path, old)
    (folder / "more").write_text("")
    assert saved(tmp_path, new) == folder
    assert not (folder / "more").exists()
    loaded = Network()
    load_checkpoint(folder, loaded, None)
    assert torch.equal(loaded.model[0].weight, new.model[0].weight)
    assert not torch.equal(loaded.model[0].weight, old.model[0].weight)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (Path.unlink, "missing"),
        (cut_short, "bytes with another digest"),
        (flip_a_bit, "bytes with another digest"),
    ],
)
def test_damage_is_found_and_the_file_named(
    tmp_path: Path, name: str, damage: Callable[[Path], None], text: str
) -> None:
    folder = saved(tmp_path)
    size = (folder / name).stat().st_size
    damage(folder / name)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, Network(), None)
    message = str(caught.value)
    assert message.startswith(f"{folder}/{name}: damaged: ")
    assert text in message
    assert message.endswith(
        f"expected {size} bytes; restore it from a copy, or use another checkpoint"
    )


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"step-00000002: no readable manifest.json: "):
        load_checkpoint(folder, Network(), None)


def test_bytes_that_are_not_a_manifest(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    for content in (b"", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 6_000 + b"}"):
        (folder / "manifest.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"step-00000002: no readable manifest.json: "):
            load_checkpoint(folder, Network(), None)


ENTRY = {"size": 3, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: {}, "model.safetensors: missing; state.json: missing; "),
        (lambda _: [], "model.safetensors: missing; "),
        (lambda _: None, "model.safetensors: missing; "),
        (lambda _: 3, "model.safetensors: missing; "),
        (lambda m: {**m, "model.safetensors": None}, "'model.safetensors': got None;"),
        (lambda m: {**m, "state.json": []}, "'state.json': got [];"),
        (lambda m: {**m, "state.json": {"size": 3}}, "'state.json': got {'size': 3};"),
        (lambda m: {**m, "state.json": {**ENTRY, "size": True}}, "'state.json': got {'size': Tr"),
        (lambda m: {**m, "state.json": {**ENTRY, "size": 10**400}}, "'state.json': got {'size': 1"),
        (lambda m: {**m, "state.json": {**ENTRY, "sha256": ["0"]}}, "'state.json': got {'size': 3"),
        (lambda m: {**m, "../other": ENTRY}, "'../other': not a file of a checkpoint;"),
        (lambda m: {**m, "x" * 10**5: ENTRY}, f"'{'x' * 76}...: not a file of a checkpoint;"),
        *(
            (lambda m, name=name: {k: v for k, v in m.items() if k != name}, f"{name}: missing;")
            for name in FILES
        ),
    ],
)
def test_a_manifest_names_exactly_the_files_of_a_checkpoint(
    tmp_path: Path, change: Callable[[Any], Any], expected: str
) -> None:
    folder = saved(tmp_path)
    path = folder / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, Network(), None)
    message = str(caught.value)
    assert message.startswith(f"{path}: malformed: {expected}")
    assert message.endswith(
        "; expected size and sha256 of model.safetensors, state.json, spec.toml, "
        "optimizer.safetensors; restore it from a copy, or use another checkpoint"
    )
    assert len(message) < 1000


def test_a_checkpoint_without_the_optimizer_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000002"
    save_checkpoint(folder, Network(), None, TrainState(step=2), "")
    assert load_checkpoint(folder, Network(), None).step == 2


def rewritten(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, and its entry in the manifest."""
    (folder / name).write_bytes(content)
    path = folder / "manifest.json"
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps({**json.loads(path.read_text()), name: entry}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "cannot be read as JSON: "),
        (b"[" * 100_000, "cannot be read as JSON: "),
        (b"\xff", "cannot be read as JSON: "),
        (b"[]", "malformed: step: got None, expected an integer; position: "),
        (b'{"step": "2"}', "malformed: step: got '2', expected an integer; position: "),
    ],
)
def test_a_state_that_fits_its_manifest_but_makes_no_sense(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    folder = saved(tmp_path)
    rewritten(folder, "state.json", content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, Network(), None)
    assert str(caught.value).startswith(f"{folder}/state.json: {expected}")


@pytest.mark.parametrize("content", [b"[", b"\xff", b"a = " + b"[" * 100_000])
def test_a_spec_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    folder = saved(tmp_path)
    rewritten(folder, "spec.toml", content)
    with pytest.raises(CheckpointError, match=r"spec.toml: cannot be read as TOML: "):
        load_spec_tables(folder)


def test_an_optimizer_state_that_does_not_say_whose_it_is(tmp_path: Path) -> None:
    network = Network()
    folder = saved(tmp_path, network)
    save_file({"model.0.weight/step": torch.ones(1)}, tmp_path / "anonymous")
    rewritten(folder, "optimizer.safetensors", (tmp_path / "anonymous").read_bytes())
    with pytest.raises(CheckpointError, match="this is the state of an unknown optimizer, but"):
        load_checkpoint(folder, network, trained(network))


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
            "model.3.bias: missing; model.4.weight: missing; and 3 more.",
        ),
    ],
)
def test_a_checkpoint_of_another_model_names_the_first_tensors(
    tmp_path: Path, device: str, other: dict[str, int], expected: str
) -> None:
    folder = saved(tmp_path)
    network = Network(**other).to(device)
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, network, None)
    assert str(caught.value) == (
        f"{folder} is a checkpoint of another model: {expected} Use the spec.toml in that folder, "
        "or another run.name for a new run"
    )
    # Nothing was loaded.
    if device == "cpu":
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    network = Network(tied=True)
    folder = saved(tmp_path, network)
    tensors = read_tensors(folder / "model.safetensors")
    assert {"model.0.weight", "model.1.weight"} - set(tensors) == {"model.1.weight"}
    other = Network(tied=True)
    load_checkpoint(folder, other, None)
    assert torch.equal(other.model[1].weight, network.model[0].weight)
    assert other.model[1].weight is other.model[0].weight
    # A model that does not tie them lacks one.
    with pytest.raises(CheckpointError, match=r"another model: model\.1\.weight: missing\."):
        load_checkpoint(folder, Network(), None)


def test_optimizer_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    network = Network()
    network.model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, network, optimizer)
    assert str(caught.value) == (
        f"{folder}/optimizer.safetensors: the parameters with optimizer state are not those that "
        "are trained now: model.0.bias; model.0.weight; freeze the same modules and "
        "train the same objectives as the run that is resumed"
    )


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    network = Network()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, network, torch.optim.SGD(network.parameters(), momentum=0.9))
    assert str(caught.value) == (
        f"{folder}/optimizer.safetensors: this is the state of AdamW, but the run now trains with "
        "SGD; restore optimizer.type, or choose another run.name and model.init_from = "
        f"'{folder}'"
    )


def test_an_optimizer_that_keeps_no_state_is_resumed(tmp_path: Path) -> None:
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    folder = save_checkpoint(tmp_path / "step-00000001", network, optimizer, TrainState(1), "")
    other = Network()
    assert load_checkpoint(folder, other, torch.optim.SGD(other.parameters(), lr=0.1)).step == 1
    assert torch.equal(other.model[0].weight, network.model[0].weight)


def test_a_checkpoint_that_is_saved_again_is_never_lost(tmp_path: Path) -> None:
    network = Network()
    for operation in itertools.count():
        run = RunFolder(tmp_path / str(operation))
        folder = saved(run.path / "checkpoints", network)
        if not is_killed(run.path, operation, lambda: saved(folder.parent, network)):  # noqa: B023
            break
        run.create()
        run.restore()
        assert run.checkpoints() == [folder]
        assert load_checkpoint(folder, Network(), None).step == 2
        run.keep(1)
        assert list(folder.parent.iterdir()) == [folder]
    assert operation > 10


def test_a_checkpoint_that_is_half_deleted_does_not_count(tmp_path: Path) -> None:
    network = Network()
    for operation in itertools.count():
        run = RunFolder(tmp_path / str(operation))
        for step in (2, 4):
            saved(run.path / "checkpoints", network, step)
        killed = is_killed(run.path, operation, lambda: run.keep(1))  # noqa: B023
        for folder in run.checkpoints():
            load_checkpoint(folder, Network(), None)
        assert run.last == run.checkpoint(4)
        if not killed:
            break
    assert operation > 3


@pytest.mark.parametrize("num_bytes", [0, 100, 700])
def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path, num_bytes: int) -> None:
    before = saved(tmp_path, step=1)
    with full_disk(num_bytes), pytest.raises(CheckpointError) as caught:
        saved(tmp_path, step=2)
    assert str(caught.value).startswith(f"{tmp_path}/step-00000002: cannot write the checkpoint: ")
    assert "too large" in str(caught.value)
    assert list(tmp_path.iterdir()) == [before]


@pytest.mark.parametrize("name", ["step-00000002", ".step-00000002.partial"])
def test_a_file_or_link_where_a_checkpoint_is_written(tmp_path: Path, name: str) -> None:
    other = saved(tmp_path / "other")
    for make in (lambda path: path.write_text(""), lambda path: path.symlink_to(other)):
        remove(tmp_path / name)
        make(tmp_path / name)
        folder = saved(tmp_path)
        assert folder.is_dir()
        assert not folder.is_symlink()
        load_checkpoint(folder, Network(), None)
    load_checkpoint(other, Network(), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "step-00000002"]
