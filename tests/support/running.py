"""Start runs in tests: in this process, or with torchrun."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from renaissance.engine.train import train
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

TESTS = Path(__file__).parents[1]

TINY = """
[run]
name = "tiny"

[model.text_encoder]
type = "hf-text"
architecture = "bert"
[model.text_encoder.config]
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0

[model.image_encoder]
type = "hf-image"
architecture = "vit"
[model.image_encoder.config]
patch_size = 16
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32

[model.fusion]
type = "co-attention"
hidden_size = 16
num_layers = 2
num_heads = 2
dropout = 0.0
attention_dropout = 0.0

[data]
image_size = 32
max_text_length = 24
tokenizer = "dataset"
num_workers = 0

[[data.train]]
type = "shapes"
num_samples = 50
image_size = 32

[[data.validate]]
type = "shapes"
num_samples = 21
image_size = 32

[[objectives]]
type = "mlm"

[[objectives]]
type = "itm"
negatives = "dataset"

[optimizer]
learning_rate = 3e-3

[schedule]
warmup_steps = 0.2

[train]
max_steps = 10
global_batch_size = 8
log_every = 2
device = "cpu"

[evaluate]
every_steps = 5
micro_batch_size = 8

[[monitors]]
type = "console"

[[monitors]]
type = "jsonl"
"""

ONE_TOWER = """
[model]
type = "one-tower"
[model.encoder]
type = "hf-joint"
architecture = "vit"
[model.encoder.config]
patch_size = 16
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 32
"""


def write_spec(folder: Path, text: str = TINY) -> Path:
    """Write a run spec."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.toml"
    path.write_text(text)
    return path


def one_tower_spec() -> str:
    """Return the tiny spec with a one-tower model."""
    start, end = TINY.index("[model.text_encoder]"), TINY.index("[data]")
    return TINY[:start] + ONE_TOWER + TINY[end:]


def run_here(spec: Path, output_dir: Path, *settings: str) -> int:
    """Train in this process."""
    plugins = load_plugins()
    arguments = [str(spec), f"run.output_dir={output_dir}", *settings]
    return train(load_spec(arguments, plugins), plugins)


def torchrun_command(num_ranks: int, arguments: Sequence[str]) -> list[str]:
    """Return the command line of a run under torchrun."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(num_ranks),
    ]
    return [*launcher, "-m", "renaissance", *arguments]


def environment(**extra: str) -> dict[str, str]:
    """Return an environment with one thread per process, in which `support` can be imported."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **extra}


def torchrun(num_ranks: int, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Train with torchrun, to the end."""
    return subprocess.run(
        torchrun_command(num_ranks, arguments),
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def metrics(run: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the weights of a run's checkpoint."""
    tensors: dict[str, torch.Tensor] = load_file(
        run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    )
    return tensors
