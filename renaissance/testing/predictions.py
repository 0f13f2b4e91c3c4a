"""What objectives promise of predictions, and of splits without labels."""

import io
import json
import math
from typing import Any

import attrs
import torch

from renaissance.contracts.objective import Objective, ObjectiveOutput
from renaissance.data.collate import MicroBatch
from renaissance.testing.contract_check import require
from renaissance.testing.samples import SampleList
from renaissance.testing.surroundings import NAME, Surroundings

RELATIVE_TOLERANCE = 1e-3


def check_predictions(
    surroundings: Surroundings, objective: Objective, compares_samples: bool
) -> None:
    """Check that predictions survive the way through JSON into one file."""
    rows = predict(surroundings, objective)
    require(
        isinstance(rows, list) and all(isinstance(row, dict) for row in rows),
        f"predictions returned {rows!r:.80}, expected a list of one dict a target",
    )
    for row in rows:
        require(
            _as_json(row) == row,
            f"predictions returned {row!r}, which JSON does not give back as it was; use strings, "
            "numbers, booleans, None, lists and dicts with string keys (tensor.tolist())",
        )
    if not compares_samples:
        alone = [row for i in surroundings.indices for row in predict(surroundings, objective, [i])]
        require(
            _alike(rows, alone),
            f"predictions are {rows!r:.120} in one micro-batch and {alone!r:.120} one sample at a "
            "time, expected the same: one row a target, in the order of the samples",
        )
    file = io.StringIO()
    objective.write_predictions(rows, file)
    require(not file.closed, "write_predictions closed the file; leave that to who opened it")
    require(
        bool(file.getvalue()) or not rows,
        f"write_predictions wrote nothing of {len(rows)} rows; write all of them into the file "
        "that it is given",
    )


def predict(
    surroundings: Surroundings, objective: Objective, indices: list[int] | None = None
) -> list[dict[str, Any]]:
    """Return the predictions for some samples, or all, in evaluation."""
    batch = surroundings.batch(objective, indices)
    return objective.predictions(batch.objectives[NAME], _run(surroundings, objective, batch))


def check_without_labels(surroundings: Surroundings, objective: Objective) -> None:
    """Check that samples without the labels can be predicted, and teach nothing."""
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
    found = batch.objectives[NAME]
    require(
        found.num_targets == 0,
        f"of samples without {', '.join(sorted(objective.labels))} num_targets is "
        f"{found.num_targets}, expected 0: they teach and measure nothing",
    )
    output = _run(bare, objective, batch)
    require(
        bool(output.loss_sum.isfinite()),
        f"of samples without labels loss_sum is {output.loss_sum.tolist()}, expected a finite "
        "number; return `logits.sum() * 0`",
    )
    objective.update_metrics(objective.metrics(), found, output)
    objective.panel(found, output, batch.input_ids)
    require(
        _alike(predict(surroundings, objective), objective.predictions(found, output)),
        "predictions are others, or fewer, without labels than with them; make them of "
        "batch.identifiers and output.predictions alone, never of the labels",
    )


def _run(surroundings: Surroundings, objective: Objective, batch: MicroBatch) -> ObjectiveOutput:
    with torch.no_grad():
        return surroundings.run(objective, batch)


def _as_json(row: dict[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(row))
    except TypeError:
        return None


def _alike(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same up to rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-5)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return bool(one == other)
