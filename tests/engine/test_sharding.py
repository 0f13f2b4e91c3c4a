"""Sharded runs: as with DDP, and their checkpoints with any number of ranks.

Run under torchrun, this file is one rank, which trains with tied parameters or compiled layers.
"""

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from support.asserting import assert_refused, assert_same_figures
from support.command_line import renaissance
from support.killing import kill_tree
from support.running import (
    TINY,
    environment,
    one_tower_spec,
    run_here,
    torchrun_command,
    write_spec,
)
from support.two_ranks import LAUNCHER, on_ranks, on_two_ranks
from torch import nn

from renaissance.builtin.fusions.stack import StackedFusion
from renaissance.engine import compiling, run_parts, saving
from renaissance.engine import train as engine_train
from renaissance.engine.after_step import AfterStep
from renaissance.engine.checkpoint import load_model_tensors
from renaissance.engine.distributed import Ranks
from renaissance.engine.manifest import model_sha256, verify
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.snapshot import Snapshot
from renaissance.engine.writing import write_part
from renaissance.errors import CheckpointError, DataError, SpecError
from renaissance.inference.loading import load

# Two layers in each tower and three in the fusion, so that some are gathered by themselves.
DEEP = TINY.replace("num_hidden_layers = 1", "num_hidden_layers = 2")
DEEP = DEEP.replace("num_layers = 2", "num_layers = 3")
ITC = '[[objectives]]\ntype = "itc"\nprojection_size = 8\ncandidates = "global"\n\n'
WITH_ITC = DEEP.replace("[optimizer]", f"{ITC}[optimizer]")
SGD = ("optimizer.type=sgd", "optimizer.learning_rate=0.05")
EVERY_4 = ("checkpoint.every_steps=4", "checkpoint.keep_last=100")
LORA = 'model.image_encoder.adapt={type="lora", rank=2}'
FROZEN = "model.image_encoder.frozen=true"
CASES = {
    "accumulation": (DEEP, (*SGD, "train.micro_batch_size=1", "train.gradient_clip=0.5")),
    "adamw": (WITH_ITC, ()),
    "global candidates": (WITH_ITC, (*SGD, "train.micro_batch_size=1", "train.ema=0.9")),
    "lxmert": (DEEP.replace("co-attention", "lxmert"), (*SGD, FROZEN)),
    "merged-attention": (
        DEEP.replace("co-attention", "merged-attention"),
        (*SGD, "train.ema=0.9", "optimizer.layer_decay=0.8"),
    ),
    "cross-attention": (
        DEEP.replace("co-attention", "cross-attention"),
        (*SGD, "model.text_encoder.frozen=all but 1", "train.gradient_checkpointing=all"),
    ),
    "one tower": (one_tower_spec(), SGD),
    # No layer has a gradient of its own.
    "heads alone": (
        WITH_ITC.replace("num_layers = 3", "num_layers = 1"),
        (*SGD, FROZEN, "model.text_encoder.frozen=true"),
    ),
    "adapters": (DEEP, (*SGD, LORA)),
}


def last(folder: Path) -> Path:
    checkpoint = RunFolder(folder / "tiny").last
    assert checkpoint is not None
    return checkpoint


def assert_equal_runs(ours: Path, theirs: Path, tolerance: float) -> None:
    assert_same_figures(ours / "tiny", theirs / "tiny", tolerance)
    assert_close(load_model_tensors(last(ours)), load_model_tensors(last(theirs)), tolerance)


def assert_close(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float
) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], atol=tolerance, rtol=tolerance, msg=f"{name} differs"
        )


def train(folder: Path, name: str, text: str, *settings: str) -> list[str]:
    spec = write_spec(folder / name, text)
    return ["train", str(spec), f"run.output_dir={folder / name}", *settings]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what two ranks have trained: the same run with DDP and sharded."""
    folder = tmp_path_factory.mktemp("sharded")
    settings = (*SGD, *EVERY_4, "train.micro_batch_size=2", "train.max_steps=8")
    settings += ("evaluate.every_steps=8",)
    commands = [
        train(folder, name, WITH_ITC, f"train.parallel={name}", *settings)
        for name in ("ddp", "fsdp")
    ]
    on_two_ranks(folder, commands)
    return folder


def stopped_at_4(folder: Path, name: str, source: str) -> list[str]:
    """Return the settings that resume a copy of a run from step 4."""
    shutil.copytree(folder / source, folder / name, symlinks=True)
    shutil.rmtree(folder / name / "tiny/checkpoints/step-00000008")
    (folder / name / "tiny/checkpoints/best").unlink()
    return [*SGD, *EVERY_4, "train.max_steps=8", "evaluate.every_steps=8"]


def test_a_sharded_run_is_as_one_with_ddp(folder: Path) -> None:
    assert_equal_runs(folder / "ddp", folder / "fsdp", 1e-6)
    names = {path.name for path in last(folder / "fsdp").iterdir()}
    shards = {f"{k}-0000{i}-of-00002.safetensors" for k in ("model", "optimizer") for i in (1, 2)}
    assert names == shards | {"index.json", "manifest.json", "spec.toml", "state.json"}
    sizes = [(last(folder / "fsdp") / name).stat().st_size for name in sorted(shards)]
    # Each rank has about half.
    assert all(a < 1.5 * b and b < 1.5 * a for a, b in (sizes[:2], sizes[2:]))
    assert 'parallel = "fsdp"' in (folder / "fsdp/tiny/spec.toml").read_text()


def test_one_process_resumes_a_sharded_run(folder: Path) -> None:
    settings = stopped_at_4(folder, "resumed here", "fsdp")
    spec = folder / "resumed here/run.toml"
    assert run_here(spec, folder / "resumed here", "train.micro_batch_size=2", *settings) == 0
    assert_equal_runs(folder / "ddp", folder / "resumed here", 1e-5)
    assert (last(folder / "resumed here") / "model.safetensors").exists()


def test_check_resumes_from_a_sharded_checkpoint(folder: Path) -> None:
    spec, output_dir = str(folder / "fsdp/run.toml"), f"run.output_dir={folder / 'fsdp'}"
    printed = renaissance("check", spec, output_dir, *SGD, "train.max_steps=9").out
    assert f"weights: resumes from {last(folder / 'fsdp')}, step 8" in printed
    # How ranks share the network changes nothing that is worth saying.
    assert "train.parallel" not in printed


def test_a_sharded_checkpoint_is_loaded_whole(folder: Path) -> None:
    whole, sharded = (load(folder / name / "tiny") for name in ("ddp", "fsdp"))
    ours, theirs = (model.network.state_dict() for model in (whole, sharded))
    assert_close(ours, theirs, 1e-6)
    assert model_sha256(sharded.checkpoint) != model_sha256(whole.checkpoint)


def test_an_export_of_a_sharded_run_is_one_file(folder: Path) -> None:
    exported = folder / "exported"
    finished = renaissance("export", str(folder / "fsdp/tiny"), "--output", str(exported))
    assert finished.code == 0, finished.err
    assert (exported / "model.safetensors").exists()
    assert_close(
        load_model_tensors(exported), load_model_tensors(last(folder / "fsdp")), tolerance=0
    )


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "index.json"])
def test_damage_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(last(folder / "fsdp"), tmp_path / "bent")
    data = bytearray((tmp_path / "bent" / name).read_bytes())
    data[-3] ^= 1
    (tmp_path / "bent" / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name}: damaged"):
        verify(tmp_path / "bent")
    (tmp_path / "bent" / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: damaged: missing"):
        verify(tmp_path / "bent")
    manifest = json.loads((tmp_path / "bent/manifest.json").read_text())
    del manifest[name]
    (tmp_path / "bent/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"manifest.json: malformed: {name}: missing"):
        verify(tmp_path / "bent")


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        (["train.precision=fp16"], ["train.parallel: 'fsdp' does not scale gradients"]),
        (["data.cache=tokens", FROZEN], ["train.parallel: with 'fsdp', all ranks compute"]),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    tmp_path: Path, settings: list[str], texts: list[str]
) -> None:
    spec = str(write_spec(tmp_path))
    assert_refused(renaissance("check", spec, "train.parallel=fsdp", *settings), *texts)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_every_sharded_run_is_as_one_with_ddp(tmp_path: Path, num_ranks: int) -> None:
    settings = ("train.max_steps=20", "evaluate.every_steps=10")
    commands = [
        train(tmp_path / name, parallel, text, *settings, *more, f"train.parallel={parallel}")
        for name, (text, more) in CASES.items()
        for parallel in ("ddp", "fsdp")
    ]
    on_ranks(num_ranks, tmp_path, commands, timeout=1800)
    for name in CASES:
        ours, theirs = tmp_path / name / "ddp", tmp_path / name / "fsdp"
        assert_same_figures(ours / "tiny", theirs / "tiny", 1e-6)
        # A contrast multiplies rounding by its scale. What has no gradient but rounding, as the
        # bias of keys has, Adam moves as far as anything else.
        if name != "adamw":
            tolerance = 5e-6 if name == "global candidates" else 1e-6
            assert_close(*(load_model_tensors(last(run)) for run in (ours, theirs)), tolerance)


@pytest.mark.slow
def test_a_sharded_run_resumes_on_any_number_of_ranks(tmp_path: Path) -> None:
    settings = (*SGD, *EVERY_4, "train.max_steps=8", "evaluate.every_steps=8")
    runs = {
        name: train(tmp_path, name, WITH_ITC, *settings, f"train.parallel={name}")
        for name in ("ddp", "fsdp")
    }
    on_ranks(4, tmp_path, list(runs.values()))

    def resumed(name: str, source: str, parallel: str) -> list[str]:
        stopped_at_4(tmp_path, name, source)
        return [*runs[source][:2], f"run.output_dir={tmp_path / name}", *settings, parallel]

    sharded, whole = "train.parallel=fsdp", "train.parallel=ddp"
    on_ranks(
        2,
        tmp_path,
        [
            resumed("sharded on 2", "fsdp", sharded),
            resumed("whole on 2", "fsdp", whole),
            resumed("sharded after ddp", "ddp", sharded),
        ],
    )
    on_ranks(4, tmp_path, [resumed("sharded on 4", "fsdp", sharded)])
    expected = load_model_tensors(last(tmp_path / "fsdp"))
    for name in ("sharded on 2", "whole on 2", "sharded after ddp"):
        assert_close(expected, load_model_tensors(last(tmp_path / name)), 1e-6)
    assert_close(expected, load_model_tensors(last(tmp_path / "sharded on 4")), 0)
    assert (last(tmp_path / "sharded on 2") / "model-00002-of-00002.safetensors").exists()
    figures = [(tmp_path / n / "tiny/metrics.jsonl").read_text() for n in ("fsdp", "sharded on 4")]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_goes_on(tmp_path: Path) -> None:
    settings = ["checkpoint.every_steps=1", "checkpoint.keep_last=100", "evaluate.every_steps=500"]
    arguments = train(tmp_path, "killed", DEEP, *settings, "train.parallel=fsdp")
    command = torchrun_command(2, [*arguments, "train.max_steps=500", "schedule.decay=constant"])
    process = subprocess.Popen(
        command, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    checkpoints = tmp_path / "killed/tiny/checkpoints"
    deadline = time.monotonic() + 120
    while not (
        (checkpoints / "step-00000003/manifest.json").exists()
        and list(checkpoints.glob(".step-*.partial/model-*"))
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    kill_tree(process)
    before = last(tmp_path / "killed")
    verify(before)
    assert set(checkpoints.iterdir()) > set(RunFolder(tmp_path / "killed/tiny").checkpoints())
    stop = f"train.max_steps={int(before.name[-8:]) + 1}"
    printed = on_two_ranks(tmp_path, [[*arguments, "schedule.decay=constant", stop]])
    assert "resuming" in printed
    assert last(tmp_path / "killed").name > before.name
    # Nothing is left of the one that was not finished.
    assert not list(checkpoints.glob(".step-*"))


@pytest.mark.slow
def test_nodes_have_all_and_their_ranks_have_shards(tmp_path: Path) -> None:
    settings = (*SGD, "train.max_steps=4", "evaluate.every_steps=4")
    for port, name in ((29617, "ddp"), (29618, "fsdp")):
        arguments = train(tmp_path, name, WITH_ITC, *settings, f"train.parallel={name}")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        launcher += ["--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
        launcher += ["--master-port", str(port)]
        nodes = [
            subprocess.Popen(
                [*launcher, "--node-rank", str(node), "-m", "renaissance", *arguments],
                env=environment(),
                stdout=subprocess.DEVNULL,
            )
            for node in range(2)
        ]
        assert [node.wait(300) for node in nodes] == [0, 0]
    assert_equal_runs(tmp_path / "ddp", tmp_path / "fsdp", 1e-6)
    # One file for each rank of a node.
    assert len(list(last(tmp_path / "fsdp").glob("model-*"))) == 2


@pytest.mark.slow
def test_what_rounds_or_reads_whole_matrices_is_close_to_ddp(tmp_path: Path) -> None:
    more = {
        "bf16": (*SGD, "train.precision=bf16"),
        "compressed": (*SGD, "train.gradient_compression=bf16"),
        "muon": ("optimizer.type=muon",),
    }
    settings = ("train.max_steps=4", "evaluate.every_steps=4")
    on_two_ranks(
        tmp_path,
        [
            train(tmp_path / name, parallel, DEEP, *settings, *own, f"train.parallel={parallel}")
            for name, own in more.items()
            for parallel in ("ddp", "fsdp")
        ],
    )
    for name in more:
        assert_same_figures(tmp_path / name / "ddp/tiny", tmp_path / name / "fsdp/tiny", 3e-2)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_kept_in_shards(tmp_path: Path) -> None:
    command = train(tmp_path, "run", DEEP, "train.parallel=fsdp", "optimizer.learning_rate=1e30")
    finished = subprocess.run(
        torchrun_command(2, command),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 1
    assert "is not finite; samples" in finished.stderr
    [kept] = (tmp_path / "run/tiny").glob("nonfinite-step-*")
    assert load_model_tensors(kept)
    assert {f"rank{rank}-micro-batch0.safetensors" for rank in (0, 1)} < {
        path.name for path in kept.iterdir()
    }


EMBEDDINGS = "text_encoder.model.embeddings.word_embeddings.weight"
DECODER = "objectives.mlm.head.decoder.weight"


def run_this_file(what: str, folder: Path) -> None:
    finished = subprocess.run(
        [sys.executable, *LAUNCHER, __file__, what, str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
def test_compiled_layers_compute_the_same(tmp_path: Path) -> None:
    run_this_file("compiled", tmp_path)
    assert_equal_runs(tmp_path / "ddp", tmp_path / "fsdp", 1e-6)


@pytest.mark.slow
def test_what_goes_wrong_while_all_ranks_save(tmp_path: Path) -> None:
    run_this_file("trouble", tmp_path)
    # The evaluation after step 4 failed, which did not cost its checkpoint.
    assert last(tmp_path / "ddp").name == last(tmp_path / "fsdp").name == "step-00000004"
    # Rank 1 had no room for its part of step 4.
    checkpoints = tmp_path / "full/tiny/checkpoints"
    assert [path.name for path in sorted(checkpoints.glob("*step*"))] == ["step-00000008"]
    verify(last(tmp_path / "full"))


@pytest.mark.slow
def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    run_this_file("tied", tmp_path)
    whole, sharded = (load_model_tensors(last(tmp_path / name)) for name in ("ddp", "fsdp"))
    assert f"model.{EMBEDDINGS}" in sharded
    assert DECODER not in sharded
    assert_close(whole, sharded, 1e-6)


def with_tied_decoder(*arguments: Any, **more: Any) -> MultiObjective:
    network = BUILD(*arguments, **more)
    mlm = network.get_submodule("objectives.mlm.head.decoder")
    mlm.weight = network.model.get_parameter(EMBEDDINGS)
    return network


def train_tied(spec: Path, folder: Path, parallel: str) -> None:
    settings = (*SGD, *EVERY_4, "evaluate.every_steps=8", "schedule.decay=constant")
    with mock.patch.object(run_parts, "build_network", with_tied_decoder):
        for stop in ("train.max_steps=4", "train.max_steps=8"):
            run_here(spec, folder, *settings, f"train.parallel={parallel}", stop)


def train_in_trouble(spec: Path, folder: Path, parallel: str) -> None:
    settings = (*SGD, *EVERY_4, f"train.parallel={parallel}", "train.max_steps=8")
    failing = mock.Mock(side_effect=DataError("broken"))
    with mock.patch.object(AfterStep, "_is_best", failing), pytest.raises(DataError):
        run_here(spec, folder, *settings, "evaluate.every_steps=4")
    if parallel == "fsdp":
        with mock.patch.object(saving, "write_part", write_at_8_only):
            run_here(spec, folder.with_name("full"), *settings, "evaluate.every_steps=8")
        reads = mock.patch.object(StackedFusion, "_run", read_without_calling)
        with reads, pytest.raises(SpecError, match="reads the parameters of one without calling"):
            run_here(spec, folder.with_name("read"), *settings)


def read_without_calling(fusion: Any, layer: nn.Module, text: Any, *others: Any) -> Any:
    return text.states @ next(p for p in layer.parameters() if p.ndim == 2), None


def write_at_8_only(folder: Path, snapshot: Snapshot) -> dict[str, str]:
    if folder.name == "step-00000004" and dist.get_rank() == 1:
        raise CheckpointError("no room")
    return write_part(folder, snapshot)


def train_compiled(spec: Path, folder: Path, parallel: str) -> None:
    settings = (*SGD, "train.max_steps=2", "evaluate.every_steps=2", "train.compile=true")
    # Inductor would take minutes to make kernels.
    compile_layers = partial(compiling.compile_layers, backend="aot_eager")
    with mock.patch.object(engine_train, "compile_layers", lambda parts, _: compile_layers(parts)):
        run_here(spec, folder, *settings, f"train.parallel={parallel}")


if __name__ == "__main__":
    BUILD = run_parts.build_network
    ranks = Ranks("cpu")
    here = Path(sys.argv[2])
    path = write_spec(here / str(ranks.rank), DEEP)
    # A process group can be made only once with the same launcher.
    with mock.patch.object(Ranks, "close"):
        for name in ("ddp", "fsdp"):
            modes = {"tied": train_tied, "compiled": train_compiled, "trouble": train_in_trouble}
            modes[sys.argv[1]](path, here / name, name)
    ranks.barrier()
    ranks.close()
