"""Two ranks with a folder each, as on nodes that share no disk.

Run under torchrun, this file is one rank.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from support.arrow_files import rows, spec_with_files, write_arrow
from support.running import environment, run_here, weights, write_spec
from support.two_ranks import LAUNCHER

from renaissance.engine.distributed import Ranks
from renaissance.errors import RenaissanceError

SETTINGS = ("schedule.decay=constant", "schedule.warmup_steps=2", "train.ema=0.9")
SETTINGS += ("optimizer.type=muon",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the two ranks have left: their folders, and what each was refused with."""
    folder = tmp_path_factory.mktemp("apart")
    command = [sys.executable, *LAUNCHER, __file__, str(folder)]
    with (folder / "printed").open("w") as printed:
        subprocess.run(
            command, env=environment(), stdout=printed, stderr=printed, timeout=300, check=False
        )
    assert (folder / "done").exists(), (folder / "printed").read_text()
    return folder


def test_a_run_resumes_where_rank_0_alone_has_its_folder(folder: Path) -> None:
    straight, parted = (weights(folder / "node0" / n / "tiny", 10) for n in ("straight", "parted"))
    assert any(name.startswith("average.") for name in straight)
    assert all(torch.equal(straight[name], parted[name]) for name in straight)
    assert not (folder / "node1/straight").exists()
    printed = (folder / "printed").read_text()
    assert "parted/tiny is not shared with " in printed
    assert "rank 0 (" in printed


def test_a_run_starts_from_one_that_rank_0_alone_has(folder: Path) -> None:
    source = folder / "node0/straight/tiny/checkpoints/step-"
    assert f"parameters from {source}" in (folder / "printed").read_text()
    assert weights(folder / "node0/tuned/tiny", 1)


def test_a_node_with_a_later_checkpoint_is_not_ignored(folder: Path) -> None:
    texts = [(folder / f"later-{rank}").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("run.output_dir: rank 1 (")
    assert "has a checkpoint of step 10 in later/tiny, but rank 0 (" in texts[0]
    assert "has none and does not share that folder. Start with " in texts[0]


def test_a_sharded_run_needs_a_folder_that_all_share(folder: Path) -> None:
    texts = [(folder / f"sharded-{rank}").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("train.parallel: 'fsdp', but sharded/tiny on rank 0 is not shared")
    assert "choose a run.output_dir on a disk that all nodes share, or use 'ddp'" in texts[0]
    # What "auto" stands for is recorded.
    assert 'parallel = "ddp"' in (folder / "node0/straight/tiny/spec.toml").read_text()


def test_other_data_under_the_same_path_is_named(folder: Path) -> None:
    texts = [(folder / f"rows-{rank}").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert "differs from rank 0 (" in texts[0]
    assert "file train.arrow: " in texts[0]
    # Of the same length, and so are the first captions, which are all that was compared once.
    assert "training samples" not in texts[0]
    assert "token ids" not in texts[0]
    assert "some texts and labels of data.train[0] ('image-text'): " in texts[0]


def test_data_on_one_node_alone_is_named_with_the_rank(folder: Path) -> None:
    text = (folder / "absent-0").read_text()
    assert text.startswith("rank 1: ")
    assert "train.arrow" in text


def run_ranks(ranks: Ranks, folder: Path) -> None:
    """Train, resume, and try what must be refused, each rank in its own working directory."""
    spec = write_spec(folder / f"spec{ranks.rank}")
    here = folder / f"node{ranks.rank}"
    here.mkdir()
    os.chdir(here)
    run_here(spec, Path("straight"), *SETTINGS)
    run_here(spec, Path("parted"), *SETTINGS, "train.max_steps=4")
    run_here(spec, Path("parted"), *SETTINGS)
    run_here(spec, Path("tuned"), "model.init_from=straight/tiny", "train.max_steps=1")
    if ranks.rank == 1:
        shutil.copytree("../node0/parted", "later")
    refused(folder / f"later-{ranks.rank}", lambda: run_here(spec, Path("later"), *SETTINGS))
    sharded = ("train.parallel=fsdp", *SETTINGS)
    refused(folder / f"sharded-{ranks.rank}", lambda: run_here(spec, Path("sharded"), *sharded))
    spec = spec_with_files(here)
    samples = [{**row, "caption": ["a photo"]} for row in rows(9)]
    samples[-1]["caption"] = [["a photo"], ["it"]][ranks.rank]
    write_arrow(Path("train.arrow"), samples)
    data = ("data.root=.", "data.tokenizer=tokenizer")
    refused(folder / f"rows-{ranks.rank}", lambda: run_here(spec, Path("rows"), *data))
    if ranks.rank == 1:
        Path("train.arrow").unlink()
    refused(folder / f"absent-{ranks.rank}", lambda: run_here(spec, Path("absent"), *data))


def refused(path: Path, call: Callable[[], object]) -> None:
    """Write what a call raises into a file."""
    with pytest.raises(RenaissanceError) as caught:
        call()
    path.write_text(str(caught.value))


if __name__ == "__main__":
    ranks = Ranks("cpu")
    # A process group can be made only once with the same launcher.
    with mock.patch.object(Ranks, "close"):
        run_ranks(ranks, Path(sys.argv[1]))
    ranks.barrier()
    Path(sys.argv[1], "done").touch()
    ranks.close()
