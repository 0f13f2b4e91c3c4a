"""Masked language modelling: predict masked words from the text around them and the image.

Devlin et al., "BERT", NAACL 2019; whole words masked together as in the authors' later release.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
    PluginError,
    fraction,
    option,
)
from renaissance.builtin.objectives.text import readable

MASKED, RANDOM = 0.8, 0.1
NUM_SHOWN_PREDICTIONS = 3

Ids = np.ndarray[Any, np.dtype[np.int64]]


class MLM(Objective):
    """Masked language modelling on image-text pairs."""

    requires = frozenset({"text", "image"})

    default_head = "mlm"

    @attrs.frozen
    class Options:
        """Options of `mlm`."""

        probability: float = option(
            0.15, help="Share of the tokens (or words) to predict.", validator=fraction
        )
        whole_word: bool = option(
            False, help="Mask whole words: all tokens of a word together, with any fast tokenizer."
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.tokenizer = context.tokenizer
        if self.tokenizer.mask_token_id is None:
            raise PluginError(
                "objective 'mlm': the tokenizer has no mask token; use one of a masked language "
                "model, or set data.tokenizer"
            )
        vocab_size = len(self.tokenizer)
        # A separator where none belongs would begin a second text.
        self.ordinary_ids = np.setdiff1d(np.arange(vocab_size), self.tokenizer.all_special_ids)
        self.head = context.make_head(context.sizes.fused, vocab_size)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Mask each text and note where its targets are."""
        text_rows, image_rows = [], []
        pair_indices, positions, labels = [], [], []
        for pair, sample in enumerate(samples):
            input_ids = builder.input_ids(sample)
            masked, targets = self.mask(
                input_ids, builder.word_ids(sample), sample.generator("mlm")
            )
            text_rows.append(builder.text_view(sample, "masked", masked))
            image_rows.append(builder.image(sample))
            pair_indices.extend([pair] * len(targets))
            positions.extend(targets.tolist())
            labels.extend(input_ids[targets].tolist())
        return ObjectiveBatch(
            num_targets=len(labels),
            pairs=Pairs(
                text_rows=torch.tensor(text_rows),
                image_rows=torch.tensor(image_rows),
                outputs=frozenset({"text"}),
            ),
            tensors={
                "pair_indices": torch.tensor(pair_indices, dtype=torch.int64),
                "positions": torch.tensor(positions, dtype=torch.int64),
                "labels": torch.tensor(labels, dtype=torch.int64),
            },
        )

    def mask(
        self, input_ids: Ids, word_ids: Ids, generator: np.random.Generator
    ) -> tuple[Ids, Ids]:
        """Choose targets and hide them: 80% [MASK], 10% a random token, 10% left as they are.

        A random token is never a special one.

        At least one token (or word) of a text that has any is chosen: a short caption would
        otherwise often teach nothing.

        Args:
            input_ids: (tokens,).
            word_ids: Word of each token, -1 for special tokens, (tokens,).
            generator: Decides everything.

        Returns:
            The masked ids, (tokens,), and the target positions, (targets,).
        """
        units = word_ids if self.options.whole_word else np.arange(len(input_ids))
        units = np.where(word_ids < 0, -1, units)
        candidates = np.unique(units[units >= 0])
        if len(candidates) == 0:
            return input_ids, np.zeros(0, np.int64)
        chosen = candidates[generator.random(len(candidates)) < self.options.probability]
        if len(chosen) == 0:
            chosen = generator.choice(candidates, size=1)
        targets = np.flatnonzero(np.isin(units, chosen))
        fate = generator.random(len(targets))
        random_ids = self.ordinary_ids[
            generator.integers(len(self.ordinary_ids), size=len(targets))
        ]
        masked = input_ids.copy()
        hide = fate < MASKED
        masked[targets[hide]] = self.tokenizer.mask_token_id
        replace = (fate >= MASKED) & (fate < MASKED + RANDOM)
        masked[targets[replace]] = random_ids[replace]
        return masked, targets

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Project masked positions, and no others, to the vocabulary."""
        assert features.fused is not None
        assert features.fused.text is not None
        tensors = batch.tensors
        # (targets, hidden)
        states = features.fused.text.hidden_states[tensors["pair_indices"], tensors["positions"]]
        logits: Tensor = self.head(states)
        loss_sum = F.cross_entropy(logits.float(), tensors["labels"], reduction="sum")
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """Share of the targets whose token is predicted right."""
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
        """The text with its gaps, and the best guesses for each gap."""
        assert batch.pairs is not None
        assert input_ids is not None
        logits = output.predictions["logits"]
        best = logits.topk(min(NUM_SHOWN_PREDICTIONS, logits.shape[-1])).indices
        entries = []
        for pair, (text_row, image_row) in enumerate(
            zip(batch.pairs.text_rows.tolist(), batch.pairs.image_rows.tolist(), strict=True)
        ):
            lines = [readable(self.tokenizer, input_ids[text_row])]
            for target in torch.nonzero(batch.tensors["pair_indices"] == pair)[:, 0].tolist():
                label = self._word(batch.tensors["labels"][target])
                guesses = ", ".join(self._word(token) for token in best[target])
                lines.append(f"{label}: {guesses}")
            entries.append(PanelEntry(image_row, tuple(lines)))
        return entries

    def _word(self, token: Tensor) -> str:
        return str(self.tokenizer.decode([int(token)])).strip()
