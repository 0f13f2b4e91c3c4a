"""Pairs that several objectives read are fused once."""

from collections.abc import Mapping

import attrs
import numpy as np
import torch
from torch import Tensor

from renaissance.contracts.batches import ObjectiveBatch, Pairs


@attrs.frozen
class SharedPairs:
    """The distinct pairs of a micro-batch, grouped by the objectives that read them.

    Attributes:
        groups: Distinct pairs, with the outputs that any of their objectives reads, by index.
        groups_of: The groups that each objective reads.
        order: For each pair of an objective, its index in these groups, one after the other,
            (pairs,), int64.
    """

    groups: Mapping[int, Pairs]
    groups_of: Mapping[str, tuple[int, ...]]
    order: Mapping[str, Tensor]


def share_pairs(objectives: Mapping[str, ObjectiveBatch]) -> SharedPairs | None:
    """Find the pairs that are equal: of the same text row, image row and image type.

    Returns:
        None if no two are.
    """
    batches = [(name, batch) for name, batch in objectives.items() if _has_pairs(batch)]
    requests = {name: batch.fused_pairs for name, batch in batches}
    if not requests:
        return None
    keys = np.concatenate([_keys(pairs) for pairs in requests.values()])
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    if len(distinct) == len(keys):
        return None
    stops = np.cumsum([len(pairs.text_rows) for pairs in requests.values()])
    indices = dict(zip(requests, np.split(inverse.reshape(-1), stops[:-1]), strict=True))
    # One bit per objective.
    readers = np.zeros(len(distinct), np.int64)
    for bit, rows in enumerate(indices.values()):
        readers[rows] |= 1 << bit
    members = {int(value): np.flatnonzero(readers == value) for value in np.unique(readers)}
    groups, groups_of, order = {}, {}, {}
    for value, rows in members.items():
        outputs = [p.outputs for bit, p in enumerate(requests.values()) if value & 1 << bit]
        text_rows, image_rows, image_types = torch.from_numpy(distinct[rows].T.copy())
        groups[value] = Pairs(text_rows, image_rows, image_types, frozenset().union(*outputs))
    for bit, (name, rows) in enumerate(indices.items()):
        own = [value for value in members if value & 1 << bit]
        index = np.empty(len(distinct), np.int64)
        read = np.concatenate([members[value] for value in own])
        index[read] = np.arange(len(read))
        groups_of[name], order[name] = tuple(own), torch.from_numpy(index[rows])
    return SharedPairs(_without_types(groups, requests), groups_of, order)


def _has_pairs(batch: object) -> bool:
    # What breaks the contract of objectives is left to what reads it, which can say so.
    pairs = batch.pairs if isinstance(batch, ObjectiveBatch) else None
    return pairs is not None and len(pairs.text_rows) == len(pairs.image_rows)


def _keys(pairs: Pairs) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    types = torch.ones_like(pairs.image_rows) if pairs.image_types is None else pairs.image_types
    return torch.stack([pairs.text_rows, pairs.image_rows, types], dim=1).numpy()


def _without_types(groups: Mapping[int, Pairs], requests: Mapping[str, Pairs]) -> dict[int, Pairs]:
    """Leave the types out if no objective gave any."""
    if any(pairs.image_types is not None for pairs in requests.values()):
        return dict(groups)
    return {index: attrs.evolve(pairs, image_types=None) for index, pairs in groups.items()}
