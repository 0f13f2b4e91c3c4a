"""Find parameters that no objective uses.

DistributedDataParallel waits for the gradient of every trainable parameter. Those that no objective
uses (the last fusion layer's image stream under masked language modelling, the pooler under an
objective that reads only text) never get one, so they are frozen before the first step. That costs
one forward and backward of one micro-batch per run; DDP's own search for them costs time at every
step.
"""

import torch

from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.distributed import Ranks
from renaissance.engine.multi_objective import MultiObjective


def freeze_unused_parameters(network: MultiObjective, batch: MicroBatch, ranks: Ranks) -> list[str]:
    """Freeze the parameters that receive no gradient on any rank; every rank must call it.

    Args:
        network: Model and objectives, on the device.
        batch: A micro-batch with samples for every objective.
        ranks: The processes of the run.

    Returns:
        The names of the parameters that are now frozen.
    """
    # In evaluation mode no dropout is drawn, and running statistics stay as they are.
    network.eval()
    outputs = network(batch.to(ranks.device))
    loss = torch.stack([output.loss_sum for output in outputs.values()]).sum()
    torch.autograd.backward(loss)
    trainable = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    num_gradients = ranks.sum([float(parameter.grad is not None) for _, parameter in trainable])
    unused = []
    for (name, parameter), count in zip(trainable, num_gradients, strict=True):
        parameter.grad = None
        if count == 0:
            parameter.requires_grad_(False)
            unused.append(name)
    network.train()
    return unused
