"""The scores of a split's samples, kept so that runs can be compared sample by sample."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from renaissance.data.concatenation import Concatenation
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.sample_digest import digest_of_samples
from renaissance.files import write_whole
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import record_tables

# Key of the metadata.
DATA = "data"


@attrs.frozen
class Scores:
    """The scores of the samples of a split.

    Attributes:
        by_metric: By "<objective>/<metric>", (samples,), in the order of the split.
        data: Digest of what decides which samples these are. Only scores with equal digests are of
            the same samples in the same order.
    """

    by_metric: Mapping[str, NDArray[np.float64]]
    data: str


def write_scores(
    run: RunFolder,
    split: str,
    spec: RunSpec,
    datasets: Concatenation,
    scores: Mapping[str, Sequence[float]],
) -> Path:
    """Write the scores of a split, float32, and return the file.

    Args:
        run: The run folder.
        split: Name of the split.
        spec: The spec of the evaluation.
        datasets: The datasets of the split.
        scores: By metric, in the order of the samples.
    """
    tensors = {name: np.array(values, np.float32) for name, values in scores.items()}
    path = run.scores(split)
    write_whole(path, save(tensors, {DATA: data_digest(spec, split, datasets)}))
    return path


def read_scores(run: RunFolder, split: str) -> Scores:
    """Return the scores of a split; none if there is no such file, or a damaged one."""
    try:
        with safe_open(run.scores(split), framework="np") as file:
            names: list[str] = file.keys()
            tensors = {name: file.get_tensor(name).astype(np.float64) for name in names}
            return Scores(tensors, (file.metadata() or {}).get(DATA, ""))
    except (OSError, SafetensorError):
        return Scores({}, "")


def data_digest(spec: RunSpec, split: str, datasets: Concatenation) -> str:
    """Return a digest of which samples a split has, in what order.

    It is made of the options of the datasets, the seed that some are made with, the number of
    samples, and the content of a few. It does not depend on where the data lies.

    Args:
        spec: The spec of the evaluation.
        split: Name of the split.
        datasets: The datasets of the split.
    """
    data = record_tables(spec)["data"]
    tables = data.get("train" if split == "train" else "validate", [])
    # Whom the samples are for, and how often they are drawn, does not change them.
    options = [
        {
            name: _relative(value, data["root"])
            for name, value in table.items()
            if name not in ("objectives", "weight")
        }
        for table in tables
    ]
    content = [digest_of_samples(dataset, spec.run.seed) for dataset in datasets.datasets]
    parts = [options, spec.run.seed, datasets.lengths, content]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _relative(value: object, root: str) -> object:
    """Return a value of the options, with paths in the data folder relative to it."""
    if isinstance(value, str):
        return value.removeprefix(f"{root}{os.sep}")
    if isinstance(value, list):
        return [_relative(item, root) for item in value]
    if isinstance(value, dict):
        return {name: _relative(item, root) for name, item in value.items()}
    return value
