"""Encode chosen texts or images of a dataset, outside of micro-batches with objectives."""

from collections.abc import Sequence

import torch

from renaissance.contracts.samples import KeyedSample
from renaissance.contracts.splits import EncodedRows
from renaissance.contracts.tokens import Modality, Tokens
from renaissance.data.collate import RowBuilder
from renaissance.data.sample_reader import SampleReader
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.spec.sections import Precision


def encode_rows(
    network: MultiObjective,
    reader: SampleReader,
    modality: Modality,
    indices: Sequence[int],
    precision: Precision,
    device: torch.device,
) -> EncodedRows:
    """Encode the texts or the first images of samples, one row per index.

    Args:
        network: Model and objectives, in evaluation mode.
        reader: Reads the samples.
        modality: "text" or "image".
        indices: Indices of the samples.
        precision: `train.precision`.
        device: The network's device.

    Raises:
        DataError: If a sample cannot be read.
    """
    samples = [reader.sample(0, index) for index in indices]
    return encode_samples(network, reader, modality, samples, precision, device)


def encode_samples(
    network: MultiObjective,
    reader: SampleReader,
    modality: Modality,
    samples: Sequence[KeyedSample],
    precision: Precision,
    device: torch.device,
) -> EncodedRows:
    """Encode the texts or the first images of samples that have been read; see `encode_rows`."""
    builder = RowBuilder(reader)
    row_of = builder.text if modality == "text" else builder.image
    rows = torch.tensor([row_of(s) for s in samples], dtype=torch.int64, device=device)
    batch = builder.micro_batch(samples, {}, {}).to(device)
    with torch.no_grad(), autocast(precision, device):
        encoded = network.encode(batch)
        alone = network.encode_alone(network.named_objectives(), encoded)
    features = alone.get(modality)
    return EncodedRows(
        _take(encoded[modality], rows), None if features is None else _take(features, rows)
    )


def _take(tokens: Tokens, rows: torch.Tensor) -> Tokens:
    return tokens.map(lambda part: part[rows])
