"""Image-text matching: is this the image that the text describes?

Chen et al., "UNITER", ECCV 2020; Kim et al., "ViLT", ICML 2021; hard negatives: Li et al., "ALBEF",
NeurIPS 2021.
"""

from collections.abc import Sequence
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Classification,
    Features,
    Guess,
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

FALSE, TRUE = 0, 1


class ITM(Classification):
    """Image-text matching: one half of a pair is replaced in half of the pairs.

    The replacement always comes from a sample with a different image.
    """

    requires = frozenset({"text", "image"})
    classes = ("false", "true")
    default_head = "linear"

    @attrs.frozen
    class Options:
        """Options of `itm`."""

        negatives: Literal["batch", "dataset", "hard"] = option(
            "batch",
            help="Where replacements come from. batch: the micro-batch, so that no further image "
            "is decoded and encoded. dataset: a random sample of the dataset. hard: the "
            "micro-batch, preferring similar samples, which requires an objective that learns a "
            "similarity, such as itc. Evaluation always draws from the dataset, so that its result "
            "does not depend on how samples are batched.",
        )
        replace: Literal["image", "text", "either"] = option(
            "image", help="Which half of a pair is replaced."
        )
        text: Literal["plain", "masked"] = option(
            "plain",
            help="Which texts are matched in training. masked: those of masked language modelling, "
            "as in LXMERT (Tan and Bansal, 2019), so that true pairs are fused once for both; an "
            "objective of type mlm must stand before this one. Evaluation matches plain texts.",
        )
        temperature: float = option(
            0.07,
            help="For hard negatives: the lower, the more often the most similar sample is chosen.",
            validator=positive,
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        if (
            options.text == "masked"
            and options.negatives == "dataset"
            and options.replace != "image"
        ):
            raise SpecError(
                f"objective 'itm': text = 'masked' with negatives = 'dataset' and replace = "
                f"'{options.replace}': texts from outside the micro-batch are not masked; set "
                "negatives = 'batch' or replace = 'image'"
            )
        if options.negatives != "dataset":
            self.compares_with = "rank"
        self.head = context.make_head(context.sizes.pooled, len(self.classes))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each sample's text and image, or replace one of the two."""
        text_rows, image_rows, labels = [], [], []
        broken, replaces_text = [], []
        for index, sample in enumerate(samples):
            text_of, image_of = sample, sample
            generator = sample.generator("itm")
            if generator.random() < 0.5:
                false = self._negative(sample, samples, builder)
                replace_text = self.options.replace == "text" or (
                    self.options.replace == "either" and generator.random() < 0.5
                )
                text_of, image_of = (false, sample) if replace_text else (sample, false)
                # A micro-batch of one image has no replacement: the pair stays true.
                if false is not sample:
                    broken.append(index)
                    replaces_text.append(replace_text)
            text_rows.append(self._text_row(text_of, builder))
            image_rows.append(builder.image(image_of))
            labels.append(TRUE if text_of is image_of else FALSE)
        tensors = {"labels": torch.tensor(labels)}
        if self.options.negatives == "hard" and builder.training:
            tensors |= {
                "broken": torch.tensor(broken, dtype=torch.int64),
                "replaces_text": torch.tensor(replaces_text, dtype=torch.bool),
                "noise": torch.from_numpy(_noise(samples, broken)),
                "text_rows": torch.tensor([self._text_row(s, builder) for s in samples]),
                "image_rows": torch.tensor([builder.image(sample) for sample in samples]),
            }
        return ObjectiveBatch(
            num_targets=len(labels),
            pairs=Pairs(text_rows=torch.tensor(text_rows), image_rows=torch.tensor(image_rows)),
            tensors=tensors,
        )

    def _text_row(self, sample: KeyedSample, builder: BatchBuilder) -> int:
        if self.options.text == "plain" or not builder.training:
            return builder.text(sample)
        row = builder.existing_view(sample, "masked")
        if row is None:
            raise SpecError(
                f"objective 'itm': text = 'masked', but {sample.source} has no masked text; put "
                "[[objectives]] with type = 'mlm' before itm, for the same datasets, or set "
                "text = 'plain'"
            )
        return row

    def pairs(self, batch: ObjectiveBatch, similarity: Tensor | None) -> Pairs | None:
        """Choose hard negatives for the broken pairs, if `negatives` is "hard".

        The argmax of similarity / temperature + Gumbel noise is a draw from the softmax of
        similarity / temperature.

        Raises:
            SpecError: If hard negatives are chosen and no objective learns a similarity.
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
        pairs = batch.fused_pairs
        texts, images = tensors["text_rows"], tensors["image_rows"]
        broken, replaces_text = tensors["broken"], tensors["replaces_text"]
        # Each sample's text with each sample's image, (samples, samples).
        by_sample = similarity[texts][:, images].float()
        # Similarity of the kept half to each candidate replacement, (broken, samples).
        candidates = torch.where(replaces_text[:, None], by_sample[:, broken].T, by_sample[broken])
        chosen = (candidates / self.options.temperature + tensors["noise"]).argmax(1)
        return attrs.evolve(
            pairs,
            text_rows=pairs.text_rows.index_copy(
                0, broken, texts[torch.where(replaces_text, chosen, broken)]
            ),
            image_rows=pairs.image_rows.index_copy(
                0, broken, images[torch.where(replaces_text, broken, chosen)]
            ),
        )

    def _negative(
        self, sample: KeyedSample, samples: Sequence[KeyedSample], builder: BatchBuilder
    ) -> KeyedSample:
        """Return a sample with a different image, or the sample itself if there is none."""
        if self.options.negatives == "dataset" or not builder.training:
            return builder.other_sample(sample, "itm/negative")
        image_ids = set(sample.image_ids)
        others = [other for other in samples if image_ids.isdisjoint(other.image_ids)]
        if not others:
            return sample
        return others[int(sample.generator("itm/negative").integers(len(others)))]

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Classify the pooled pairs as false or true."""
        return self.head(features.pooled)

    def match_score(self, pooled: Tensor) -> Tensor:
        """Return the logit of "true" minus that of "false"."""
        logits = self.head(pooled).float()
        return logits[:, TRUE] - logits[:, FALSE]

    # Not Classification's: the pairs are made up, so there is nothing to predict.
    predictions = Objective.predictions

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Return each pair's text, its match score, and whether the pair is true."""
        scores = output.predictions["logits"].float().softmax(-1)[:, TRUE].tolist()
        labels = batch.tensors["labels"].tolist()
        return [
            PanelEntry(
                image_row,
                (
                    texts[text_row],
                    Guess(f"match {score:.2f} ({name} pair)", (score > 0.5) == (label == TRUE)),
                ),
                group=name,
            )
            for (text_row, image_row), score, label, name in zip(
                batch.fused_pairs.rows(),
                scores,
                labels,
                [self.classes[label] for label in labels],
                strict=True,
            )
        ]


def _noise(samples: Sequence[KeyedSample], broken: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return Gumbel noise for each broken pair and each sample that may replace a half of it.

    Returns:
        (broken, samples), float32; minus infinity if the sample has the same image.
    """
    noise = np.full((len(broken), len(samples)), -np.inf, np.float32)
    for row, index in enumerate(broken):
        image_ids = set(samples[index].image_ids)
        allowed = [image_ids.isdisjoint(other.image_ids) for other in samples]
        drawn = samples[index].generator("itm/hard").gumbel(size=len(samples))
        noise[row, allowed] = drawn[allowed]
    return noise
