"""`renaissance check`: validate a run and say what it will take, before it starts."""

import warnings

import torch
from rich.console import Console
from rich.table import Table

from renaissance.engine.checkpoint import list_checkpoints, load_checkpoint
from renaissance.engine.estimate import Estimate, estimate, part_sizes
from renaissance.engine.init_from import start_from
from renaissance.engine.optim import warmup_steps
from renaissance.engine.run_parts import RunParts, build
from renaissance.plugins.loading import Plugins
from renaissance.spec.sections import RunSpec

# Enough samples for typical text lengths, few enough to be quick.
MAX_SAMPLES = 64


def check_run(spec: RunSpec, plugins: Plugins, num_ranks: int) -> None:
    """Build the run without weights, and print what it is.

    Args:
        spec: The run spec.
        plugins: Installed plugins.
        num_ranks: Number of ranks that the run would have.

    Raises:
        RenaissanceError: If the run could not start.
    """
    console = Console(highlight=False, soft_wrap=True)
    parts = _build(spec, plugins, num_ranks)
    weights = _weights_lines(parts)
    costs = _estimate(parts, console)
    console.print(_parts_table(parts, costs))
    for line in [*_data_lines(parts), *_step_lines(parts), *_memory_lines(costs), *weights]:
        console.print(line, markup=False)
    console.print("ok: this run can start", markup=False)


def _build(spec: RunSpec, plugins: Plugins, num_ranks: int) -> RunParts:
    try:
        # Shapes without numbers: a large model takes neither memory nor time.
        with torch.device("meta"):
            return build(spec, plugins, num_ranks, load_weights=False)
    # A component of a plugin may compute, as it is made, what the meta device cannot.
    except (NotImplementedError, RuntimeError):
        parts = build(spec, plugins, num_ranks, load_weights=False)
        parts.network.to("meta")
        return parts


def _estimate(parts: RunParts, console: Console) -> Estimate | None:
    # In the order of training: neighbours in the data often share an image.
    num_samples = min(parts.plan.micro_batch_size, MAX_SAMPLES)
    stream = parts.stream()
    request = [stream.at(position) for position in range(num_samples)]
    batch = parts.train[request]
    try:
        with torch.device("meta"):
            return estimate(parts, batch)
    # A component of a plugin may compute what the meta device cannot: the run itself still can.
    except (NotImplementedError, RuntimeError) as error:
        console.print(f"no estimate of operations and memory: {error}", markup=False)
        return None


def _parts_table(parts: RunParts, costs: Estimate | None) -> Table:
    table = Table("part", box=None)
    for title in ("parameters", "trainable", "GFLOP a sample"):
        table.add_column(title, justify="right")
    sizes = part_sizes(parts.network)
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


def _data_lines(parts: RunParts) -> list[str]:
    lines = []
    for name, collator in (("train", parts.train), ("validate", parts.validate)):
        if collator is not None:
            datasets = collator.datasets
            each = ", ".join(
                f"{len(dataset):,} of {dataset_name}"
                for dataset_name, dataset in zip(datasets.names, datasets.datasets, strict=True)
            )
            lines.append(f"{name}: {len(datasets):,} samples: {each}")
    return lines


def _step_lines(parts: RunParts) -> list[str]:
    total, plan = parts.total_steps, parts.plan
    epoch = parts.num_samples / plan.global_batch_size
    return [
        f"batch: {plan}",
        f"steps: {epoch:.1f} an epoch, {total:,} in all "
        f"({total * plan.global_batch_size / parts.num_samples:.2f} epochs), "
        f"{warmup_steps(total, parts.spec.schedule):,} of them warm-up",
    ]


def _memory_lines(costs: Estimate | None) -> list[str]:
    if costs is None:
        return []
    memory = costs.memory

    def mib(size: int) -> str:
        return f"{size / 2**20:,.1f} MiB"

    return [
        f"memory a rank, estimated: {mib(memory.total)} = weights {mib(memory.weights)} + "
        f"gradients {mib(memory.gradients)} + optimizer {mib(memory.optimizer)} + "
        f"activations {mib(memory.activations)}",
        "operations: of a forward; a backward takes about twice as many",
    ]


def _weights_lines(parts: RunParts) -> list[str | Table]:
    """Say where the weights come from; a checkpoint must be there, whole, and of this model."""
    spec, network = parts.spec, parts.network
    checkpoints = list_checkpoints(spec.folder / "checkpoints")
    with warnings.catch_warnings():
        # PyTorch warns that weights copied onto the meta device go nowhere, as is meant here.
        warnings.simplefilter("ignore")
        if checkpoints and spec.run.resume == "auto":
            state = load_checkpoint(checkpoints[-1], network, optimizer=None)
            return [f"weights: resumes from {checkpoints[-1]}, step {state.step:,}"]
        if spec.model.init_from is not None:
            return [start_from(spec, network).table()]
    sources = {
        name: part.weights_source
        for name, part in network.model.parts().items()
        if hasattr(part, "weights_source")
    }
    lines = [f"weights of {name}: {source}" for name, source in sources.items()]
    return [*lines, "weights of all other parts: random"]
