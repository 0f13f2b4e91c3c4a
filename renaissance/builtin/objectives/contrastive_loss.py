"""The losses of `itc`, from the logits of samples with candidates.

softmax: Radford et al., "CLIP", ICML 2021; several positives per sample as in Li et al., "ALBEF",
NeurIPS 2021. sigmoid: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import attrs
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["softmax", "sigmoid"]


@attrs.frozen
class ContrastiveLoss:
    """One of the losses, and where its scale and bias start.

    Attributes:
        of: Turns logits and positives, (samples, candidates) each, into the loss of each sample.
        scale: What cosines are multiplied by at first.
        bias: What is then added, at first; None for a loss that a bias does not change.
        max_scale: Limit of the scale.
    """

    of: Callable[[Tensor, Tensor], Tensor]
    scale: float
    bias: float | None = None
    max_scale: float = math.inf


def _softmax(logits: Tensor, positives: Tensor) -> Tensor:
    """Return the cross-entropy with targets spread evenly over the positives, by row."""
    targets = positives / positives.sum(1, keepdim=True)
    return F.cross_entropy(logits, targets, reduction="none")


def _sigmoid(logits: Tensor, positives: Tensor) -> Tensor:
    """Return the binary cross-entropy of each candidate, summed by row."""
    targets = positives.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


LOSSES: Mapping[LossName, ContrastiveLoss] = {
    "softmax": ContrastiveLoss(_softmax, scale=1 / 0.07, max_scale=100.0),
    "sigmoid": ContrastiveLoss(_sigmoid, scale=10.0, bias=-10.0),
}


def losses_and_accuracies(
    to_image: Tensor, to_text: Tensor, positives: Tensor, loss: LossName
) -> dict[str, Tensor]:
    """Return each sample's loss, and whether its nearest neighbours are right, (samples,) each.

    Args:
        to_image: Logits of each sample's text with all images, (samples, candidates).
        to_text: Logits of each sample's image with all texts, (samples, candidates).
        positives: Whether a candidate has the sample's image, (samples, candidates), bool.
        loss: The loss, which is the mean of both directions.
    """
    of = LOSSES[loss].of
    return {
        "loss": (of(to_image, positives) + of(to_text, positives)) / 2,
        "text_to_image_accuracy": _is_right(to_image, positives),
        "image_to_text_accuracy": _is_right(to_text, positives),
    }


def _is_right(logits: Tensor, positives: Tensor) -> Tensor:
    """Return whether each row's largest logit is a positive's: (rows,), bool."""
    return positives.gather(1, logits.detach().argmax(1, keepdim=True))[:, 0]
