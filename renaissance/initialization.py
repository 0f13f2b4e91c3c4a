"""How new weights start."""

import math

from torch import nn

# BERT's standard deviation, and the width that it was chosen for.
STANDARD_DEVIATION = 0.02
WIDTH = 768


def initialize_linear(module: nn.Module) -> None:
    """Start a linear layer as BERT's of 768 would, at any width; pass to `Module.apply`.

    Normal with standard deviation 0.02 * sqrt(768 / inputs), so that what a layer adds to its
    stream is of the same size at every width (Glorot & Bengio, "Understanding the difficulty of
    training deep feedforward neural networks", AISTATS 2010). With 0.02 as it stands, a fusion of
    128 or 256 hardly passes anything between the modalities at first, and image-text matching
    stays at chance for thousands of steps.
    """
    if isinstance(module, nn.Linear):
        std = STANDARD_DEVIATION * math.sqrt(WIDTH / module.in_features)
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
