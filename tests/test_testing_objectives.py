"""Broken objectives: the kit says in words which promise is not kept."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from sound_components import (
    SoundObjective,
    breaking,
    check,
)
from torch import Tensor
from torchmetrics import MeanMetric

from renaissance import (
    ObjectiveBatch,
    ObjectiveOutput,
    Pairs,
    PanelEntry,
    Sample,
)
from renaissance.testing import (
    ContractError,
    check_objective,
)


def collating(change: Callable[[ObjectiveBatch, Any], Any]) -> type:
    def collate(self: Any, samples: Any, builder: Any) -> Any:
        return change(SoundObjective.collate(self, samples, builder), samples)

    return breaking(SoundObjective, collate=collate)


def losing(change: Callable[[ObjectiveOutput, Any, Any], Any]) -> type:
    def forward(self: Any, batch: Any, features: Any) -> Any:
        return change(SoundObjective.forward(self, batch, features), batch, features)

    return breaking(SoundObjective, forward=forward)


def pairs_of(**changes: Callable[[Pairs], Any]) -> type:
    return collating(
        lambda batch, _: attrs.evolve(
            batch,
            pairs=attrs.evolve(batch.pairs, **{n: f(batch.pairs) for n, f in changes.items()}),
        )
    )


def evolve_loss(function: Callable[[Tensor], Any]) -> type:
    return losing(lambda output, *_: attrs.evolve(output, loss_sum=function(output.loss_sum)))


def batch_accuracy(self: Any, metrics: Any, batch: Any, output: Any) -> None:
    metrics["accuracy"].update(float(len(batch.tensors["labels"])))


SHARED_METRIC = MeanMetric()
OBJECTIVES = [
    (
        breaking(SoundObjective, requires=frozenset({"answer"})),
        "requires answer, which the kit can",
    ),
    (breaking(SoundObjective, unimodal=frozenset({"sound"})), "unimodal is .* expected some of"),
    (collating(lambda batch, _: {"loss": 1}), "collate returned dict, expected an ObjectiveBatch"),
    (collating(lambda b, _: attrs.evolve(b, num_targets=1.5)), "num_targets is 1.5, expected"),
    (collating(lambda b, _: attrs.evolve(b, tensors={"labels": [1]})), "tensors.'labels'. is list"),
    (
        collating(
            lambda b, _: attrs.evolve(
                b, tensors={"labels": torch.tensor(np.random.randint(2, size=8))}
            )
        ),
        "collate to something else each time",
    ),
    (pairs_of(text_rows=lambda p: p.text_rows.float()), r"pairs.text_rows is \(8,\) float32"),
    (pairs_of(image_rows=lambda p: p.image_rows + 99), "pairs.image_rows names rows that the"),
    (pairs_of(image_rows=lambda p: p.image_rows[:-1]), "8 text rows and 7 image rows"),
    (pairs_of(reads=lambda p: frozenset({"everything"})), "pairs.reads is .* expected some of"),
    (losing(lambda output, *_: output.loss_sum), "forward returned Tensor, expected an Objective"),
    (evolve_loss(lambda loss: loss[None]), r"loss_sum is \(1,\) float32.* expected one finite"),
    (evolve_loss(lambda loss: loss * torch.nan), "nan, expected one finite number"),
    (evolve_loss(lambda loss: loss.detach()), "the loss has no gradient"),
    (
        losing(lambda o, b, f: attrs.evolve(o, predictions={"logits": o.loss_sum.expand(8, 2)})),
        "predictions logits hold the graph",
    ),
    (
        losing(lambda o, b, f: attrs.evolve(o, loss_sum=o.loss_sum / b.num_targets)),
        "batch splits: in evaluation the loss is .* expected the same sum: sum over the targets",
    ),
    (collating(lambda b, s: attrs.evolve(b, num_targets=len(s) ** 2)), r"\[64, 32, 8\] targets"),
    (
        breaking(SoundObjective, metrics=lambda s: {"accuracy": 1.0}),
        "expected a torchmetrics.Metric",
    ),
    (
        breaking(SoundObjective, update_metrics=batch_accuracy),
        "accuracy is 8.0000 over one micro-b",
    ),
    (
        breaking(SoundObjective, metrics=lambda s: {"accuracy": SHARED_METRIC}),
        "returns the same accuracy every time",
    ),
    (
        breaking(SoundObjective, panel=lambda s, b, o, i: ["line"]),
        "panel returned str, expected Pan",
    ),
    (
        breaking(SoundObjective, panel=lambda s, b, o, i: [PanelEntry(99, ("line",))]),
        "expected an image row below 5",
    ),
]


@pytest.mark.parametrize(("objective", "text"), OBJECTIVES)
def test_broken_objectives(objective: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(objective)


class NoGradientToModel(SoundObjective):
    """Learns its head alone."""

    def forward(self, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
        detached = attrs.evolve(
            features, fused=attrs.evolve(features.fused, pooled=features.fused.pooled.detach())
        )
        return super().forward(batch, detached)


class Contrastive(SoundObjective):
    """Compares the pairs of a micro-batch with each other."""

    def forward(self, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
        pooled = self.head(features.fused.pooled)
        return ObjectiveOutput((pooled @ pooled.T).sum(), {"logits": pooled.detach()})


def test_a_loss_that_does_not_reach_the_model() -> None:
    with pytest.raises(ContractError, match="no gradient of the loss reaches the model"):
        check_objective(NoGradientToModel)


def test_an_objective_that_compares_samples_says_so() -> None:
    with pytest.raises(ContractError, match=r"batch splits: .*compares_samples=True"):
        check_objective(Contrastive)
    check_objective(Contrastive, compares_samples=True)


class Labelled(SoundObjective):
    """Needs a label."""

    requires = frozenset({"text", "image", "answer"})

    def collate(self, samples: Any, builder: Any) -> ObjectiveBatch:
        assert [sample.sample.labels["answer"] for sample in samples]
        return super().collate(samples, builder)


def test_samples_with_labels_are_passed_in() -> None:
    images = [Image.new("RGB", (32, 32), (60 * index, 0, 0)) for index in range(4)]
    samples = [
        Sample("a text", None, (image,), (index,), {"answer": 1}, "here")
        for index, image in enumerate(images)
    ]
    check_objective(Labelled, samples=samples)
    with pytest.raises(ContractError, match="got 3 samples, expected at least 4"):
        check_objective(Labelled, samples=samples[:3])
