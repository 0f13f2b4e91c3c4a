"""Initialization of new parameters."""

import math

from torch import nn

# BERT's standard deviation, and the width for which it was chosen.
STANDARD_DEVIATION = 0.02
WIDTH = 768


def initialize_linear(module: nn.Module) -> None:
    """Initialize a linear layer like BERT's, scaled to its width; for use with `Module.apply`.

    Weights are normal with standard deviation 0.02 * sqrt(768 / inputs), so that a layer's output
    has the same scale at every width (Glorot & Bengio, "Understanding the difficulty of training
    deep feedforward neural networks", AISTATS 2010). With a fixed 0.02, a fusion of width 128 or
    256 passes almost nothing between the modalities at first, and image-text matching stays at
    chance for thousands of steps.
    """
    if isinstance(module, nn.Linear):
        std = STANDARD_DEVIATION * math.sqrt(WIDTH / module.in_features)
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
