"""What a step takes on many GPUs: a table to 1,024 of them, and a measurement on this machine.

    python benchmarks/scaling.py table              # base model, 256 samples per GPU
    python benchmarks/scaling.py table --global-batch 32768
    python benchmarks/scaling.py measure            # 1 -> 2 ranks over gloo, one thread each

`table` counts operations and bytes on the meta device, and takes the speed of GPUs, links, disks
and host as arguments. Its step is the longer of what the GPU does (`renaissance.engine.scaling`)
and of what the host does meanwhile: it launches the step's kernels, and exchanges the counts of the
next one in a ring over gloo, whose hops add up.

`measure` trains the real network. In each round, one rank computes alone, all ranks compute at once
without exchanging anything, and all do a step together, so that a machine that is busy for a while
slows all three. The best rounds count. Printed for each number of ranks:

    contention    a step alone, relative to one while the other ranks compute too
    efficiency    a step of all ranks at once without exchange, relative to one with it
    simulated     the same by `renaissance.engine.scaling`, for the measured compute and all-reduce;
                  backward hides nothing, since gloo copies and adds up on the cores that compute
    hidden        the same if backward hides the exchange, as on GPUs
    ratio         efficiency / simulated
    sum_us        microseconds of the exchange of counts
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import attrs
import torch
from count import MODELS, build_network, count, make_batch
from torch import nn

from renaissance.data.collate import MicroBatch
from renaissance.engine.data_parallel import wrap
from renaissance.engine.distributed import Ranks
from renaissance.engine.metrics import weighted_loss
from renaissance.engine.scaling import Cluster, StepTime, step_time

GPUS_PER_NODE = 8
WORLD_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024)
GBIT = 1e9 / 8
FLOAT = 4
# Of targets, bad samples, errors, and 32 signals.
NUM_COUNTS = 40
DAY = 86400
# Of the table, for which they are arguments.
SPEEDS = {
    "tflops": (300, "that a GPU reaches, in 10**12 per second"),
    "link": (2400, "Gbit/s between the GPUs of a node"),
    "network": (3200, "Gbit/s of a node's network"),
    "width": (4, "bytes of an exchanged gradient; 2 with train.gradient_compression"),
    "launch": (40, "milliseconds in which a host launches a micro-batch"),
    "hop": (30, "microseconds from one host to the next over gloo"),
    "core": (260, "images per second that one core reads"),
    "image": (160, "kB of an image"),
    "disk": (2, "GB/s at which a checkpoint is written"),
    "stall": (0.5, "seconds that a step waits for a checkpoint"),
    "restart": (300, "seconds from a failure to the next step"),
    "failures": (4.7e-4, "per GPU and day"),
}
TINY = (
    "model.text_encoder.config.num_hidden_layers=1",
    "model.image_encoder.config.num_hidden_layers=1",
    "model.fusion.num_layers=1",
)


@attrs.frozen
class Row:
    """What a number of GPUs takes.

    Attributes:
        gpus: Their number.
        batch: Samples per GPU and step.
        time: Of the GPU, in a step.
        host: Seconds of the host in a step.
        counts: Seconds of these in which counts are exchanged.
    """

    gpus: int
    batch: int
    time: StepTime
    host: float
    counts: float

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return max(self.time.total, self.host)

    @property
    def efficiency(self) -> float:
        """The speed per GPU, relative to one that exchanges nothing and never waits."""
        return self.time.compute / self.seconds

    @property
    def rate(self) -> float:
        """Samples per second of all GPUs."""
        return self.gpus * self.batch / self.seconds


def rows(options: argparse.Namespace, flops: float, gradient_bytes: int) -> Iterator[Row]:
    """Yield the rows of the table.

    Args:
        options: Speeds and sizes.
        flops: Operations of forward and backward per sample.
        gradient_bytes: Bytes that ranks exchange per step.
    """
    for gpus in WORLD_SIZES:
        batch = options.batch if options.global_batch is None else options.global_batch // gpus
        if gpus > options.most or batch == 0:
            continue
        cluster = Cluster(
            max(1, gpus // GPUS_PER_NODE),
            min(gpus, GPUS_PER_NODE),
            1e12 * options.tflops,
            GBIT * options.link,
            GBIT * options.network,
        )
        # What fits is a micro-batch: the others accumulate.
        accumulated = -(-batch // options.batch)
        counts = 2 * (gpus - 1) * 1e-6 * options.hop
        host = 1e-3 * options.launch * accumulated + counts
        yield Row(
            gpus,
            batch,
            step_time(cluster, flops * batch, accumulated, gradient_bytes),
            host,
            counts,
        )


def table(options: argparse.Namespace) -> None:
    """Print what a step takes, and what data, disks and failures take."""
    network = build_network(options.model)
    flops = 1e9 * count(network, make_batch(options.batch)).gflop_per_sample
    num_parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    gradients = int(options.width * num_parameters)
    # Parameters and the two moments of Adam.
    checkpoint = 3 * FLOAT * num_parameters
    print(f"{flops / 1e9:.1f} GFLOP per sample, {gradients / 1e9:.2f} GB of gradients")
    titles = "".join(
        f"{title + ' ms':>12}" for title in ("compute", "exchange", "exposed", "host", "step")
    )
    print(f"  GPUs   batch{titles}  efficiency   samples/s")
    everything = list(rows(options, flops, gradients))
    for row in everything:
        parts = (row.time.compute, row.time.exchange, row.time.exposed, row.host, row.seconds)
        cells = "".join(f"{1e3 * seconds:12.1f}" for seconds in parts)
        print(f"{row.gpus:6}{row.batch:8}{cells}{row.efficiency:12.3f}{row.rate:12,.0f}")
    last = everything[-1]
    mean_between_failures = DAY / (options.failures * last.gpus)
    write = checkpoint / (1e9 * options.disk)
    # Between checkpoints, so that what they cost and what failures lose add up to the least (Young,
    # "A first order approximation to the optimum checkpoint interval", CACM 1974).
    interval = (2 * options.stall * mean_between_failures) ** 0.5
    lost = options.stall / interval + (interval / 2 + options.restart) / mean_between_failures
    node = min(last.gpus, GPUS_PER_NODE)
    per_node = node * last.rate / last.gpus
    figures = {
        "gpus": f"{last.gpus}",
        "hours": f"{options.pairs / last.rate / 3600:.2f}",
        "efficiency": f"{last.efficiency:.3f}",
        "steps": f"{options.pairs / (last.gpus * last.batch):.0f}",
        "counts_ms": f"{1e3 * last.counts:.1f}",
        "images_per_second_and_node": f"{per_node:.0f}",
        "cores_per_gpu": f"{per_node / node / options.core:.1f}",
        "read_gb_per_second": f"{last.rate * options.image * 1e3 / 1e9:.1f}",
        "checkpoint_gb": f"{checkpoint / 1e9:.1f}",
        "checkpoint_seconds": f"{write:.1f}",
        "failures_per_day": f"{options.failures * last.gpus:.2f}",
        "checkpoint_every_minutes": f"{interval / 60:.1f}",
        "lost_to_failures": f"{lost:.4f}",
        # Of a contrastive loss over the global batch: fp32 cosines of a rank's rows with all.
        "cosines_gb": f"{FLOAT * last.batch * last.batch * last.gpus / 1e9:.2f}",
    }
    print(" ".join(f"{name}={value}" for name, value in figures.items()))


@attrs.define
class Times:
    """Seconds of each round, on one rank."""

    alone: list[float] = attrs.field(factory=list)
    together: list[float] = attrs.field(factory=list)
    exchanged: list[float] = attrs.field(factory=list)
    all_reduce: list[float] = attrs.field(factory=list)
    sum: list[float] = attrs.field(factory=list)


def measure(options: argparse.Namespace) -> None:
    """Start the ranks, and print what they took."""
    figures = []
    for num_ranks in options.ranks:
        found = started(num_ranks, options)
        print("  ".join(f"{name}={value:.4g}" for name, value in found.items()))
        names = ("contention", "efficiency", "simulated", "hidden", "ratio")
        figures += [f"ranks{num_ranks}_{name}={found[name]:.3f}" for name in names]
    print(" ".join(figures))


def started(num_ranks: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the figures of a number of ranks, which are processes of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": num_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, __file__, "rank", "--model", options.model]
    command += ["--batch", str(options.batch), "--rounds", str(options.rounds)]
    command += ["--clock", options.clock, *(["--tiny"] if options.tiny else [])]
    processes = []
    for rank in range(num_ranks):
        own = {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
        environment = {name: str(value) for name, value in (shared | own).items()}
        processes.append(
            subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE)
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a rank failed")
    figures: dict[str, float] = json.loads(outputs[0].splitlines()[-1])
    return figures


def rank(options: argparse.Namespace) -> None:
    """Measure on one rank of several; rank 0 prints the figures."""
    torch.set_num_threads(1)
    ranks = Ranks("cpu")
    torch.manual_seed(0)
    settings = ("train.precision=fp32", *(TINY if options.tiny else ()))
    network = build_network(options.model, device="cpu", settings=settings)
    batch = make_batch(options.batch)
    module = wrap(network, ranks.world_size)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    gradients = torch.zeros(sum(p.numel() for p in parameters))
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]

    def clocked(seconds: list[float], function: Callable[[], object]) -> None:
        started = clock()
        function()
        seconds.append(clock() - started)

    def step(is_exchanged: bool) -> None:
        if is_exchanged:
            ranks.sum([0.0] * NUM_COUNTS)
        # Without exchange, not through DDP, whose first steps exchange more than gradients.
        run = module if is_exchanged else network
        train_step(run, batch, optimizer, parameters, ranks.world_size)

    times = Times()
    # The first round warms up.
    for index in range(options.rounds + 1):
        now = Times() if index == 0 else times
        ranks.barrier()
        if ranks.is_main:
            clocked(now.alone, lambda: step(False))
        ranks.barrier()
        clocked(now.together, lambda: step(False))
        ranks.barrier()
        clocked(now.exchanged, lambda: step(True))
        ranks.barrier()
        clocked(now.all_reduce, lambda: torch.distributed.all_reduce(gradients))
        for _ in range(20):
            clocked(now.sum, lambda: ranks.sum([0.0] * NUM_COUNTS))
    gathered = [json.loads(text) for text in ranks.gather_text(json.dumps(attrs.asdict(times)))]
    ranks.close()
    if ranks.is_main:
        print(json.dumps(figures_of([Times(**each) for each in gathered], gradients.nbytes)))


def train_step(
    module: nn.Module,
    batch: MicroBatch,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    world_size: int,
) -> None:
    """Do what the loop does in a step of one micro-batch."""
    output = module(batch)
    targets = {name: world_size * batch.num_targets(name) for name in output}
    loss = weighted_loss(output, targets, dict.fromkeys(output, 1.0))
    torch.autograd.backward(world_size * loss)
    nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def figures_of(times: list[Times], gradient_bytes: int) -> dict[str, float]:
    """Return what the ranks' times say.

    A step with exchange is as long as its slowest rank, and ranks that compute at once are on
    average as fast as they are. The best round counts: other programs only lengthen one.
    """
    num_ranks = len(times)
    rounds = range(len(times[0].together))
    alone = min(times[0].alone)
    compute = min(statistics.mean(t.together[i] for t in times) for i in rounds)
    exchanged = min(max(t.exchanged[i] for t in times) for i in rounds)
    all_reduce = min(times[0].all_reduce)
    link = 2 * (num_ranks - 1) / num_ranks * gradient_bytes / all_reduce
    # One operation per second: the compute is measured, not counted.
    cluster = Cluster(1, num_ranks, 1.0, link, link)
    hidden = step_time(cluster, compute, 1, gradient_bytes)
    simulated = StepTime(compute, hidden.exchange, hidden.exchange).efficiency
    efficiency = compute / exchanged
    return {
        "ranks": num_ranks,
        "alone_ms": 1e3 * alone,
        "together_ms": 1e3 * compute,
        "exchanged_ms": 1e3 * exchanged,
        "all_reduce_ms": 1e3 * all_reduce,
        "gradients_mb": gradient_bytes / 1e6,
        "link_gb_s": link / 1e9,
        "sum_us": 1e6 * min(times[0].sum),
        "contention": alone / compute,
        "efficiency": efficiency,
        "simulated": simulated,
        "hidden": hidden.efficiency,
        "ratio": efficiency / simulated,
    }


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    of_table = commands.add_parser("table", help="what a step takes on up to 1,024 GPUs")
    of_table.add_argument("--model", choices=sorted(MODELS), default="base")
    of_table.add_argument("--batch", type=int, default=256, help="samples per GPU that fit")
    of_table.add_argument("--global-batch", type=int, help="samples per step, of all GPUs")
    of_table.add_argument("--most", type=int, default=1024, help="GPUs of the last row")
    of_table.add_argument("--pairs", type=float, default=1e9, help="samples of the whole run")
    for name, (value, text) in SPEEDS.items():
        of_table.add_argument(f"--{name}", type=float, default=value, help=f"{text} ({value})")
    for name in ("measure", "rank"):
        measured = commands.add_parser(name)
        measured.add_argument("--model", choices=sorted(MODELS), default="small")
        measured.add_argument("--batch", type=int, default=4, help="samples per rank")
        measured.add_argument("--rounds", type=int, default=5)
        measured.add_argument("--ranks", type=int, nargs="+", default=[2])
        measured.add_argument(
            "--clock",
            choices=["wall", "cpu"],
            default="wall",
            help="cpu: time that the processes compute, of which other programs take nothing; "
            "without the time that ranks wait for each other",
        )
        measured.add_argument("--tiny", action="store_true", help="one layer of each part")
    return parser


def main() -> None:
    options = parser().parse_args()
    {"table": table, "measure": measure, "rank": rank}[options.command](options)


if __name__ == "__main__":
    main()
