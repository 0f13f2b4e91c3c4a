"""`renaissance check`: validate a run and estimate its cost, before it starts."""

import warnings

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from renaissance.commands.cache import cache_lines
from renaissance.commands.cluster import ClusterOptions, cluster_lines
from renaissance.commands.lost_area import lost_area_lines
from renaissance.commands.output import print_figures, print_line
from renaissance.contracts.encoder import Encoder
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.preprocessor import normalization_of
from renaissance.data.tokenizer import tokenizer_sha256
from renaissance.engine.agreement import surroundings
from renaissance.engine.cache_needs import cache_needs
from renaissance.engine.distributed import choose_device
from renaissance.engine.estimate import Estimate, estimate, part_sizes
from renaissance.engine.init_from import initialize
from renaissance.engine.optim import parameter_groups, warmup_steps
from renaissance.engine.parallelism import Choice, check_sharding, choose_parallel
from renaissance.engine.resume import resume
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts, build
from renaissance.engine.starting import check_memory, enable_gradient_checkpointing, read_probe
from renaissance.errors import RenaissanceError, SpecError
from renaissance.spec.resolve import encoder_for
from renaissance.spec.sections import ResolvedSpec, RunSpec

# Enough samples for typical text lengths, few enough to be quick.
MAX_SAMPLES = 64


def check_run(spec: RunSpec, num_ranks: int, cluster: ClusterOptions | None = None) -> None:
    """Build the run without pretrained parameters, and print what it is made of.

    Args:
        spec: The run spec.
        num_ranks: Number of ranks that the run would have.
        cluster: GPUs for which to estimate the time of a step.

    Raises:
        RenaissanceError: If the run could not start.
    """
    choose_device(spec.train.device, 0, 0)
    run = RunFolder(spec.folder)
    run.check()
    run.check_resume(spec.run.resume)
    parts = build_on_meta(spec, num_ranks)
    parameter_groups(parts.network, parts.spec.optimizer)
    for monitor in parts.spec.monitors:
        monitor.build()
    enable_gradient_checkpointing(parts)
    # First, since a checkpoint that does not fit is an error.
    weights = _weights_lines(parts, read_probe(parts))
    costs = estimate_run(parts)
    if parts.spec.train.parallel == "fsdp" and num_ranks > 1:
        check_sharding(parts)
    num_shards = cluster.gpus if cluster else num_ranks
    choice = None if costs is None else choose_parallel(parts, costs.memory, num_shards)
    if choice is not None:
        check_memory(spec, choice.memory)
    _print_parts(parts, costs)
    needs = cache_needs(parts)
    data = _data_lines(parts)
    data += [] if needs is None else cache_lines(parts, needs, costs)
    data += lost_area_lines(parts.train.reader, parts.spec.data.transform.type)
    times = cluster_lines(spec, parts, costs, cluster) if cluster and costs else []
    if cluster and choice is not None and choice.parallel == "fsdp":
        times = ["no estimate of a step with fsdp, which exchanges parameters as well"]
    for line in [*data, *_step_lines(parts), *_memory_lines(choice, num_ranks), *times, *weights]:
        print_line(line)
    too_large = () if needs is None else needs.warnings
    if run.is_busy:
        print_line(f"warning: another process is training in {run.path}; wait until it has ended")
    for warning in [*parts.warnings, *_warnings(parts.spec), *too_large]:
        print_line(f"warning: {warning}")
    print_line("ok: this run can start")


def build_on_meta(spec: RunSpec, num_ranks: int) -> RunParts:
    """Build a run without values, and without pretrained parameters."""
    try:
        # Shapes without values: a large model takes neither memory nor time.
        with torch.device("meta"):
            return build(spec, num_ranks, load_weights=False)
    except RenaissanceError:
        raise
    # A component may compute, when it is made, what the meta device cannot; it fails in any way.
    except Exception:
        parts = build(spec, num_ranks, load_weights=False)
        parts.network.to("meta")
        return parts


def estimate_run(parts: RunParts) -> Estimate | None:
    """Estimate the cost of a micro-batch; say so, and return None, where that cannot be done."""
    if parts.validate is not None:
        # Only for its errors: a validation split of a single image has no false pairs, say.
        num_validated = min(parts.spec.evaluate.micro_batch_size, MAX_SAMPLES)
        last = min(num_validated, len(parts.validate.datasets))
        parts.validate[[(0, index) for index in range(last)]]
    # In the order of training, because neighbours in the data often share an image.
    num_samples = min(parts.plan.micro_batch_size, MAX_SAMPLES)
    stream = parts.stream()
    batch = parts.train[[stream.at(position) for position in range(num_samples)]]
    try:
        with torch.device("meta"):
            return estimate(parts, batch, parts.spec.optimizer.states_per_parameter)
    except SpecError:
        raise
    # A component may compute what the meta device cannot; the run itself still can.
    except Exception as error:
        print_line(f"no estimate of operations and memory: {error}")
        return None


def _print_parts(parts: RunParts, costs: Estimate | None) -> None:
    def row(name: str, num_parameters: int, num_trainable: int, flops: int | None) -> list[str]:
        gflop = "?" if flops is None else f"{flops / 1e9:.3f}"
        return [name, f"{num_parameters:,}", f"{num_trainable:,}", gflop]

    sizes = part_sizes(parts.network)
    rows = [
        row(
            s.name, s.num_parameters, s.num_trainable, costs.flops.get(s.name, 0) if costs else None
        )
        for s in sizes
    ]
    total = row(
        "total",
        sum(size.num_parameters for size in sizes),
        sum(size.num_trainable for size in sizes),
        sum(costs.flops.values()) if costs else None,
    )
    print_figures(("part", "parameters", "trainable", "GFLOP per sample"), [*rows, total])


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
        f"steps: {epoch:.1f} per epoch, {total:,} in all "
        f"({total * plan.global_batch_size / parts.num_samples:.2f} epochs), "
        f"{warmup_steps(total, parts.spec.schedule):,} of them warm-up",
        *_intervals(parts),
        *_division_lines(parts),
    ]


def _intervals(parts: RunParts) -> list[str]:
    """Return when the run is evaluated and saved, which may be only once."""
    spec = parts.spec
    intervals = {"saved": spec.checkpoint.every_steps}
    if parts.validate is not None:
        intervals = {"evaluated": spec.evaluate.every_steps, **intervals}
    return [
        f"{what}: after every {steps:,} steps and the last step"
        if steps < parts.total_steps
        else f"{what}: after the last step only (every_steps = {steps:,})"
        for what, steps in intervals.items()
    ]


def _division_lines(parts: RunParts) -> list[str]:
    """Say what depends on how the global batch is divided, where it is divided."""
    plan, model = parts.plan, parts.network.model
    # How many samples are seen together, and by what.
    together = []
    lines = []
    for name, objective in parts.network.named_objectives().items():
        if objective.compares_with == "global batch":
            passes = " in two passes" if plan.grad_accum_steps > 1 else ""
            lines.append(
                f"candidates of '{name}': all {plan.global_batch_size:,} samples of a step"
                f"{passes}, however it is divided"
            )
        elif objective.compares_with is not None:
            num_ranks = plan.world_size if objective.compares_with == "all ranks" else 1
            together.append((plan.micro_batch_size * num_ranks, f"candidates of '{name}'"))
    for name, part in model.parts().items():
        if not model.is_frozen(part) and any(isinstance(m, _BatchNorm) for m in part.modules()):
            together.append((plan.micro_batch_size, f"batch norms of {name}"))
    return lines + [
        f"{what}: {count:,} samples at once, of {plan.global_batch_size:,} per step; another "
        "train.micro_batch_size or number of ranks trains another model"
        for count, what in together
        if count < plan.global_batch_size
    ]


def _warnings(spec: ResolvedSpec) -> list[str]:
    """Return a warning if the spec normalizes images differently from its image encoder."""
    transform = spec.data.transform
    normalization = normalization_of(encoder_for(spec, "image").checkpoint)
    if normalization is None or normalization == (transform.mean, transform.std):
        return []
    mean, std = (list(channels) for channels in normalization)
    return [
        f"data.transform has mean = {list(transform.mean)} and std = {list(transform.std)}, but "
        f"the image encoder's preprocessor_config.json says {mean} and {std}; leave both keys out "
        "to take the encoder's"
    ]


def _memory_lines(choice: Choice | None, num_ranks: int) -> list[str]:
    if choice is None:
        return []

    def mib(size: int) -> str:
        return f"{size / 2**20:,.1f} MiB"

    memory = choice.memory
    in_evaluation = f"; in an evaluation, {mib(memory.evaluation)}" if memory.evaluation else ""
    return [
        *([f"parallel: {choice.parallel}: {choice.reason}"] if num_ranks > 1 else []),
        f"memory per rank, estimated: {mib(memory.step)} = parameters {mib(memory.parameters)} + "
        f"gradients {mib(memory.gradients)} + optimizer {mib(memory.optimizer)} + "
        f"activations {mib(memory.activations)}{in_evaluation}",
        "operations are those of the forward pass; the backward pass takes about twice as many",
    ]


def _weights_lines(parts: RunParts, probe: MicroBatch) -> list[str]:
    """Return where the parameters come from; a checkpoint must exist, be intact, and fit."""
    spec, network = parts.spec, parts.network
    run = RunFolder(spec.folder)
    damaged = run.damaged()
    last = next((path for path in reversed(run.checkpoints()) if path not in damaged), None)
    with warnings.catch_warnings():
        # PyTorch warns that parameters copied to the meta device are lost, which is intended here.
        warnings.simplefilter("ignore")
        if last is not None:
            run.check_tokenizer(tokenizer_sha256(parts.tokenizer))
            state, changes = resume(last, parts, None, None, surroundings(parts, probe))
            return [
                *(f"warning: {e}. The run goes on from the one before" for e in damaged.values()),
                f"weights: resumes from {last}, step {state.step:,}",
                *(f"changed since: {change}" for change in changes),
            ]
        if spec.model.init_from is not None:
            return initialize(network, spec.model.init_from, spec).lines()
    lines = []
    for name, part in network.model.parts().items():
        if isinstance(part, Encoder):
            part.check_weights()
            lines.append(f"weights of {name}: {part.weights_source}")
    return [*lines, "weights of all other parts: random"]
