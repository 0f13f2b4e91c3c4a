"""The Matthews correlation, as GLUE computes it."""

import math

import torch
from torch import Tensor
from torchmetrics.classification import BinaryMatthewsCorrCoef


class Matthews(BinaryMatthewsCorrCoef):
    """Matthews correlation of two classes: 0 if all predictions, or all labels, are one class.

    The quotient is then 0 / 0, and scikit-learn, with which GLUE is scored, returns 0. TorchMetrics
    returns a value that depends on the counts, and 1 or -1 if there is only one class at all. It
    also computes in float32, in which the difference of large products loses most of its digits.
    """

    def compute(self) -> Tensor:
        """Return the correlation of all samples so far, from -1 to 1."""
        true_negatives, false_positives, false_negatives, true_positives = (
            int(count) for count in self.confmat.flatten()
        )
        covariance = true_positives * true_negatives - false_positives * false_negatives
        variances = (
            (true_positives + false_positives)
            * (true_positives + false_negatives)
            * (true_negatives + false_positives)
            * (true_negatives + false_negatives)
        )
        return torch.tensor(covariance / math.sqrt(variances) if variances else 0.0)
