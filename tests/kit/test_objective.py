"""Broken objectives: the kit says in words which promise is broken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
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
    Classification,
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


def reading(read: Callable[[Any], Any]) -> type:
    """An objective that reads what it did not request."""

    def forward(self: Any, batch: Any, features: Any) -> Any:
        read(features)
        return SoundObjective.forward(self, batch, features)

    return breaking(SoundObjective, forward=forward)


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
        "are collated differently each time",
    ),
    (pairs_of(text_rows=lambda p: p.text_rows.float()), r"pairs.text_rows is \(8,\) float32"),
    (pairs_of(image_rows=lambda p: p.image_rows + 99), "pairs.image_rows names rows that the"),
    (pairs_of(image_rows=lambda p: p.image_rows[:-1]), "8 text rows and 7 image rows"),
    (pairs_of(outputs=lambda p: frozenset({"everything"})), "pairs.outputs is .* expected some of"),
    (
        reading(lambda features: features.text),
        "loss: it raised PluginError: the objective reads the text features, which it did not "
        'request; add "text" to the class attribute unimodal',
    ),
    (
        reading(lambda features: features.fused.image),
        'the objective reads the fused image features, .* add "image" to Pairs.outputs',
    ),
    (
        collating(lambda batch, _: attrs.evolve(batch, pairs=None)),
        "the objective reads the fused features, .* return Pairs in the ObjectiveBatch",
    ),
    (
        breaking(
            SoundObjective,
            collate=lambda s, samples, b: ObjectiveBatch(len(samples)),
            forward=lambda s, batch, features: batch.fused_pairs.rows(),
        ),
        "the objective reads the pairs of its batch, which has none; return Pairs in the",
    ),
    (losing(lambda output, *_: output.loss_sum), "forward returned Tensor, expected an Objective"),
    (evolve_loss(lambda loss: loss[None]), r"loss_sum is \(1,\) float32.* expected one finite"),
    (evolve_loss(lambda loss: loss * torch.nan), "nan, expected one finite number"),
    (evolve_loss(lambda loss: loss.detach()), "the loss has no gradient"),
    (
        losing(lambda o, b, f: attrs.evolve(o, predictions={"logits": o.loss_sum.expand(8, 2)})),
        "predictions logits keep the graph",
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


def with_labels(labels: Any) -> Callable[[Any], None]:
    """Set the labels of an instance, as an objective may whose options say which."""
    return lambda objective: setattr(objective, "labels", labels)


def closing(self: Any, rows: Any, file: Any) -> None:
    file.close()


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (predicting(lambda b, o: {"answer": 1}), "predictions returned .* expected a list of one"),
        (
            predicting(lambda b, o: [{"logits": o.predictions["logits"][0]}]),
            "does not survive JSON; use strings, numbers",
        ),
        (predicting(lambda b, o: [{"pair": (1, 2)}]), "does not survive JSON"),
        (
            predicting(lambda b, o: [{"number": len(o.predictions["logits"])}]),
            r"predictions are \[{'number': 8}\] in one micro-batch and .* one row per target",
        ),
        (
            predicting(logits_of, write_predictions=lambda s, rows, file: None),
            "write_predictions wrote none of 8 rows",
        ),
        (predicting(logits_of, write_predictions=closing), "write_predictions closed the file"),
        (
            predicting(logits_of, check_predictions=lambda self, file, questions: None),
            "check_predictions is an instance method, expected a class method",
        ),
        (breaking(SoundObjective, labels={"answer"}), "labels is {'answer'}, expected a frozenset"),
        (
            breaking(SoundObjective, __init__=after_init(with_labels("answer"))),
            "making: labels is 'answer', expected a frozenset",
        ),
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


def answered(count: int) -> list[Sample]:
    return [
        Sample(
            "a text",
            None,
            (Image.new("RGB", (32, 32), (60 * index, 0, 0)),),
            (index,),
            {"answer": index % 2, "question_id": index},
            "here",
        )
        for index in range(count)
    ]


class Answering(Classification):
    """Answers yes or no, whether the answer is known or not."""

    Options = NoOptions
    requires = frozenset({"text", "image", "question_id"})
    labels = frozenset({"answer"})
    identifier = "question_id"
    prediction = "answer"
    default_head = "linear"

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.root = context.root
        self.head = context.make_head(context.sizes.pooled, 2)

    def logits(self, batch: ObjectiveBatch, features: Any) -> Tensor:
        return self.head(features.pooled)


class Choosing(Answering):
    """Its instances say which label they learn."""

    labels = frozenset()

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        self.labels = frozenset({"answer"})


def test_labels_of_an_instance() -> None:
    check_objective(Choosing, samples=answered(4))
    with pytest.raises(ContractError, match="for samples without answer num_targets is 4"):
        check_objective(breaking(Choosing, collate=counting_all), samples=answered(4))


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
            "for samples without answer num_targets is 4, expected 0: nothing is learned",
        ),
        ({"forward": averaging}, "for samples without labels loss_sum is nan, expected a finite"),
        (
            {"predictions": repeating_labels},
            "predictions without labels differ from those with labels; compute",
        ),
        ({"update_metrics": counting_right}, "without labels: it raised KeyError: 'labels'"),
    ],
)
def test_broken_without_labels(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check_objective(breaking(Answering, **changes), samples=answered(4))
