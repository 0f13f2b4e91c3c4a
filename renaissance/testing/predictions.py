"""What objectives promise about predictions, and about splits without labels."""

import inspect
import io
import json
import math
from typing import Any

import attrs
import torch

from renaissance.contracts.objective import Objective, ObjectiveOutput
from renaissance.data.micro_batch import MicroBatch
from renaissance.errors import quoted
from renaissance.testing.contract_check import require
from renaissance.testing.samples import SampleList
from renaissance.testing.surroundings import NAME, Surroundings

RELATIVE_TOLERANCE = 1e-3


def check_predictions(
    surroundings: Surroundings, objective: Objective, compares_samples: bool
) -> None:
    """Check that JSON can hold predictions, and that they are written to the file."""
    rows = predict(surroundings, objective)
    require(
        isinstance(rows, list) and all(isinstance(row, dict) for row in rows),
        f"predictions returned {rows!r:.80}, expected a list of one dict per target",
    )
    for row in rows:
        require(
            _as_json(row) == row,
            f"predictions returned {quoted(row)}, which does not survive JSON; use strings, "
            "numbers, booleans, None, lists and dicts with string keys (tensor.tolist())",
        )
    if not compares_samples:
        alone = [row for i in surroundings.indices for row in predict(surroundings, objective, [i])]
        require(
            _alike(rows, alone),
            f"predictions are {rows!r:.120} in one micro-batch and {alone!r:.120} one sample at a "
            "time, expected the same: one row per target, in the order of the samples",
        )
    file = io.StringIO()
    objective.write_predictions(rows, file)
    require(not file.closed, "write_predictions closed the file; leave that to its caller")
    require(
        bool(file.getvalue()) or not rows,
        f"write_predictions wrote none of {len(rows)} rows; write all of them to the file that it "
        "is given",
    )
    checker = inspect.getattr_static(objective, "check_predictions")
    require(
        isinstance(checker, classmethod | staticmethod),
        "check_predictions is an instance method, expected a class method: it is called without a "
        "model; write @classmethod above it",
    )


def predict(
    surroundings: Surroundings, objective: Objective, indices: list[int] | None = None
) -> list[dict[str, Any]]:
    """Return the predictions for some samples, or for all, in evaluation."""
    batch = surroundings.batch(objective, indices)
    return objective.predictions(batch.objectives[NAME], _run(surroundings, objective, batch))


def check_without_labels(surroundings: Surroundings, objective: Objective) -> None:
    """Check that samples without labels can be predicted, and do not affect loss and metrics."""
    samples = [
        attrs.evolve(
            sample,
            labels={n: v for n, v in sample.labels.items() if n not in objective.labels},
        )
        for sample in surroundings.dataset.samples
    ]
    bare = Surroundings(
        surroundings.component, surroundings.options, SampleList(samples), surroundings.root
    )
    batch = bare.batch(objective)
    unlabelled = batch.objectives[NAME]
    require(
        unlabelled.num_targets == 0,
        f"for samples without {', '.join(sorted(objective.labels))} num_targets is "
        f"{unlabelled.num_targets}, expected 0: nothing is learned from them, and no metric "
        "counts them",
    )
    output = _run(bare, objective, batch)
    require(
        bool(output.loss_sum.isfinite()),
        f"for samples without labels loss_sum is {output.loss_sum.tolist()}, expected a finite "
        "number; return `logits.sum() * 0`",
    )
    objective.update_metrics(objective.metrics(), unlabelled, output)
    bare.panel(objective, batch, output)
    require(
        _alike(predict(surroundings, objective), objective.predictions(unlabelled, output)),
        "predictions without labels differ from those with labels; compute them from "
        "batch.identifiers and output.predictions alone, never from the labels",
    )


def _run(surroundings: Surroundings, objective: Objective, batch: MicroBatch) -> ObjectiveOutput:
    with torch.no_grad():
        return surroundings.run(objective, batch)


def _as_json(row: object) -> object:
    try:
        return json.loads(json.dumps(row))
    except TypeError:
        return None


def _alike(one: object, other: object) -> bool:
    """Return whether two JSON values are the same up to rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-5)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return bool(one == other)
