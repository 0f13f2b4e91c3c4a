"""The built-in classification tasks: samples, what the model gives, and what must come of it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from renaissance import Classification, Sample
from renaissance.builtin.objectives.nlvr2 import NLVR2
from renaissance.builtin.objectives.refcoco import RefCOCO
from renaissance.builtin.objectives.snli_ve import SNLIVE
from renaissance.builtin.objectives.vqa import VQA
from support.answering import POOLED, sample

ANSWERS = ["yes", "no", "two"]
INF = math.inf


@attrs.frozen
class Task:
    """A task with four samples.

    Attributes:
        component: The objective.
        samples: The samples, with labels.
        head: A head without parameters, which makes the logits out of the pooled pairs.
        pooled: What the model gives for all pairs, (pairs, POOLED).
        logits: Of each sample.
        losses: Of each sample.
        metrics: Over the samples.
        file: Their predictions as a file has them.
        panel: Image row and line of each entry of the panel.
    """

    component: type[Classification]
    samples: list[Sample]
    head: nn.Module
    pooled: Tensor
    logits: list[list[float]]
    losses: list[float]
    metrics: dict[str, float]
    file: str
    panel: list[tuple[int, str, bool | None]]

    @property
    def panel_without_labels(self) -> list[tuple[int, str, None]]:
        """The same panel for samples without labels: nothing in it says what is true."""
        return [
            (row, re.sub(r" \((truth: \w+|wrong)\)", "", line), None)
            for row, line, _ in self.panel
            if not line.endswith("not chosen (truth)")
        ]

    def root(self, folder: Path) -> Path:
        """Write the files that the objective reads; return `data.root`."""
        (folder / "vqav2_answers.json").write_text(json.dumps(ANSWERS))
        return folder

    def unlabelled(self) -> list[Sample]:
        """Return the samples as a split without labels has them."""
        return [
            attrs.evolve(
                sample,
                labels={n: v for n, v in sample.labels.items() if n not in self.component.labels},
            )
            for sample in self.samples
        ]


class First(nn.Module):
    """The first number of each vector, one logit per part of it that is POOLED long."""

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors[:, ::POOLED]


def firsts(numbers: Sequence[float]) -> Tensor:
    """Return vectors with these first numbers, (numbers, POOLED)."""
    vectors = torch.full((len(numbers), POOLED), 7.0)
    vectors[:, 0] = torch.tensor(numbers)
    return vectors


def cross_entropy(logits: Sequence[float], label: int) -> float:
    return math.log(sum(map(math.exp, logits))) - logits[label]


def binary_cross_entropy(logits: Sequence[float], scores: Mapping[int, float]) -> float:
    shares = [1 / (1 + math.exp(-logit)) for logit in logits]
    targets = [scores.get(index, 0.0) for index in range(len(logits))]
    return -sum(
        target * math.log(share) + (1 - target) * math.log(1 - share)
        for share, target in zip(shares, targets, strict=True)
    )


def hypothesis(text: str, number: int, entailment: int) -> Sample:
    return sample(text, {"entailment": entailment, "identifier": f"{number}:0"}, number)


THREE_CLASSES = [[0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [0.0, 1.0, 0.5], [2.0, 1.0, 0.0]]
SNLI_VE = Task(
    component=SNLIVE,
    samples=[
        hypothesis("two elephants", 0, 2),
        hypothesis("a photo of one umbrella", 1, 0),
        hypothesis("swimming", 2, 1),
        hypothesis("a photo", 3, 1),
    ],
    head=nn.Identity(),
    pooled=torch.tensor(THREE_CLASSES),
    logits=THREE_CLASSES,
    losses=[
        cross_entropy(row, label) for row, label in zip(THREE_CLASSES, (2, 0, 1, 1), strict=True)
    ],
    # 2 is right, 1 for 0 wrong, 1 right, 0 for 1 wrong.
    metrics={"accuracy": 2 / 4},
    file="identifier,prediction\n0:0,entailment\n1:0,neutral\n2:0,neutral\n3:0,contradiction\n",
    panel=[
        (0, "two elephants: entailment", True),
        (1, "a photo of one umbrella: neutral (truth: contradiction)", False),
        (2, "swimming: neutral", True),
        (3, "a photo: contradiction (truth: neutral)", False),
    ],
)


def example(identifier: str, text: str, answer: int, number: int) -> Sample:
    return sample(text, {"identifier": identifier, "answer": answer}, number, num_images=2)


TWO_CLASSES = [[0.0, 1.0], [0.0, 1.5], [1.0, 0.0], [0.0, 2.0]]
NLVR2_TASK = Task(
    component=NLVR2,
    # The first two are one sentence with two pairs of images; the third shows the first pair.
    samples=[
        example("dev-850-0-0", "two elephants", 1, 0),
        example("dev-850-1-0", "two elephants", 0, 1),
        example("dev-850-0-1", "a photo of one umbrella", 0, 0),
        example("dev-9-0-0", "two elephants", 1, 2),
    ],
    # The first number of the first image's vector, then that of the second one's.
    head=First(),
    pooled=firsts([logit for row in TWO_CLASSES for logit in row]),
    logits=TWO_CLASSES,
    losses=[
        cross_entropy(row, label) for row, label in zip(TWO_CLASSES, (1, 0, 0, 1), strict=True)
    ],
    # Right, wrong; right; right: of three sentences, the first is wrong with one of its pairs.
    metrics={"accuracy": 3 / 4, "consistency": 2 / 3},
    file="dev-850-0-0,True\ndev-850-1-0,True\ndev-850-0-1,False\ndev-9-0-0,True\n",
    panel=[
        (0, "image 1 of 2: two elephants: True", True),
        (1, "image 2 of 2: two elephants: True", True),
        (2, "image 1 of 2: two elephants: True (truth: False)", False),
        (3, "image 2 of 2: two elephants: True (truth: False)", False),
        (0, "image 1 of 2: a photo of one umbrella: False", True),
        (1, "image 2 of 2: a photo of one umbrella: False", True),
        (4, "image 1 of 2: two elephants: True", True),
        (5, "image 2 of 2: two elephants: True", True),
    ],
)


def question(text: str, number: int, scores: Mapping[int, float]) -> Sample:
    labels = {
        "question_id": 100 + number,
        "answer_labels": list(scores),
        "answer_scores": list(scores.values()),
    }
    return sample(text, labels, number)


SCORES: list[dict[int, float]] = [{2: 1.0, 0: 0.3}, {1: 0.6}, {0: 0.9, 1: 0.3}, {}]
QUESTIONS = ["two elephants", "a photo of one umbrella", "swimming", "one"]
VQA_LOGITS = [[0.5, -1.0, 2.0], [3.0, 0.0, -2.0], [0.0, 1.0, 0.5], [2.0, 1.0, 0.0]]
VQA_TASK = Task(
    component=VQA,
    samples=[
        question(text, number, scores)
        for number, (text, scores) in enumerate(zip(QUESTIONS, SCORES, strict=True))
    ],
    head=nn.Identity(),
    pooled=torch.tensor(VQA_LOGITS),
    logits=VQA_LOGITS,
    losses=[
        binary_cross_entropy(row, scores) for row, scores in zip(VQA_LOGITS, SCORES, strict=True)
    ],
    metrics={"accuracy": (1.0 + 0.0 + 0.3 + 0.0) / 4},
    file='[{"question_id": 100, "answer": "two"}, {"question_id": 101, "answer": "yes"}, '
    '{"question_id": 102, "answer": "no"}, {"question_id": 103, "answer": "yes"}]',
    panel=[
        (0, "two elephants: two", True),
        (1, "a photo of one umbrella: yes (truth: no)", False),
        # Some of the people said so.
        (2, "swimming: no (truth: yes)", True),
        # Of answers that nobody gave, the first.
        (3, "one: yes", False),
    ],
)


def sentence(text: str, identifier: str, box: int, image: int, num_boxes: int) -> Sample:
    return sample(text, {"box": box, "identifier": identifier}, image, num_images=num_boxes)


BOX_SCORES = [[0.5, -1.0, 2.0], [-0.5, 1.5, 0.0], [-3.0], [4.0, -1.0]]
REFCOCO = Task(
    component=RefCOCO,
    samples=[
        sentence("two elephants", "0:0", 2, image=0, num_boxes=3),
        sentence("a photo of one umbrella", "0:1", 0, image=0, num_boxes=3),
        sentence("swimming", "1:0", 0, image=1, num_boxes=1),
        sentence("one", "2:0", 1, image=2, num_boxes=2),
    ],
    head=First(),
    pooled=firsts([score for row in BOX_SCORES for score in row]),
    logits=[[0.5, -1.0, 2.0], [-0.5, 1.5, 0.0], [-3.0, -INF, -INF], [4.0, -1.0, -INF]],
    losses=[cross_entropy(row, box) for row, box in zip(BOX_SCORES, (2, 0, 0, 1), strict=True)],
    # Right, wrong, with one box right, wrong.
    metrics={"accuracy": 2 / 4},
    file="".join(
        f'{{"identifier": "{identifier}", "box": {box}}}\n'
        for identifier, box in (("0:0", 2), ("0:1", 1), ("1:0", 0), ("2:0", 0))
    ),
    panel=[
        (2, "two elephants: chosen", True),
        (0, "a photo of one umbrella: not chosen (truth)", False),
        (1, "a photo of one umbrella: chosen (wrong)", False),
        (3, "swimming: chosen", True),
        (5, "one: not chosen (truth)", False),
        (4, "one: chosen (wrong)", False),
    ],
)

TASKS: dict[str, Task] = {
    "snli-ve": SNLI_VE,
    "nlvr2": NLVR2_TASK,
    "vqa": VQA_TASK,
    "refcoco": REFCOCO,
}
