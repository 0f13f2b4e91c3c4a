"""What must be the same on every rank, compared before the first step.

Each node reads its own copy of the spec and of the data. Where these differ, ranks would lose and
repeat samples, train with different learning rates, or wait for each other for ever.
"""

import hashlib
import json
import platform

import torch
import transformers

import renaissance
from renaissance.data.collate import Collator, MicroBatch
from renaissance.engine.distributed import Ranks
from renaissance.engine.run_parts import RunParts
from renaissance.engine.tensors import first_few
from renaissance.errors import SpecError, shortened
from renaissance.spec.write import settings, spec_tables

PIXELS = "pixels of the first samples"
# How messages show a setting that is not there.
ABSENT = "absent"
# Samples of each dataset: enough to give every objective something to do.
NUM_PROBE_SAMPLES = 4


def check_agreement(parts: RunParts, probe: MicroBatch, ranks: Ranks) -> None:
    """Compare spec, data, vocabulary and versions; every rank must call it.

    Args:
        parts: The parts of the run.
        probe: The first training samples.
        ranks: The processes of the run.

    Raises:
        SpecError: On every rank, if a rank differs from rank 0.
    """
    spec = {path: str(value) for path, value in settings(spec_tables(parts.spec))}
    values = spec | surroundings(parts, probe)
    # Decoders of different machines may round differently.
    del values[PIXELS]
    mine = json.dumps([platform.node(), values])
    (main_node, expected), *others = map(json.loads, ranks.gather_text(mine))
    for rank, (node, actual) in enumerate(others, start=1):
        differences = [
            f"{name}: {shown(actual.get(name))}, on rank 0 {shown(expected.get(name))}"
            for name in dict.fromkeys([*expected, *actual])
            if actual.get(name) != expected.get(name)
        ]
        if differences:
            raise SpecError(
                f"rank {rank} ({node}) differs from rank 0 ({main_node}): "
                f"{first_few(differences)}; start every node with the same command, files and "
                "versions"
            )


def surroundings(parts: RunParts, probe: MicroBatch) -> dict[str, str]:
    """Return what a run depends on besides its spec: data, vocabulary and versions.

    Args:
        parts: The parts of the run.
        probe: The first training samples.
    """
    vocabulary = json.dumps(sorted(parts.tokenizer.get_vocab().items()))
    texts = b"" if probe.input_ids is None else probe.input_ids.numpy().tobytes()
    images = b"" if probe.pixel_values is None else probe.pixel_values.numpy().tobytes()
    validate = parts.validate
    return {
        "training samples": str(parts.train.datasets.lengths),
        "validation samples": str(validate.datasets.lengths if validate else []),
        "token ids of the first samples": hashlib.sha256(texts).hexdigest()[:16],
        PIXELS: hashlib.sha256(images).hexdigest()[:16],
        "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
        **{
            f"classes of objective '{name}'": json.dumps(record)
            for name, record in parts.answers.records().items()
        },
        "renaissance": renaissance.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def shown(value: str | None) -> str:
    """Return a setting for a message."""
    return ABSENT if value is None else shortened(value)


def probe_keys(collator: Collator) -> list[tuple[int, int]]:
    """Return a few samples of each dataset, so that every objective has some."""
    keys: list[tuple[int, int]] = []
    start = 0
    for length in collator.datasets.lengths:
        keys += [(0, start + index) for index in range(min(NUM_PROBE_SAMPLES, length))]
        start += length
    return keys
