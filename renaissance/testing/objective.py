"""The contract of objectives."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from renaissance.contracts.batches import ObjectiveBatch, Pairs
from renaissance.contracts.monitor import Guess
from renaissance.contracts.objective import Objective, ObjectiveOutput, PanelEntry, overrides
from renaissance.contracts.samples import Sample
from renaissance.data.micro_batch import MicroBatch, map_tensors
from renaissance.testing.contract_check import ContractCheck, ViolationError, require
from renaissance.testing.inputs import shape_of
from renaissance.testing.module import Subject, check_module
from renaissance.testing.predictions import check_predictions, check_without_labels
from renaissance.testing.randomness import global_state
from renaissance.testing.samples import SampleList, made_up_samples
from renaissance.testing.surroundings import NAME, Surroundings
from renaissance.testing.uses import check_uses

MIN_SAMPLES = 4
OUTPUTS = frozenset({"text", "image", "pooled"})
RELATIVE_TOLERANCE = 1e-3


def check_objective(
    component: type[Objective],
    options: object = None,
    *,
    samples: Sequence[Sample] | None = None,
    root: Path = Path(),
    compares_samples: bool = False,
) -> None:
    """Check an objective against its contract, on a tiny model.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.
        samples: Samples to train on, at least 4, with all labels; if absent, they are made up,
            which works for objectives without labels. To check prediction, `labels` are removed.
        root: What `data.root` would be.
        compares_samples: True if the loss compares the samples of a micro-batch with each other
            (a contrastive one), and so depends on all of them.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("objective", component)
    check.declaration()
    options = check.options(options)
    with check.part("samples"):
        _check_names(component)
        dataset = SampleList(_enough_samples(component, samples))
    check.stop_if_broken()
    surroundings = Surroundings(component, options, dataset, root)
    with check.part("making"):
        objective = surroundings.make()
        _check_attributes(objective)
    check.stop_if_broken()
    if not objective.learns:
        with check.part("learns"):
            _check_only_evaluates(objective)
        check.stop_if_broken()
        return
    for name, check_part in (("collation", _check_collation), ("loss", _check_loss)):
        with check.part(name):
            check_part(surroundings, objective)
        check.stop_if_broken()
    _check_results(check, surroundings, objective, compares_samples)
    check_module(check, Subject(surroundings.make, surroundings.loss), can_be_frozen=False)
    check.stop_if_broken()


def _enough_samples(
    component: type[Objective], samples: Sequence[Sample] | None
) -> Sequence[Sample]:
    if samples is None:
        return made_up_samples(component.requires | component.labels)
    require(
        len(samples) >= MIN_SAMPLES, f"got {len(samples)} samples, expected at least {MIN_SAMPLES}"
    )
    return samples


def _check_results(
    check: ContractCheck[Objective],
    surroundings: Surroundings,
    objective: Objective,
    compares_samples: bool,
) -> None:
    """Check what an objective whose loss is sound computes: each part independent of the others."""
    if not compares_samples:
        with check.part("batch splits"):
            _check_splits(surroundings, objective)
    with check.part("metrics"):
        _check_metrics(surroundings, objective, compares_samples)
    with check.part("panel"):
        _check_panel(surroundings, objective)
    with check.part("predictions"):
        check_predictions(surroundings, objective, compares_samples)
    with check.part("uses"):
        check_uses(surroundings, objective)
    if objective.labels:
        with check.part("without labels"):
            check_without_labels(surroundings, objective)


def _check_attributes(objective: Objective) -> None:
    # Again, since an instance may set its own labels.
    _check_names(objective)
    require(
        objective.unimodal <= {"text", "image"},
        f"unimodal is {set(objective.unimodal)!r}, expected some of 'text', 'image'",
    )


def _check_only_evaluates(objective: Objective) -> None:
    names = [name for name, _ in objective.named_parameters()]
    require(
        not names,
        f"learns is False, but it has parameters, which nothing trains: {', '.join(names)}; remove "
        "them, or set learns = True",
    )
    require(
        overrides(objective, "evaluate_split"),
        "learns is False, so only evaluate_split could measure anything; override it, or set "
        "learns = True",
    )


def _check_names(component: Objective | type[Objective]) -> None:
    for name in ("requires", "labels"):
        value = getattr(component, name)
        require(
            isinstance(value, frozenset),
            f"{name} is {value!r}, expected a frozenset of names that datasets provide",
        )
    both = sorted(component.requires & component.labels)
    require(
        not both,
        f"requires and labels both name {', '.join(both)}; name in labels what a split may lack, "
        "and in requires what prediction needs",
    )
    require(
        isinstance(component.compatible_heads, tuple),
        f"compatible_heads is {component.compatible_heads!r}, expected a tuple of objective types",
    )


def _tensors_of(batch: ObjectiveBatch) -> list[Tensor]:
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(keep, batch)
    return tensors


def _check_collation(surroundings: Surroundings, objective: Objective) -> None:
    for training in (True, False):
        with global_state(0):
            one = surroundings.batch(objective, training=training).objectives[NAME]
        _check_batch(one, surroundings.batch(objective, training=training))
        with global_state(1):
            other = surroundings.batch(objective, training=training).objectives[NAME]
        pairs = zip(_tensors_of(one), _tensors_of(other), strict=True)
        require(
            one.num_targets == other.num_targets and all(torch.equal(a, b) for a, b in pairs),
            "the same samples are collated differently each time; draw only from "
            "sample.generator(purpose), which is keyed by (seed, epoch, index)",
        )


def _check_batch(batch: object, micro_batch: MicroBatch) -> None:
    if not isinstance(batch, ObjectiveBatch):
        raise ViolationError(f"collate returned {type(batch).__name__}, expected an ObjectiveBatch")
    count = batch.num_targets
    require(
        isinstance(count, int) and not isinstance(count, bool) and count >= 0,
        f"num_targets is {count!r}, expected the number of terms that the loss sums, an int",
    )
    for name, tensor in batch.tensors.items():
        require(
            isinstance(tensor, Tensor),
            f"tensors[{name!r}] is {shape_of(tensor)}, expected a tensor: only tensors are copied "
            "to the device",
        )
    if batch.pairs is not None:
        _check_pairs(batch.pairs, micro_batch)


def _check_pairs(pairs: Pairs, micro_batch: MicroBatch) -> None:
    for name, rows, inputs in (
        ("text_rows", pairs.text_rows, micro_batch.input_ids),
        ("image_rows", pairs.image_rows, micro_batch.pixel_values),
    ):
        count = 0 if inputs is None else len(inputs)
        require(
            rows.dtype == torch.int64 and rows.dim() == 1,
            f"pairs.{name} is {shape_of(rows)}, expected (pairs,) int64",
        )
        require(
            not len(rows) or (int(rows.min()) >= 0 and int(rows.max()) < count),
            f"pairs.{name} names rows that the micro-batch does not have (it has {count}); ask the "
            "builder for them: builder.text(sample), builder.image(sample)",
        )
    require(
        len(pairs.text_rows) == len(pairs.image_rows),
        f"pairs has {len(pairs.text_rows)} text rows and {len(pairs.image_rows)} image rows, "
        "expected one of each per pair",
    )
    require(
        pairs.outputs <= OUTPUTS,
        f"pairs.outputs is {set(pairs.outputs)}, expected some of {', '.join(sorted(OUTPUTS))}",
    )


def _check_loss(surroundings: Surroundings, objective: Objective) -> None:
    surroundings.model.requires_grad_(True)
    try:
        batch = surroundings.batch(objective, training=True)
        output: object = surroundings.run(objective, batch)
        if not isinstance(output, ObjectiveOutput):
            raise ViolationError(
                f"forward returned {type(output).__name__}, expected an ObjectiveOutput"
            )
        loss = output.loss_sum
        require(
            loss.shape == () and loss.is_floating_point() and bool(loss.isfinite()),
            f"loss_sum is {shape_of(loss)}, {loss.tolist()}, expected one finite number, ()",
        )
        require(
            loss.requires_grad,
            "the loss has no gradient; compute it from `features`, without detach or no_grad",
        )
        torch.autograd.backward(loss)
        is_reached = any(p.grad is not None for p in surroundings.model.parameters())
        require(is_reached, "no gradient of the loss reaches the model; compute it from `features`")
    finally:
        surroundings.model.zero_grad()
        surroundings.model.requires_grad_(False)
    attached = [name for name, value in output.predictions.items() if value.requires_grad]
    require(
        not attached, f"predictions {', '.join(attached)} keep the graph; call detach() on them"
    )


def _splits(surroundings: Surroundings) -> list[list[list[int]]]:
    half = len(surroundings.indices) // 2
    return [
        [surroundings.indices],
        [surroundings.indices[:half], surroundings.indices[half:]],
        [[index] for index in surroundings.indices],
    ]


def _same(values: Sequence[float]) -> bool:
    return all(
        math.isclose(value, values[0], rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-5) for value in values
    )


def _check_splits(surroundings: Surroundings, objective: Objective) -> None:
    counts, losses = [], []
    for split in _splits(surroundings):
        batches = [surroundings.batch(objective, indices) for indices in split]
        counts.append(sum(batch.objectives[NAME].num_targets for batch in batches))
        with torch.no_grad():
            losses.append(sum(float(surroundings.run(objective, b).loss_sum) for b in batches))
    sizes = "one micro-batch, in two, and one sample at a time"
    require(
        len(set(counts)) == 1,
        f"in evaluation the samples have {counts} targets in {sizes}, expected the same number: "
        "a target may depend only on its sample and on builder.other_sample",
    )
    require(
        _same(losses),
        f"in evaluation the loss is {[round(loss, 4) for loss in losses]} in {sizes}, expected the "
        "same sum: sum over the targets (reduction='sum'), leave padding out, and do not let a "
        "sample depend on its neighbours (if it must, pass compares_samples=True)",
    )


def _check_metrics(
    surroundings: Surroundings, objective: Objective, compares_samples: bool
) -> None:
    # Imported here because it takes a second.
    from torchmetrics import Metric

    results: dict[str, list[list[float]]] = {}
    for split in _splits(surroundings)[:2]:
        metrics = objective.metrics()
        for name, metric in metrics.items():
            require(
                isinstance(metric, Metric),
                f"metrics()[{name!r}] is {type(metric).__name__}, expected a torchmetrics.Metric",
            )
        for indices in split:
            batch = surroundings.batch(objective, indices)
            with torch.no_grad():
                output = surroundings.run(objective, batch)
            objective.update_metrics(metrics, batch.objectives[NAME], output)
        for name, metric in metrics.items():
            value = metric.compute()
            for figure, number in (value if isinstance(value, dict) else {name: value}).items():
                figures = torch.as_tensor(number).flatten().tolist()
                results.setdefault(figure, []).append(figures)
        for name, picture in objective.pictures(metrics).items():
            require(
                isinstance(picture, Image.Image),
                f"pictures()[{name!r}] is {type(picture).__name__}, expected a PIL image",
            )
    first = objective.metrics()
    shared = [name for name, metric in objective.metrics().items() if metric is first[name]]
    require(
        not shared,
        f"metrics() returns the same {', '.join(shared)} every time, expected new ones: training "
        "and evaluation must not share them",
    )
    for name, (whole, halves) in results.items():
        require(
            compares_samples or all(map(_same, zip(whole, halves, strict=True))),
            f"{name} is {_shown(whole)} over one micro-batch and {_shown(halves)} over two of half "
            "the size, expected the same; count each target once (renaissance.accuracy() of one "
            "value per target)",
        )


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values[:4])


def _check_panel(surroundings: Surroundings, objective: Objective) -> None:
    batch = surroundings.batch(objective)
    with torch.no_grad():
        output = surroundings.run(objective, batch)
    count = 0 if batch.pixel_values is None else len(batch.pixel_values)
    for entry in surroundings.panel(objective, batch, output):
        if not isinstance(entry, PanelEntry):
            raise ViolationError(f"panel returned {type(entry).__name__}, expected PanelEntry")
        require(
            0 <= entry.image_row < count
            and all(isinstance(line, str | Guess) for line in entry.lines),
            f"panel returned {entry}, expected an image row below {count}, and text or guesses",
        )
