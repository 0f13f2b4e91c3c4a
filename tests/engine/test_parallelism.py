"""Which of ddp and fsdp a run uses, and the memory of each."""

import re
from pathlib import Path

import pytest
from support.asserting import assert_refused
from support.command_line import renaissance
from support.running import TINY, write_spec

from renaissance.commands.check import build_on_meta
from renaissance.engine import parallelism
from renaissance.engine.estimate import Memory
from renaissance.engine.parallelism import choose_parallel, sharded_memory
from renaissance.engine.run_parts import RunParts
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

DEEP = TINY.replace("num_hidden_layers = 1", "num_hidden_layers = 2")
DEEP = DEEP.replace("num_layers = 2", "num_layers = 3")
LAYER = re.compile(r"model\.(?:text_encoder|image_encoder|fusion)\..*layers?\.(\d)\.")


def build(folder: Path, *settings: str) -> RunParts:
    spec = load_spec([str(write_spec(folder, DEEP)), *settings], load_plugins())
    return build_on_meta(spec, num_ranks=4)


def test_memory_of_a_shard(tmp_path: Path) -> None:
    parts = build(tmp_path, "model.image_encoder.frozen=true")
    sizes: dict[str, int] = {}
    trained: dict[str, int] = {}
    for name, parameter in parts.network.named_parameters():
        found = LAYER.match(name)
        is_last = name.startswith("model.fusion.layers.2.")
        unit = found[0] if found and not is_last else "root"
        sizes[unit] = sizes.get(unit, 0) + parameter.numel()
        trained[unit] = trained.get(unit, 0) + parameter.numel() * parameter.requires_grad
    assert len(sizes) == 7
    root, root_trained = sizes.pop("root"), trained.pop("root")
    total = root + sum(sizes.values())
    whole = Memory(4 * total, 4 * (root_trained + sum(trained.values())), 1000, 77)
    memory = sharded_memory(parts, whole, num_shards=4)
    assert memory.parameters == total + 4 * (root + sum(sorted(sizes.values())[-2:]))
    assert memory.gradients == whole.gradients // 4 + 4 * (root_trained + max(trained.values()))
    assert (memory.optimizer, memory.activations) == (250, 77)
    assert memory.evaluation == total + 250 + 4 * total


@pytest.mark.parametrize(
    ("available", "chosen", "reason"),
    [
        (None, "ddp", "there is no CUDA device here"),
        (10**12, "ddp", "ddp takes about 93.1 GiB of the 931.3 GiB of a GPU"),
        (99 * 10**9, "fsdp", "GiB of a GPU, fsdp about "),
        (10**3, "ddp", "; neither fits"),
    ],
)
def test_auto_shards_only_what_does_not_fit_otherwise(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: int | None,
    chosen: str,
    reason: str,
) -> None:
    monkeypatch.setattr(parallelism, "memory_of_device", lambda spec: available)
    whole = Memory(parameters=0, gradients=0, optimizer=10**11, activations=0)
    choice = choose_parallel(build(tmp_path), whole, num_shards=4)
    assert choice.parallel == chosen
    assert reason in choice.reason
    assert choice.memory.optimizer == (10**11 if chosen == "ddp" else 10**11 // 4)


def test_auto_does_not_choose_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallelism, "memory_of_device", lambda spec: 99 * 10**9)
    whole = Memory(parameters=0, gradients=0, optimizer=10**11, activations=0)
    choice = choose_parallel(build(tmp_path, "train.precision=fp16"), whole, num_shards=4)
    assert choice.parallel == "ddp"
    assert "but train.parallel: 'fsdp' needs another train.precision" in choice.reason


def test_check_prints_the_choice(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path, DEEP))
    printed = renaissance("check", spec, "--ranks", "2").out
    assert "parallel: ddp: there is no CUDA device here" in printed
    sharded = renaissance("check", spec, "--ranks", "2", "train.parallel=fsdp").out
    assert "parallel: fsdp: the run spec says so" in sharded
    assert "; in an evaluation, " in sharded
    assert "parallel: " not in renaissance("check", spec).out
    nodes = ["--nodes", "2", "--gpus", "2", "--tflops", "1"]
    assert "a step on 2 nodes" in renaissance("check", spec, *nodes).out
    printed = renaissance("check", spec, *nodes, "train.parallel=fsdp").out
    assert "no estimate of a step with fsdp, which exchanges parameters as well" in printed


def test_trained_batch_norms_are_not_sharded(tmp_path: Path) -> None:
    resnet = """
[model.image_encoder]
type = "hf-image"
architecture = "resnet"
[model.image_encoder.config]
embedding_size = 8
hidden_sizes = [8, 16]
depths = [1, 1]
layer_type = "basic"
"""
    start, end = TINY.index("[model.image_encoder]"), TINY.index("[model.fusion]")
    spec = str(write_spec(tmp_path, TINY[:start] + resnet + TINY[end:]))
    assert_refused(
        renaissance("check", spec, "--ranks", "2", "train.parallel=fsdp"),
        "train.parallel: 'fsdp' does not keep the statistics of batch norms equal on all ranks, "
        "and model.image_encoder has some; freeze it, choose an encoder without, or use 'ddp'",
    )
