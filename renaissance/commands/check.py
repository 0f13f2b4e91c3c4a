"""`renaissance check`: validate a run and say what it will take, before it starts."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from renaissance.engine.checkpoint import find_checkpoint, list_checkpoints
from renaissance.engine.estimate import Estimate, estimate, part_sizes
from renaissance.engine.optim import warmup_steps
from renaissance.engine.setup import Setup, build
from renaissance.plugins import Plugins
from renaissance.spec.sections import RunSpec

# Enough samples for typical text lengths, few enough to be quick.
NUM_SAMPLES = 8


def check_run(spec: RunSpec, plugins: Plugins) -> None:
    """Build the run without weights, and print what it is.

    Raises:
        RenaissanceError: If the run could not start.
    """
    console = Console(highlight=False, soft_wrap=True)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    with torch.device("meta"):
        setup = build(spec, plugins, world_size, load_weights=False)
        costs = _estimate(setup, console)
    console.print(_parts_table(setup, costs))
    for line in [
        *_data_lines(setup),
        *_step_lines(setup),
        *_memory_lines(costs),
        *_weights_lines(setup),
    ]:
        console.print(line, markup=False)
    console.print("ok: this run can start", markup=False)


def _estimate(setup: Setup, console: Console) -> Estimate | None:
    request = [(0, index) for index in range(min(NUM_SAMPLES, setup.num_samples))]
    with torch.device("cpu"):
        batch = setup.train[request]
    try:
        return estimate(setup, batch)
    # A component of a plugin may compute what the meta device cannot: the run itself still can.
    except (NotImplementedError, RuntimeError) as error:
        console.print(f"no estimate of operations and memory: {error}", markup=False)
        return None


def _parts_table(setup: Setup, costs: Estimate | None) -> Table:
    table = Table("part", box=None)
    for title in ("parameters", "trainable", "GFLOP a sample"):
        table.add_column(title, justify="right")
    sizes = part_sizes(setup.task)
    for size in sizes:
        flops = f"{costs.flops.get(size.name, 0) / 1e9:.3f}" if costs else "?"
        table.add_row(size.name, f"{size.num_parameters:,}", f"{size.num_trainable:,}", flops)
    table.add_row(
        "total",
        f"{sum(size.num_parameters for size in sizes):,}",
        f"{sum(size.num_trainable for size in sizes):,}",
        f"{sum(costs.flops.values()) / 1e9:.3f}" if costs else "?",
    )
    return table


def _data_lines(setup: Setup) -> list[str]:
    lines = []
    for name, collator in (("train", setup.train), ("validate", setup.validate)):
        if collator is not None:
            datasets = collator.datasets
            each = ", ".join(
                f"{len(dataset):,} of {dataset_name}"
                for dataset_name, dataset in zip(datasets.names, datasets.datasets, strict=True)
            )
            lines.append(f"{name}: {len(datasets):,} samples: {each}")
    return lines


def _step_lines(setup: Setup) -> list[str]:
    total, plan = setup.total_steps, setup.plan
    epoch = setup.num_samples / plan.global_batch_size
    return [
        f"batch: {plan}",
        f"steps: {epoch:.1f} an epoch, {total:,} in all "
        f"({total * plan.global_batch_size / setup.num_samples:.2f} epochs), "
        f"{warmup_steps(total, setup.spec.schedule):,} of them warm-up",
    ]


def _memory_lines(costs: Estimate | None) -> list[str]:
    if costs is None:
        return []
    memory = costs.memory

    def mib(size: int) -> str:
        return f"{size / 2**20:,.0f} MiB"

    return [
        f"memory a rank, estimated: {mib(memory.total)} = weights {mib(memory.weights)} + "
        f"gradients {mib(memory.gradients)} + optimizer {mib(memory.optimizer)} + "
        f"activations {mib(memory.activations)}",
        "operations: of a forward; a backward takes about twice as many",
    ]


def _weights_lines(setup: Setup) -> Sequence[str]:
    spec = setup.spec
    checkpoints = list_checkpoints(spec.folder / "checkpoints")
    if checkpoints and spec.run.resume == "auto":
        return [f"weights: resumes from {checkpoints[-1]}"]
    if spec.model.init_from is not None:
        source = find_checkpoint(Path(spec.model.init_from), prefer_best=True)
        return [f"weights: the model's from {source}; heads are new"]
    return [
        f"weights of {name}: {getattr(part, 'weights_source', 'new, random')}"
        for name, part in setup.task.model.parts().items()
    ]
