"""The predictions of a micro-batch, in digits that do not depend on how samples are batched."""

from typing import Any, TypeAlias

from renaissance.contracts.batches import ObjectiveBatch
from renaissance.contracts.objective import Objective, ObjectiveOutput

# A row that an objective returns from `predictions`; JSON can hold it.
Prediction: TypeAlias = dict[str, Any]

# Significant digits of numbers. Single precision has seven, of which the last depend on the batch.
DIGITS = 4


def predictions_of(
    objective: Objective, batch: ObjectiveBatch, output: ObjectiveOutput
) -> list[Prediction]:
    """Return an objective's predictions, with rounded numbers."""
    return [_rounded(row) for row in objective.predictions(batch, output)]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
