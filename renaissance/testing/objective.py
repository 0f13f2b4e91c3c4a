"""The contract of objectives."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from renaissance.contracts.batches import ObjectiveBatch, Pairs
from renaissance.contracts.objective import Objective, ObjectiveOutput, PanelEntry
from renaissance.contracts.samples import Sample
from renaissance.data.collate import MicroBatch, map_tensors
from renaissance.testing.contract_check import ContractCheck, ViolationError, require
from renaissance.testing.inputs import shape_of
from renaissance.testing.module import Subject, check_module
from renaissance.testing.predictions import check_predictions, check_without_labels
from renaissance.testing.randomness import global_state
from renaissance.testing.samples import SampleList, made_up_samples
from renaissance.testing.surroundings import NAME, Surroundings

MIN_SAMPLES = 4
READS = frozenset({"text", "image", "pooled"})
RELATIVE_TOLERANCE = 1e-3


def check_objective(
    component: type[Objective],
    options: Any = None,
    *,
    samples: Sequence[Sample] | None = None,
    root: Path = Path(),
    compares_samples: bool = False,
) -> None:
    """Check an objective against its contract, on a tiny model.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults where absent.
        samples: What to train on, at least 4, with all labels; made up where absent, which works
            for objectives that need none. What is in `labels` is taken off them to try prediction.
        root: What `data.root` would be.
        compares_samples: True for an objective whose loss compares the samples of a micro-batch
            with each other (a contrastive one): it may depend on who is in the micro-batch.

    Raises:
        ContractError: With everything that is not kept, in words.
    """
    check = ContractCheck("objective", component)
    check.declaration()
    options = check.options(options)
    with check.part("samples"):
        _check_names(component)
        needs = component.requires | component.labels
        made = made_up_samples(needs) if samples is None else list(samples)
        require(
            len(made) >= MIN_SAMPLES, f"got {len(made)} samples, expected at least {MIN_SAMPLES}"
        )
    check.stop_if_broken()
    surroundings = Surroundings(component, options, SampleList(made), root)
    with check.part("making"):
        objective = surroundings.make()
        require(
            objective.unimodal <= {"text", "image"},
            f"unimodal is {set(objective.unimodal)!r}, expected some of 'text', 'image'",
        )
    check.stop_if_broken()
    with check.part("collation"):
        _check_collation(surroundings, objective)
    check.stop_if_broken()
    with check.part("loss"):
        _check_loss(surroundings, objective)
    check.stop_if_broken()
    if not compares_samples:
        with check.part("batch splits"):
            _check_splits(surroundings, objective)
    with check.part("metrics"):
        _check_metrics(surroundings, objective, compares_samples)
    with check.part("panel"):
        _check_panel(surroundings, objective)
    with check.part("predictions"):
        check_predictions(surroundings, objective, compares_samples)
    if objective.labels:
        with check.part("without labels"):
            check_without_labels(surroundings, objective)
    check_module(check, Subject(surroundings.make, surroundings.loss), can_be_frozen=False)
    check.stop_if_broken()


def _check_names(component: type[Objective]) -> None:
    for name in ("requires", "labels"):
        found = getattr(component, name)
        require(
            isinstance(found, frozenset),
            f"{name} is {found!r}, expected a frozenset of names that datasets provide",
        )
    both = sorted(component.requires & component.labels)
    require(
        not both,
        f"requires and labels both name {', '.join(both)}; what a split may lack goes into labels "
        "alone, what prediction needs too into requires alone",
    )
    require(
        isinstance(component.compatible_heads, tuple),
        f"compatible_heads is {component.compatible_heads!r}, expected a tuple of objective types",
    )


def _tensors_of(batch: ObjectiveBatch) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(keep, batch)
    return found


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
            "the same samples collate to something else each time; draw from "
            "sample.generator(purpose), which is keyed by (seed, epoch, index), and from no other",
        )


def _check_batch(batch: Any, micro_batch: MicroBatch) -> None:
    require(
        isinstance(batch, ObjectiveBatch),
        f"collate returned {type(batch).__name__}, expected an ObjectiveBatch",
    )
    count = batch.num_targets
    require(
        isinstance(count, int) and not isinstance(count, bool) and count >= 0,
        f"num_targets is {count!r}, expected how many terms the loss sums up, an int",
    )
    for name, tensor in batch.tensors.items():
        require(
            isinstance(tensor, Tensor),
            f"tensors[{name!r}] is {shape_of(tensor)}, expected a tensor: only tensors travel to "
            "the device",
        )
    if batch.pairs is not None:
        _check_pairs(batch.pairs, micro_batch)


def _check_pairs(pairs: Pairs, micro_batch: MicroBatch) -> None:
    for name, rows, inputs in (
        ("text_rows", pairs.text_rows, micro_batch.input_ids),
        ("image_rows", pairs.image_rows, micro_batch.pixel_values),
    ):
        number = 0 if inputs is None else len(inputs)
        require(
            rows.dtype == torch.int64 and rows.dim() == 1,
            f"pairs.{name} is {shape_of(rows)}, expected (pairs,) int64",
        )
        require(
            not len(rows) or (int(rows.min()) >= 0 and int(rows.max()) < number),
            f"pairs.{name} names rows that the micro-batch has not ({number} rows); ask the "
            "builder for them: builder.text(sample), builder.image(sample)",
        )
    require(
        len(pairs.text_rows) == len(pairs.image_rows),
        f"pairs has {len(pairs.text_rows)} text rows and {len(pairs.image_rows)} image rows, "
        "expected one of each a pair",
    )
    require(
        pairs.outputs <= READS,
        f"pairs.outputs is {set(pairs.outputs)}, expected some of {', '.join(sorted(READS))}",
    )


def _check_loss(surroundings: Surroundings, objective: Objective) -> None:
    surroundings.model.requires_grad_(True)
    try:
        output: Any = surroundings.run(objective, surroundings.batch(objective, training=True))
        require(
            isinstance(output, ObjectiveOutput),
            f"forward returned {type(output).__name__}, expected an ObjectiveOutput",
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
        reached = any(parameter.grad is not None for parameter in surroundings.model.parameters())
        require(reached, "no gradient of the loss reaches the model; compute it from `features`")
    finally:
        surroundings.model.zero_grad()
        surroundings.model.requires_grad_(False)
    held = [name for name, value in output.predictions.items() if value.requires_grad]
    require(not held, f"predictions {', '.join(held)} hold the graph; detach() them")


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
        f"in evaluation the samples make {counts} targets in {sizes}, expected the same number: "
        "what a sample teaches may depend on itself and on builder.other_sample alone",
    )
    require(
        _same(losses),
        f"in evaluation the loss is {[round(loss, 4) for loss in losses]} in {sizes}, expected the "
        "same sum: sum over the targets (reduction='sum'), leave padding out, and let no sample "
        "depend on its neighbours (if it must, pass compares_samples=True)",
    )


def _check_metrics(
    surroundings: Surroundings, objective: Objective, compares_samples: bool
) -> None:
    results: dict[str, list[float]] = {}
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
            results.setdefault(name, []).append(float(metric.compute()))
    first = objective.metrics()
    shared = [name for name, metric in objective.metrics().items() if metric is first[name]]
    require(
        not shared,
        f"metrics() returns the same {', '.join(shared)} every time, expected fresh ones: training "
        "and evaluation keep their own",
    )
    for name, values in results.items():
        require(
            compares_samples or _same(values),
            f"{name} is {values[0]:.4f} over one micro-batch and {values[1]:.4f} over two of half "
            "the size, expected the same; weigh each target alike (MeanMetric of single values)",
        )


def _check_panel(surroundings: Surroundings, objective: Objective) -> None:
    batch = surroundings.batch(objective)
    with torch.no_grad():
        output = surroundings.run(objective, batch)
    number = 0 if batch.pixel_values is None else len(batch.pixel_values)
    for entry in objective.panel(batch.objectives[NAME], output, batch.input_ids):
        if not isinstance(entry, PanelEntry):
            raise ViolationError(f"panel returned {type(entry).__name__}, expected PanelEntry")
        require(
            0 <= entry.image_row < number and all(isinstance(line, str) for line in entry.lines),
            f"panel returned {entry}, expected an image row below {number} and lines of text",
        )
