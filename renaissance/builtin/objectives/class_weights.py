"""Weights of classes: from their frequency, or as the run spec gives them."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from renaissance import Classes, SpecError, did_you_mean

ClassWeights: TypeAlias = Literal["balanced"] | Mapping[str, float] | Sequence[float]


def class_weights(given: ClassWeights, classes: Classes) -> list[float]:
    """Return one weight per class.

    "balanced" makes all classes count alike: with one class per sample, samples / (classes x
    samples of the class), as in scikit-learn; with any number of classes, samples without the class
    / samples with it, for the positive targets.

    Args:
        given: "balanced", weights by name (1 for the others), or one per class in their order.
        classes: The classes, counted in the training data.

    Raises:
        SpecError: If there are weights for other classes, or too many or too few.
    """
    if given == "balanced":
        return _balanced(classes)
    if isinstance(given, Mapping):
        for name, weight in given.items():
            if name not in classes.names:
                raise SpecError(
                    f"class_weights.{name}: there is no such class; expected some of "
                    f"{', '.join(classes.names[:20])}{did_you_mean(name, classes.names)}"
                )
            _check(f"class_weights.{name}", weight)
        return [float(given.get(name, 1.0)) for name in classes.names]
    if len(given) != len(classes.names):
        raise SpecError(
            f"class_weights: got {len(given)} weights, expected {len(classes.names)}, one for each "
            f"of {', '.join(classes.names[:20])}"
        )
    return [_check(f"class_weights[{i}]", float(weight)) for i, weight in enumerate(given)]


def _balanced(classes: Classes) -> list[float]:
    if not classes.num_samples:
        raise SpecError(
            "class_weights: 'balanced' needs the number of samples of each class, which the "
            "dataset cannot list; give the weights by name"
        )
    if not all(classes.counts):
        names = [n for n, count in zip(classes.names, classes.counts, strict=True) if not count]
        raise SpecError(
            f"class_weights: 'balanced' needs samples of every class, but the training data has "
            f"none of {', '.join(names[:5])}; give the weights by name, or leave the classes out"
        )
    total = classes.num_samples
    if classes.multi_label:
        return [max(total - count, 1) / count for count in classes.counts]
    return [total / (len(classes.counts) * count) for count in classes.counts]


def _check(where: str, weight: float) -> float:
    if weight <= 0:
        raise SpecError(f"{where}: got {weight}, expected a number above 0")
    return weight
