"""Find parameters that no objective reads.

DistributedDataParallel waits for the gradient of every trainable parameter. Those of a part that
no objective reads (the last fusion layer's image stream under masked language modelling, a pooler
under a text objective) never get one, so they are taken out before the first step. This costs one
forward and backward of one micro-batch, once; searching at every step would cost every step.
"""

import torch

from renaissance.data.collate import MicroBatch
from renaissance.engine.distributed import Ranks
from renaissance.engine.multi_objective import MultiObjective


def freeze_unused_parameters(network: MultiObjective, batch: MicroBatch, ranks: Ranks) -> list[str]:
    """Stop training parameters that receive no gradient on any rank.

    Returns:
        Their names.
    """
    # Evaluation mode: no dropout is drawn and no running statistics move.
    network.eval()
    outputs = network(batch.to(ranks.device))
    loss = torch.stack([output.loss_sum for output in outputs.values()]).sum()
    torch.autograd.backward(loss)
    trainable = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    read = ranks.sum([float(parameter.grad is not None) for _, parameter in trainable])
    released = []
    for (name, parameter), times in zip(trainable, read, strict=True):
        parameter.grad = None
        if times == 0:
            parameter.requires_grad_(False)
            released.append(name)
    network.train()
    return released
