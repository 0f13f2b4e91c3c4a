"""Image-text retrieval: score pairs by fusing them, and find texts by images and images by texts.

Trained as in Kim et al., "ViLT", ICML 2021: the true text against drawn false ones.
"""

from collections.abc import Mapping, Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from renaissance import (
    BatchBuilder,
    Features,
    KeyedSample,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Pairs,
    PanelEntry,
    SplitEvaluator,
    non_negative,
    option,
    positive,
)
from renaissance.builtin.objectives.ranking import recall, score_split
from renaissance.builtin.objectives.text import readable

FALSE, TRUE = 0, 1


class Retrieval(Objective):
    """Image-text retrieval by the match score of fused pairs.

    The score is the logit of "true" less that of "false", of a head as image-text matching has it.
    """

    requires = frozenset({"text", "image"})
    compatible_heads = ("itm",)

    default_head = "linear"

    @attrs.frozen
    class Options:
        """Options of `retrieval`."""

        num_negatives: int = option(
            15,
            help="False texts that the true one is compared with, drawn from the dataset.",
            validator=positive,
        )
        recall_in_training: bool = option(
            False,
            help="Measure recall over the whole split at every evaluation of a training run too, "
            "which fuses every image with every text; `renaissance evaluate` always does.",
        )
        shortlist: int = option(
            0,
            help="For recall, fuse only each text's so many most similar images and each image's "
            "so many most similar texts, by an objective that learns a similarity, such as itc; "
            "the others keep their order by similarity, behind these. 0 fuses every pair.",
            validator=non_negative,
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.tokenizer = context.tokenizer
        self.head = context.make_head(context.sizes.pooled, 2)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each image with its text and, after it, with false ones."""
        text_rows, image_rows = [], []
        for sample in samples:
            text_rows.append(builder.text(sample))
            for number in range(self.options.num_negatives):
                text_rows.append(builder.text(builder.other_sample(sample, f"retrieval/{number}")))
            image_rows += [builder.image(sample)] * self._num_candidates
        return ObjectiveBatch(
            num_targets=len(samples),
            pairs=Pairs(text_rows=torch.tensor(text_rows), image_rows=torch.tensor(image_rows)),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Tell the true text, which is the first, from the false ones."""
        assert features.fused is not None
        assert features.fused.pooled is not None
        scores = self.score(features.fused.pooled).view(-1, self._num_candidates)
        targets = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        loss_sum = F.cross_entropy(scores, targets, reduction="sum")
        return ObjectiveOutput(loss_sum, {"scores": scores.detach()})

    def score(self, pooled: Tensor) -> Tensor:
        """Return how well pairs match: (pairs, pooled_size) to (pairs,), float32."""
        logits: Tensor = self.head(pooled).float()
        return logits[:, TRUE] - logits[:, FALSE]

    def metrics(self) -> dict[str, Metric]:
        """Share of the images whose true text scores highest among the candidates."""
        return {"accuracy": MeanMetric(nan_strategy="disable")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        metrics["accuracy"].update((output.predictions["scores"].argmax(1) == 0).float())

    def evaluate_split(self, split: SplitEvaluator) -> dict[str, float]:
        """Return recall at 1, 5 and 10 and the median rank, both ways, over the whole split.

        Texts are all samples, images the distinct ones of them. An image's rank is that of the
        best of its texts. Equal scores rank in the order of the split.

        Raises:
            SpecError: If a shortlist is wanted and no objective learns a similarity.
        """
        if not (split.is_final or self.options.recall_in_training):
            return {}
        # As many pairs at once as a micro-batch of the ordinary pass has.
        batch_size = split.micro_batch_size * self._num_candidates
        return recall(score_split(split, self.score, batch_size, self.options.shortlist), split)

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """The text that scores highest, and whether it is the true one."""
        assert batch.pairs is not None
        assert input_ids is not None
        text_rows = batch.pairs.text_rows.view(-1, self._num_candidates).tolist()
        image_rows = batch.pairs.image_rows.view(-1, self._num_candidates)[:, 0].tolist()
        best = output.predictions["scores"].argmax(1).tolist()
        return [
            PanelEntry(
                image_row,
                (
                    f"best of {self._num_candidates} ({'wrong' if place else 'right'}): "
                    + readable(self.tokenizer, input_ids[candidates[place]]),
                ),
            )
            for image_row, candidates, place in zip(image_rows, text_rows, best, strict=True)
        ]

    @property
    def _num_candidates(self) -> int:
        return 1 + self.options.num_negatives
