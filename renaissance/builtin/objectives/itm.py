"""Image-text matching: is this the image that the text describes?

Chen et al., "UNITER", ECCV 2020; Kim et al., "ViLT", ICML 2021; hard negatives: Li et al., "ALBEF",
NeurIPS 2021.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np
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
    SpecError,
    option,
    positive,
)
from renaissance.builtin.objectives.text import readable

FALSE, TRUE = 0, 1


class ITM(Objective):
    """Image-text matching: half of the pairs are broken, never with an equal image."""

    requires = frozenset({"text", "image"})

    default_head = "linear"

    @attrs.frozen
    class Options:
        """Options of `itm`."""

        negatives: Literal["batch", "dataset", "hard"] = option(
            "batch",
            help="Where the false half comes from: the micro-batch (no further image to decode and "
            "encode), or a random sample of the dataset; hard: from the micro-batch, the likelier "
            "the more similar, which needs an objective that learns a similarity, such as itc. "
            "Evaluation always draws from the dataset, so that its result does not depend on how "
            "samples are batched.",
        )
        replace: Literal["image", "text", "either"] = option(
            "image", help="Which half of a broken pair is the false one."
        )
        temperature: float = option(
            0.07,
            help="Of hard negatives: the lower, the more surely the most similar is chosen.",
            validator=positive,
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.tokenizer = context.tokenizer
        self.head = context.make_head(context.sizes.pooled, 2)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each text with its image or a false one."""
        text_rows, image_rows, labels = [], [], []
        broken, replaces_text = [], []
        for number, sample in enumerate(samples):
            text_of, image_of = sample, sample
            generator = sample.generator("itm")
            if generator.random() < 0.5:
                false = self._negative(sample, samples, builder)
                replace_text = self.options.replace == "text" or (
                    self.options.replace == "either" and generator.random() < 0.5
                )
                text_of, image_of = (false, sample) if replace_text else (sample, false)
                if false is not sample:
                    broken.append(number)
                    replaces_text.append(replace_text)
            text_rows.append(builder.text(text_of))
            image_rows.append(builder.image(image_of))
            labels.append(TRUE if text_of is image_of else FALSE)
        tensors = {"labels": torch.tensor(labels)}
        if self.options.negatives == "hard" and builder.training:
            tensors |= {
                "broken": torch.tensor(broken, dtype=torch.int64),
                "replaces_text": torch.tensor(replaces_text, dtype=torch.bool),
                "noise": torch.from_numpy(_noise(samples, broken)),
                "text_rows": torch.tensor([builder.text(sample) for sample in samples]),
                "image_rows": torch.tensor([builder.image(sample) for sample in samples]),
            }
        return ObjectiveBatch(
            num_targets=len(labels),
            pairs=Pairs(text_rows=torch.tensor(text_rows), image_rows=torch.tensor(image_rows)),
            tensors=tensors,
        )

    def pairs(self, batch: ObjectiveBatch, similarity: Tensor | None) -> Pairs | None:
        """Give the broken pairs hard negatives, if that is wanted.

        The largest of similarity / temperature + Gumbel noise is a draw from the softmax of the
        similarities.

        Raises:
            SpecError: If hard negatives are wanted and no objective learns a similarity.
        """
        tensors = batch.tensors
        if "noise" not in tensors:
            return batch.pairs
        if similarity is None:
            raise SpecError(
                "objective 'itm': negatives = 'hard' chooses by similarity, which no objective "
                "of this run learns; add [[objectives]] with type = 'itc', or set "
                "negatives = 'batch'"
            )
        assert batch.pairs is not None
        texts, images = tensors["text_rows"], tensors["image_rows"]
        broken, replaces_text = tensors["broken"], tensors["replaces_text"]
        # Every sample's text with every sample's image.
        own = similarity[texts][:, images].float()
        # How alike is the half that stays to what may replace the other half, (broken, samples).
        likeness = torch.where(replaces_text[:, None], own[:, broken].T, own[broken])
        chosen = (likeness / self.options.temperature + tensors["noise"]).argmax(1)
        return attrs.evolve(
            batch.pairs,
            text_rows=batch.pairs.text_rows.index_copy(
                0, broken, texts[torch.where(replaces_text, chosen, broken)]
            ),
            image_rows=batch.pairs.image_rows.index_copy(
                0, broken, images[torch.where(replaces_text, broken, chosen)]
            ),
        )

    def _negative(
        self, sample: KeyedSample, samples: Sequence[KeyedSample], builder: BatchBuilder
    ) -> KeyedSample:
        """Return a sample with another image, or the sample itself if the micro-batch has none."""
        if self.options.negatives == "dataset" or not builder.training:
            return builder.other_sample(sample, "itm/negative")
        own = set(sample.sample.image_ids)
        others = [other for other in samples if own.isdisjoint(other.sample.image_ids)]
        if not others:
            return sample
        return others[int(sample.generator("itm/negative").integers(len(others)))]

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Classify the pooled pairs as true or false."""
        assert features.fused is not None
        logits: Tensor = self.head(features.fused.pooled)
        loss_sum = F.cross_entropy(logits.float(), batch.tensors["labels"], reduction="sum")
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """Share of the pairs that are decided right."""
        return {"accuracy": MeanMetric(nan_strategy="disable")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        right = output.predictions["logits"].argmax(-1) == batch.tensors["labels"]
        metrics["accuracy"].update(right.float())

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """Each pair's text, its match score, and whether it is a true pair."""
        assert batch.pairs is not None
        assert input_ids is not None
        scores = output.predictions["logits"].float().softmax(-1)[:, TRUE].tolist()
        entries = []
        for text_row, image_row, score, label in zip(
            batch.pairs.text_rows.tolist(),
            batch.pairs.image_rows.tolist(),
            scores,
            batch.tensors["labels"].tolist(),
            strict=True,
        ):
            truth = "true" if label == TRUE else "false"
            text = readable(self.tokenizer, input_ids[text_row])
            entries.append(PanelEntry(image_row, (f"match {score:.2f} ({truth} pair): {text}",)))
        return entries


def _noise(samples: Sequence[KeyedSample], broken: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return Gumbel noise of each broken pair for each sample that may break it.

    Returns:
        (broken, samples), float32; minus infinity where the sample has an equal image.
    """
    noise = np.full((len(broken), len(samples)), -np.inf, np.float32)
    for row, number in enumerate(broken):
        own = set(samples[number].sample.image_ids)
        allowed = [own.isdisjoint(other.sample.image_ids) for other in samples]
        drawn = samples[number].generator("itm/hard").gumbel(size=len(samples))
        noise[row, allowed] = drawn[allowed]
    return noise
