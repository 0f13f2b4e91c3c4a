"""What a step takes on many GPUs, from counted operations and bytes."""

import attrs

# Of DDP: gradients are exchanged in buckets of this size, as soon as backward has filled one.
BUCKET_BYTES = 25 * 2**20
# Of the operations of a forward and a backward pass.
BACKWARD_SHARE = 2 / 3


@attrs.frozen
class Cluster:
    """GPUs that train together.

    Attributes:
        nodes: Number of nodes.
        gpus: GPUs per node.
        flops: Operations per second that a GPU reaches.
        link: Bytes per second at which a GPU exchanges gradients within a node.
        network: Bytes per second of a node's network.
    """

    nodes: int
    gpus: int
    flops: float
    link: float
    network: float

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.gpus

    def exchange_seconds(self, num_bytes: float) -> float:
        """Return the seconds of an all-reduce, bound by the slowest link.

        Every rank sends and receives 2 (n - 1) / n of the bytes, which is optimal (Patarasuk and
        Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 2009). On
        several nodes, rings cross the network of each once.
        """
        speed = self.link if self.nodes == 1 else min(self.link, self.network)
        return 2 * (self.world_size - 1) / self.world_size * num_bytes / speed


@attrs.frozen
class StepTime:
    """What a step takes, in seconds.

    Attributes:
        compute: Forward and backward of all micro-batches of a rank.
        exchange: Exchanging gradients.
        exposed: What backward does not hide of that.
    """

    compute: float
    exchange: float
    exposed: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.exposed

    @property
    def efficiency(self) -> float:
        """The speed per GPU, relative to a single one."""
        return self.compute / self.total


def step_time(
    cluster: Cluster, flops: float, grad_accum_steps: int, gradient_bytes: float
) -> StepTime:
    """Reckon the time of a step; data, the optimizer and logging are left out.

    Gradients are exchanged once per step, while backward of the last micro-batch computes the next
    ones. The last bucket is full when backward ends, so that nothing hides it.

    Args:
        cluster: The GPUs.
        flops: Operations of forward and backward of a rank's samples in a step.
        grad_accum_steps: Micro-batches per step.
        gradient_bytes: Bytes of the gradients.
    """
    compute = flops / cluster.flops
    backward = BACKWARD_SHARE * compute / grad_accum_steps
    last = cluster.exchange_seconds(min(BUCKET_BYTES, gradient_bytes))
    exchange = cluster.exchange_seconds(gradient_bytes)
    return StepTime(compute, exchange, max(last, exchange - backward))
