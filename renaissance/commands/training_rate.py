"""How fast this machine trains, for the times of `renaissance study check`."""

import time

import torch
from torch import nn

from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.distributed import choose_device
from renaissance.engine.metrics import weighted_loss
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.optim import trainable_parameters
from renaissance.engine.precision import autocast
from renaissance.engine.run_parts import build
from renaissance.spec.sections import ResolvedSpec, RunSpec

# What a CPU gets to do in a pass: a second or two of one core.
MAX_CPU_FLOPS = 100_000_000_000
# As many as an estimate of memory looks at.
MAX_SAMPLES = 64


def device_of(spec: RunSpec) -> torch.device:
    """Return the device on which one process would train."""
    return choose_device(spec.train.device, 0, 0)


def training_rate(spec: RunSpec, flops: int) -> float | None:
    """Return the operations per second of a forward and a backward pass, in the run's precision.

    It measures a micro-batch, or as much of one as a CPU does quickly, without reading data,
    updating parameters, or waiting for other ranks.

    Args:
        spec: The run spec.
        flops: Operations of both passes, per sample.

    Returns:
        None if even one sample would take a CPU too long.

    Raises:
        RenaissanceError: If the run cannot be built.
    """
    device = device_of(spec)
    most = MAX_SAMPLES if device.type != "cpu" else MAX_CPU_FLOPS // max(1, flops)
    if most == 0:
        return None
    # Random parameters take as long as pretrained ones.
    parts = build(spec, 1, load_weights=False)
    network = parts.network.to(device).train()
    stream = parts.stream()
    num_samples = min(most, MAX_SAMPLES, parts.plan.micro_batch_size)
    batch = parts.train[[stream.at(position) for position in range(num_samples)]].to(device)
    # The first time, kernels are chosen and memory is allocated.
    seconds = [_seconds(network, batch, parts.spec, device) for _ in range(2)][-1]
    return flops * num_samples / seconds


def _seconds(
    network: MultiObjective, batch: MicroBatch, spec: ResolvedSpec, device: torch.device
) -> float:
    """Return the seconds of a forward and a backward pass."""
    started = time.perf_counter()
    with autocast(spec.train.precision, device, training=True):
        outputs = network(batch)
    num_targets = {name: max(1.0, batch.num_targets(name)) for name in outputs}
    torch.autograd.backward(weighted_loss(outputs, num_targets, spec.loss_weights))
    # Its value is known when the device is done.
    float(nn.utils.clip_grad_norm_(trainable_parameters(network), float("inf")))
    return time.perf_counter() - started
