"""Sharded runs: as with DDP, and their checkpoints with any number of ranks."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.asserting import assert_refused, assert_same_figures
from support.command_line import renaissance
from support.running import TINY, one_tower_spec, run_here, write_spec
from support.two_ranks import on_two_ranks

from renaissance.engine.checkpoint import load_model_tensors
from renaissance.engine.manifest import model_sha256, verify
from renaissance.engine.run_folder import RunFolder
from renaissance.errors import CheckpointError
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
    "global candidates": (WITH_ITC, (*SGD, "train.micro_batch_size=1")),
    "lxmert": (DEEP.replace("co-attention", "lxmert"), (*SGD, FROZEN)),
    "merged-attention": (
        DEEP.replace("co-attention", "merged-attention"),
        (*SGD, "train.ema=0.9", "optimizer.layer_decay=0.8"),
    ),
    "cross-attention": (
        DEEP.replace("co-attention", "cross-attention"),
        (*SGD, "model.text_encoder.frozen=all but 1", "train.gradient_checkpointing=true"),
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
    """Return what two ranks have trained: the same run with DDP and sharded, and the latter again.

    The run that is resumed stops at a checkpoint, as if it had been killed there.
    """
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
