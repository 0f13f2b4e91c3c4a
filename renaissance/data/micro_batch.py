"""A micro-batch: what one rank sends through the model at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from renaissance.contracts.batches import ObjectiveBatch, Pairs
from renaissance.contracts.packing import Packing
from renaissance.data.cache.batch_images import KnownStates
from renaissance.data.packing import find_real_tokens, pack_texts
from renaissance.data.shared_pairs import SharedPairs

T = TypeVar("T")
Leaf = TypeVar("Leaf")


@attrs.frozen
class MicroBatch:
    """What one rank sends through the model at once.

    Attributes:
        indices: Index of each sample in the concatenated datasets, (samples,), int64.
        input_ids: Distinct text views, (texts, tokens), int64; None if there are no texts.
        attention_mask: True where real, (texts, tokens), bool; None if there are no texts.
        pixel_values: Distinct images, (images, 3, size, size), uint8, normalized later, on the
            device; None if there are no images. Those in `known_states` are left out.
        objectives: What each objective collated, by name, without those that got no samples.
        bad_samples: Messages about unreadable records, which are left out, by index.
        shared_pairs: What to fuse, if several objectives read the same pairs.
        packing: How to encode the texts without their padding, in training, if there is much; the
            pairs then say which text tokens are real.
        known_states: The images whose token states a cache holds; None without such a cache.
    """

    indices: Tensor
    input_ids: Tensor | None
    attention_mask: Tensor | None
    pixel_values: Tensor | None
    objectives: Mapping[str, ObjectiveBatch]
    bad_samples: Mapping[int, str] = attrs.field(factory=dict)
    shared_pairs: SharedPairs | None = None
    packing: Packing | None = None
    known_states: KnownStates | None = None

    @property
    def has_images(self) -> bool:
        """Whether there are any images."""
        return self.pixel_values is not None or self.known_states is not None

    def num_targets(self, objective: str) -> int:
        """Return the number of targets of an objective, 0 if it got no samples."""
        batch = self.objectives.get(objective)
        return 0 if batch is None else batch.num_targets

    def to(self, device: torch.device) -> "MicroBatch":
        """Copy to a device; asynchronous if memory is pinned."""
        return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), self)

    def pin_memory(self) -> "MicroBatch":
        """Copy to pinned memory; called by the loader."""
        return map_tensors(lambda tensor: tensor.pin_memory(), self)


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Apply a function to every tensor in nested attrs objects and mappings."""
    return map_leaves(Tensor, function, value)


def map_leaves(kind: type[Leaf], function: Callable[[Leaf], object], value: T) -> T:
    """Replace every value of a type in nested attrs objects and mappings."""
    if isinstance(value, kind):
        return function(value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {k: map_leaves(kind, function, v) for k, v in value.items()}  # type: ignore[return-value]
    # mypy does not learn from the type of a value what the value is.
    nested: Any = value
    if attrs.has(type(nested)):
        fields = attrs.fields_dict(type(nested))
        changes = {name: map_leaves(kind, function, getattr(value, name)) for name in fields}
        changed: T = attrs.evolve(nested, **changes)
        return changed
    return value


def without_padding(batch: MicroBatch, lengths: Sequence[int]) -> MicroBatch:
    """Return a micro-batch that says how to do without padding, if there is much.

    Args:
        batch: A micro-batch with texts.
        lengths: Length of each text in tokens.
    """
    width = 0 if batch.input_ids is None else batch.input_ids.shape[1]
    packing = pack_texts(lengths, width)
    if packing is None:
        return batch
    batch = map_leaves(Pairs, lambda pairs: find_real_tokens(pairs, lengths, width), batch)
    return attrs.evolve(batch, packing=packing)
