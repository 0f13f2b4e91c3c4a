"""What must be the same on every rank, compared before the first step.

Each node reads its own copy of the spec and of the data. Where these differ, ranks would lose and
repeat samples, train with different learning rates, or wait for each other for ever.
"""

import hashlib
import json
import platform
from pathlib import Path

import torch
import transformers

import renaissance
from renaissance.data.collate import Collator
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.distributed import Ranks
from renaissance.engine.run_parts import RunParts
from renaissance.engine.sample_digest import digest_of_samples
from renaissance.engine.tensors import first_few
from renaissance.errors import SpecError, shortened
from renaissance.plugins.loading import Plugins
from renaissance.spec.write import settings, spec_tables

PIXELS = "pixels of the first samples"
# How messages show a setting that is not there.
ABSENT = "absent"
# Samples of each dataset: enough to give every objective something to do.
NUM_PROBE_SAMPLES = 4
# Bytes at the start and at the end of a file that are compared.
NUM_END_BYTES = 65536


def check_agreement(parts: RunParts, probe: MicroBatch, plugins: Plugins, ranks: Ranks) -> None:
    """Compare spec, data, vocabulary and versions; every rank must call it.

    Args:
        parts: The parts of the run.
        probe: The first training samples.
        plugins: The plugins of the run.
        ranks: The processes of the run.

    Raises:
        SpecError: On every rank, if a rank differs from rank 0.
    """
    spec = {path: str(value) for path, value in settings(spec_tables(parts.spec))}
    data = ranks.on_all_ranks(lambda: _data(parts))
    values = spec | surroundings(parts, probe) | _installed(plugins) | data
    # Decoders of different machines may round differently.
    del values[PIXELS]
    expected: dict[str, str] = json.loads(ranks.from_main(lambda: json.dumps(values)))
    differences = [
        f"{name}: {shown(values.get(name))}, on rank 0 {shown(expected.get(name))}"
        for name in dict.fromkeys([*expected, *values])
        if values.get(name) != expected.get(name)
    ]
    mine = json.dumps([platform.node(), first_few(differences)])
    (main_node, _), *others = map(json.loads, ranks.gather_text(mine))
    for rank, (node, text) in enumerate(others, start=1):
        if text:
            raise SpecError(
                f"rank {rank} ({node}) differs from rank 0 ({main_node}): {text}; start every node "
                "with the same command, files and versions"
            )


def _installed(plugins: Plugins) -> dict[str, str]:
    """Return the versions of Python and of what registers components."""
    versions = {f"plugin {r.distribution}": r.version for r in plugins.registry}
    return {"Python": ".".join(platform.python_version_tuple()[:2]), **versions}


def _data(parts: RunParts) -> dict[str, str]:
    """Return what tells other files under the same paths, and other rows of a table."""
    values: dict[str, str] = {}
    for collator in filter(None, (parts.train, parts.validate)):
        datasets = collator.datasets
        for name, dataset in zip(datasets.names, datasets.datasets, strict=True):
            # Both ends of a file tell its schema as well.
            values |= {f"file {path}": _about(path) for path in dataset.files}
            values[f"some texts and labels of {name}"] = digest_of_samples(dataset, seed=0)
    return values


def _about(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256()
        for start in (0, max(0, size - NUM_END_BYTES)):
            file.seek(start)
            digest.update(file.read(NUM_END_BYTES))
    return f"{size} bytes, ends {digest.hexdigest()[:16]}"


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
