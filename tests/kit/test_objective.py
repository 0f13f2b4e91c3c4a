"""Broken objectives: the kit says in words which promise is not kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.sound_components import (
    NoOptions,
    SoundObjective,
    after_init,
    breaking,
    check,
)
from torch import Tensor
from torchmetrics import MeanMetric

from renaissance import (
    Objective,
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
    (pairs_of(reads=lambda p: frozenset({"everything"})), "pairs.outputs is .* expected some of"),
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


def predicting(function: Callable[[ObjectiveBatch, ObjectiveOutput], Any], **more: Any) -> type:
    return breaking(SoundObjective, predictions=lambda s, b, o: function(b, o), **more)


def logits_of(batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
    return [{"logits": row} for row in output.predictions["logits"].tolist()]


def closing(self: Any, rows: Any, file: Any) -> None:
    file.close()


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (predicting(lambda b, o: {"answer": 1}), "predictions returned .* expected a list of one"),
        (
            predicting(lambda b, o: [{"logits": o.predictions["logits"][0]}]),
            "JSON does not give back as it was; use strings, numbers",
        ),
        (predicting(lambda b, o: [{"pair": (1, 2)}]), "JSON does not give back as it was"),
        (
            predicting(lambda b, o: [{"number": len(o.predictions["logits"])}]),
            r"predictions are \[{'number': 8}\] in one micro-batch and .* one row a target",
        ),
        (
            predicting(logits_of, write_predictions=lambda s, rows, file: None),
            "write_predictions wrote nothing of 8 rows",
        ),
        (predicting(logits_of, write_predictions=closing), "write_predictions closed the file"),
        (breaking(SoundObjective, labels={"answer"}), "labels is {'answer'}, expected a frozenset"),
        (
            breaking(SoundObjective, labels=frozenset({"text"})),
            "requires and labels both name text",
        ),
        (
            breaking(SoundObjective, compatible_heads="itm"),
            "compatible_heads is 'itm', expected a tuple",
        ),
        (
            breaking(SoundObjective, labels=frozenset({"answer"})),
            "it requires answer, which the kit cannot make up",
        ),
    ],
)
def test_broken_predictions(objective: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(objective)


def test_sound_predictions_pass() -> None:
    check_objective(predicting(logits_of))


def answered(number: int) -> list[Sample]:
    return [
        Sample(
            "a text",
            None,
            (Image.new("RGB", (32, 32), (60 * index, 0, 0)),),
            (index,),
            {"answer": index % 2, "question_id": index},
            "here",
        )
        for index in range(number)
    ]


class Answering(Objective):
    """Answers yes or no, with or without knowing better."""

    Options = NoOptions
    requires = frozenset({"text", "image", "question_id"})
    labels = frozenset({"answer"})

    default_head = "linear"

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.root = context.root
        self.head = context.make_head(context.sizes.pooled, 2)

    def collate(self, samples: Any, builder: Any) -> ObjectiveBatch:
        labels = [s.sample.labels["answer"] for s in samples if "answer" in s.sample.labels]
        return ObjectiveBatch(
            len(labels),
            Pairs(
                torch.tensor([builder.text(sample) for sample in samples]),
                torch.tensor([builder.image(sample) for sample in samples]),
            ),
            {"labels": torch.tensor(labels)} if labels else {},
            tuple(s.sample.labels["question_id"] for s in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
        logits = self.head(features.fused.pooled).float()
        predictions = {"logits": logits.detach()}
        if "labels" not in batch.tensors:
            return ObjectiveOutput(logits.sum() * 0, predictions)
        loss_sum = F.cross_entropy(logits, batch.tensors["labels"], reduction="sum")
        return ObjectiveOutput(loss_sum, predictions)

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        answers = output.predictions["logits"].argmax(-1).tolist()
        return [
            {"question_id": identifier, "answer": answer}
            for identifier, answer in zip(batch.identifiers, answers, strict=True)
        ]


def test_samples_with_labels_are_passed_in() -> None:
    check_objective(Answering, samples=answered(4))
    with pytest.raises(ContractError, match="got 3 samples, expected at least 4"):
        check_objective(Answering, samples=answered(3))


def test_root_reaches_the_objective(tmp_path: Path) -> None:
    (tmp_path / "answers.txt").write_text("no yes")

    def read(objective: Any) -> None:
        assert (objective.root / "answers.txt").read_text() == "no yes"

    reading = breaking(Answering, __init__=after_init(read))
    check_objective(reading, samples=answered(4), root=tmp_path)


def counting_all(self: Any, samples: Any, builder: Any) -> ObjectiveBatch:
    return attrs.evolve(Answering.collate(self, samples, builder), num_targets=len(samples))


def averaging(self: Any, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
    output = Answering.forward(self, batch, features)
    return attrs.evolve(output, loss_sum=output.loss_sum / batch.num_targets)


def repeating_labels(self: Any, batch: Any, output: Any) -> list[dict[str, Any]]:
    return [{"answer": label} for label in batch.tensors.get("labels", torch.zeros(4)).tolist()]


def counting_right(self: Any, metrics: Any, batch: Any, output: Any) -> None:
    assert len(batch.tensors["labels"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"collate": counting_all},
            "of samples without answer num_targets is 4, expected 0: they teach",
        ),
        ({"forward": averaging}, "of samples without labels loss_sum is nan, expected a finite"),
        ({"predictions": repeating_labels}, "predictions are others, or fewer, without labels"),
        ({"update_metrics": counting_right}, "without labels: it raised KeyError: 'labels'"),
    ],
)
def test_broken_without_labels(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check_objective(breaking(Answering, **changes), samples=answered(4))
