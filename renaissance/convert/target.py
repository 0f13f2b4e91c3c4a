"""What a checkpoint becomes: a spec, and tensors by our names."""

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor


@attrs.frozen
class Target:
    """A run to write.

    Attributes:
        tables: Its spec.
        tensors: Its tensors, by their names in the network's state dict.
        left: Tensors of the source that it has no place for.
        answers: What `classes.json` keeps, by objective.
        notes: What to say of modules of the network, by name.
    """

    tables: dict[str, Any]
    tensors: Mapping[str, Tensor]
    left: Mapping[str, Tensor]
    answers: Mapping[str, dict[str, Any]] = {}
    notes: Mapping[str, str] = {}
