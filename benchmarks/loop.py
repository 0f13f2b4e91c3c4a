"""The overhead of the loop: what a step takes besides data, forward, backward and optimizer.

DeiT-tiny and ELECTRA-small shapes with 6 fusion layers of 256, as in benchmarks/step.py.

    python benchmarks/loop.py [--steps 8] [--batch 16] [--device cpu]
"""

import argparse
import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from renaissance.contracts.monitor import RunInfo
from renaissance.engine.after_step import AfterStep
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.distributed import Ranks
from renaissance.engine.loop import Loop
from renaissance.engine.observers import Observers
from renaissance.engine.optim import make_optimizer
from renaissance.engine.run_parts import build
from renaissance.engine.saving import Saving
from renaissance.engine.unused import freeze_unused_parameters
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.write import spec_tables, spec_to_toml

SPEC = """
[model.text_encoder]
type = "hf-text"
architecture = "electra"
[model.text_encoder.config]
hidden_size = 256
embedding_size = 128
num_hidden_layers = 12
num_attention_heads = 4
intermediate_size = 1024

[model.image_encoder]
type = "hf-image"
architecture = "vit"
[model.image_encoder.config]
hidden_size = 192
num_hidden_layers = 12
num_attention_heads = 3
intermediate_size = 768

[data]
num_workers = 0
tokenizer = "dataset"
train = [{ type = "shapes", num_samples = 4096, image_size = 64 }]

[[objectives]]
type = "mlm"

[[objectives]]
type = "itm"

[train]
log_every = 1000000
gradient_clip = 1.0

[checkpoint]
every_steps = 1000000
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), arguments.steps, arguments.batch, arguments.device)
    named = ("data", "forward", "backward", "optimizer")
    overhead = seconds["total"] - sum(seconds[name] for name in named)
    work = seconds["total"] - seconds["data"]
    for name in named:
        print(f"{name:10} {seconds[name] / arguments.steps * 1000:8.1f} ms per step")
    print(f"{'loop':10} {overhead / arguments.steps * 1000:8.1f} ms per step")
    print(f"steps={arguments.steps} batch={arguments.batch} own_share={overhead / work:.4f}")


def measure(folder: Path, steps: int, batch: int, device: str) -> dict[str, float]:
    """Run the real loop, with clocks around the work that it calls."""
    file = folder / "run.toml"
    file.write_text(SPEC)
    plugins = load_plugins()
    settings = [f"run.output_dir={folder}", f"train.global_batch_size={batch}"]
    # Two steps to warm up, and one that is never reached, since the last step saves.
    settings += [f"train.max_steps={steps + 3}", f"train.device={device}"]
    spec = load_spec([str(file), *settings], plugins)
    ranks = Ranks(device)
    parts = build(spec, world_size=1, load_weights=True)
    parts.network.to(ranks.device)
    freeze_unused_parameters(parts.network, parts.train[[(0, 0)]], ranks)
    optimizer = make_optimizer(parts.network, spec.optimizer)
    scaler = torch.amp.GradScaler(device, enabled=False)
    info = RunInfo(
        spec=spec_tables(parts.spec),
        spec_text=spec_to_toml(parts.spec),
        folder=folder,
        rank=0,
        world_size=1,
        start_step=0,
        total_steps=parts.total_steps,
        samples_per_epoch=parts.num_samples,
        batch_plan=str(parts.plan),
    )
    observers = Observers([], plugins.manager.hook)
    saving = Saving(parts, ranks, info, observers, optimizer, scaler)
    after_step = AfterStep(parts, ranks, info, observers, saving)
    loop = Loop(parts, ranks, optimizer, scaler, TrainState(), after_step)

    seconds: dict[str, float] = defaultdict(float)
    count = 0

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name] += time.perf_counter() - started
            return result

        return call

    class DoneError(Exception):
        pass

    def next_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if count == 2:
            seconds.clear()
            seconds["total"] = -time.perf_counter()
        if count == steps + 2:
            seconds["total"] += time.perf_counter()
            raise DoneError
        count += 1
        return fetch(*args, **kwargs)

    fetch = clocked("data", loop._next)
    loop._next = next_step
    loop.module.forward = clocked("forward", loop.module.forward)
    torch.autograd.backward = clocked("backward", torch.autograd.backward)
    optimizer.step = clocked("optimizer", optimizer.step)
    with contextlib.suppress(DoneError):
        loop.run()
    return seconds


if __name__ == "__main__":
    main()
