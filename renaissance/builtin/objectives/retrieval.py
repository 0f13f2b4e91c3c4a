"""Image-text retrieval: find texts by image and images by text, scoring fused pairs.

Trained as in Kim et al., "ViLT", ICML 2021: the true text against random false ones.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Features,
    Guess,
    KeyedSample,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Pairs,
    PanelEntry,
    SplitEvaluator,
    accuracy,
    non_negative,
    option,
    positive,
)
from renaissance.builtin.objectives.ranking import score_split
from renaissance.builtin.objectives.recall import recall

if TYPE_CHECKING:
    from torchmetrics import Metric

FALSE, TRUE = 0, 1


class Retrieval(Objective):
    """Image-text retrieval by the match score of fused pairs.

    The score is the logit of "true" minus that of "false", from a head like that of image-text
    matching.
    """

    requires = frozenset({"text", "image"})
    compatible_heads = ("itm",)
    default_head = "linear"

    @attrs.frozen
    class Options:
        """Options of `retrieval`."""

        num_negatives: int = option(
            15,
            help="Number of false texts, drawn from the dataset, per true text.",
            validator=positive,
        )
        recall_in_training: bool = option(
            False,
            help="Measure recall at each evaluation during training, too, which fuses every image "
            "of the split with every text; `renaissance evaluate` always does.",
        )
        shortlist: int = option(
            0,
            help="For recall: k > 0 fuses only the k most similar images of each text and vice "
            "versa; the other pairs rank below, by similarity. Requires an objective that learns a "
            "similarity, such as itc. 0 fuses all pairs.",
            validator=non_negative,
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.head = context.make_head(context.sizes.pooled, 2)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each image with its true text, and then with false texts."""
        text_rows, image_rows = [], []
        for sample in samples:
            text_rows.append(builder.text(sample))
            for index in range(self.options.num_negatives):
                text_rows.append(builder.text(builder.other_sample(sample, f"retrieval/{index}")))
            image_rows += [builder.image(sample)] * self._num_candidates
        return ObjectiveBatch(
            num_targets=len(samples),
            pairs=Pairs(text_rows=torch.tensor(text_rows), image_rows=torch.tensor(image_rows)),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Tell the true text, which is the first, from the false ones."""
        scores = self.match_score(features.pooled).view(-1, self._num_candidates)
        targets = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        loss_sum = F.cross_entropy(scores, targets, reduction="sum")
        return ObjectiveOutput(loss_sum, {"scores": scores.detach()})

    def match_score(self, pooled: Tensor) -> Tensor:
        """Return how well pairs match: (pairs, pooled_size) to (pairs,), float32."""
        logits = self.head(pooled).float()
        return logits[:, TRUE] - logits[:, FALSE]

    def metrics(self) -> "dict[str, Metric]":
        """Return the share of images whose true text scores highest among the candidates."""
        return {"accuracy": accuracy()}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch."""
        metrics["accuracy"].update((output.predictions["scores"].argmax(1) == 0).float())

    def evaluate_split(self, split: SplitEvaluator) -> dict[str, float]:
        """Return recall at 1, 5 and 10 and the median rank in both directions, over the split.

        The candidates are the texts of all samples and their distinct images. An image's rank is
        that of its best text. Equal scores rank in the order of the split.

        Raises:
            SpecError: If a shortlist is set and no objective learns a similarity.
        """
        if not (split.is_final or self.options.recall_in_training):
            return {}
        # As many pairs at once as in a micro-batch of the ordinary pass, so memory suffices.
        batch_size = split.micro_batch_size * self._num_candidates
        return recall(
            score_split(split, self.match_score, batch_size, self.options.shortlist), split
        )

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Return each image's highest-scoring text, and whether it is the true one."""
        rows = batch.fused_pairs.rows()
        entries = []
        scores = output.predictions["scores"]
        chances = scores.float().softmax(1).tolist()
        for sample, best in enumerate(scores.argmax(1).tolist()):
            text_row, image_row = rows[sample * self._num_candidates + best]
            guess = f"best of {self._num_candidates}, {chances[sample][best]:.2f}"
            entries.append(PanelEntry(image_row, (texts[text_row], Guess(guess, best == 0))))
        return entries

    @property
    def _num_candidates(self) -> int:
        return 1 + self.options.num_negatives
