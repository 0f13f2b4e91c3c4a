"""The scores of a split's samples, kept so that runs can be compared sample by sample."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from renaissance.engine.run_folder import RunFolder
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
    run: RunFolder, split: str, spec: RunSpec, scores: Mapping[str, Sequence[float]]
) -> Path:
    """Write the scores of a split, float32, and return the file.

    Args:
        run: The run folder.
        split: Name of the split.
        spec: The spec of the evaluation.
        scores: By metric, in the order of the samples.
    """
    tensors = {name: np.array(values, np.float32) for name, values in scores.items()}
    path = run.scores(split)
    write_whole(path, save(tensors, {DATA: data_digest(spec, split)}))
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


def data_digest(spec: RunSpec, split: str) -> str:
    """Return a digest of the datasets of a split, and of the seed that some are made with."""
    data = record_tables(spec)["data"]
    datasets = data.get("train" if split == "train" else "validate", [])
    # Whom the samples are for, and how often they are drawn, does not change them.
    samples = [
        {key: value for key, value in dataset.items() if key not in ("objectives", "weight")}
        for dataset in datasets
    ]
    text = json.dumps([data.get("root"), samples, spec.run.seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
