"""What `renaissance check` says of a run on several GPUs and nodes."""

import attrs

from renaissance.engine.estimate import Estimate, recomputed_flops, training_flops
from renaissance.engine.run_parts import RunParts
from renaissance.engine.scaling import Cluster, step_time
from renaissance.spec.sections import RunSpec

GBIT = 1e9 / 8


@attrs.frozen
class ClusterOptions:
    """The GPUs of which `check` reckons.

    Attributes:
        nodes: Number of nodes.
        gpus: GPUs per node.
        network: Gbit/s of a node's network.
        link: Gbit/s between the GPUs of a node.
        tflops: Operations per second that a GPU reaches in training, in 10**12; None to measure
            those of this machine.
    """

    nodes: int
    gpus: int
    network: float
    link: float
    tflops: float | None


def cluster_lines(
    spec: RunSpec, parts: RunParts, costs: Estimate, options: ClusterOptions
) -> list[str]:
    """Return the time of a step, and how much of it is spent on exchanging gradients."""
    flops = training_flops(parts.network, costs.flops)
    # It imports torchmetrics, which takes a second.
    from renaissance.commands.training_rate import training_rate

    measured = options.tflops is None
    speed = training_rate(spec, flops) if measured else 1e12 * (options.tflops or 0)
    if speed is None:
        return ["no estimate of a step: one sample takes this machine too long; give --tflops"]
    cluster = Cluster(
        options.nodes, options.gpus, speed, GBIT * options.link, GBIT * options.network
    )
    flops += recomputed_flops(parts, costs.flops)
    plan = parts.plan
    samples = plan.micro_batch_size * plan.grad_accum_steps
    num_bytes = costs.memory.gradients // (2 if spec.train.gradient_compression == "bf16" else 1)
    time = step_time(cluster, flops * samples, plan.grad_accum_steps, num_bytes)
    where = f"{options.nodes} nodes of {options.gpus} GPUs" if options.nodes > 1 else ""
    return [
        f"a step on {where or f'{options.gpus} GPUs'}, estimated: {time.total:.3f} s = compute "
        f"{time.compute:.3f} s + {time.exposed:.3f} s of exchanging "
        f"{num_bytes / 2**20:,.1f} MiB of gradients, which takes "
        f"{time.exchange:.3f} s and is partly hidden by backward; {time.efficiency:.0%} of the "
        "speed per GPU of a single one",
        f"for a GPU that reaches {speed / 1e12:.3g} TFLOP/s{' (this machine)' * measured}, "
        f"{options.link:,g} Gbit/s between the GPUs of a node"
        + (f" and {options.network:,g} Gbit/s per node" if options.nodes > 1 else "")
        + "; without data, optimizer and logging",
    ]
