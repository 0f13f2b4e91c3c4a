"""Masked language modelling: predict masked words from the surrounding text and the image.

Devlin et al., "BERT", NAACL 2019; whole words masked together as in the authors' later release.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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
    PluginError,
    accuracy,
    fraction,
    option,
    positive,
)

if TYPE_CHECKING:
    from torchmetrics import Metric

MASKED, RANDOM = 0.8, 0.1
NUM_SHOWN_PREDICTIONS = 3
# More logits than this are computed in parts: they and their gradients would take 2 GiB.
MAX_LOGITS = 2**27

Ids = NDArray[np.int64]


class MLM(Objective):
    """Masked language modelling on image-text pairs."""

    requires = frozenset({"text", "image"})
    default_head = "mlm"

    @attrs.frozen
    class Options:
        """Options of `mlm`."""

        probability: float = option(
            0.15,
            help="Share of the tokens (or words) to predict.",
            validator=[fraction, positive],
        )
        whole_word: bool = option(False, help="Mask whole words: all tokens of a word together.")

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.tokenizer = context.tokenizer
        if self.tokenizer.mask_token_id is None:
            raise PluginError(
                "objective 'mlm': the tokenizer has no mask token; use one of a masked language "
                "model, or set data.tokenizer"
            )
        # Some vocabularies leave ids out, so their number is not the size of a table of all.
        ids = np.array(sorted(self.tokenizer.get_vocab().values()))
        # Random replacements are never special tokens: a stray separator would begin a second text.
        self.ordinary_ids = np.setdiff1d(ids, self.tokenizer.all_special_ids)
        self.vocab_size = int(ids[-1]) + 1
        self.head = context.make_head(context.sizes.fused, self.vocab_size)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Mask each text, and collect the positions and ids of the masked tokens."""
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
        """Choose targets and hide them: 80% become [MASK], 10% a random token, 10% stay.

        At least one token (or word) of each text is chosen, if it has any: otherwise short captions
        would often have no target.

        Args:
            input_ids: Token ids, (tokens,).
            word_ids: Index of each token's word, -1 for special tokens, (tokens,).
            generator: For all random choices.

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
        draw = generator.random(len(targets))
        random_ids = self.ordinary_ids[
            generator.integers(len(self.ordinary_ids), size=len(targets))
        ]
        masked = input_ids.copy()
        hide = draw < MASKED
        masked[targets[hide]] = self.tokenizer.mask_token_id
        replace = (draw >= MASKED) & (draw < MASKED + RANDOM)
        masked[targets[replace]] = random_ids[replace]
        return masked, targets

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Project the masked positions, and only these, to the vocabulary.

        In training, predictions are the best guesses. Logits beyond `MAX_LOGITS` are then computed
        in parts, of which none is kept: the backward pass computes each once more.
        """
        tensors = batch.tensors
        # (targets, hidden)
        states = features.fused.text.hidden_states[tensors["pair_indices"], tensors["positions"]]
        labels = tensors["labels"]
        if not self.training:
            loss_sum, logits = self._compare(states, labels)
            return ObjectiveOutput(loss_sum, {"guesses": logits.argmax(-1), "logits": logits})
        num_parts = -(-len(labels) * self.vocab_size // MAX_LOGITS)
        if num_parts <= 1:
            loss_sum, guesses = self._guess(states, labels)
            return ObjectiveOutput(loss_sum, {"guesses": guesses})
        parts = zip(states.chunk(num_parts), labels.chunk(num_parts), strict=True)
        results = [checkpoint(self._guess, *part, use_reentrant=False) for part in parts]
        losses, found = zip(*results, strict=True)
        return ObjectiveOutput(torch.stack(losses).sum(), {"guesses": torch.cat(found)})

    def _compare(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss sum of some targets, in fp32, and their detached logits."""
        logits = self.head(states)
        return F.cross_entropy(logits.float(), labels, reduction="sum"), logits.detach()

    def _guess(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss sum of some targets, and the best guess for each, (targets,), int64."""
        loss_sum, logits = self._compare(states, labels)
        return loss_sum, logits.argmax(-1)

    def token_logits(self, hidden_states: Tensor) -> Tensor:
        """Return the logit of each entry of the vocabulary."""
        logits: Tensor = self.head(hidden_states)
        return logits.float()

    def metrics(self) -> "dict[str, Metric]":
        """Return the accuracy over the masked tokens."""
        return {"accuracy": accuracy()}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch."""
        right = output.predictions["guesses"] == batch.tensors["labels"]
        metrics["accuracy"].update(right.float())

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Return the masked text, and the best guesses for each masked token."""
        logits = output.predictions["logits"]
        best = logits.float().softmax(-1).topk(min(NUM_SHOWN_PREDICTIONS, logits.shape[-1]))
        lines: list[list[str | Guess]] = [
            [texts[text_row]] for text_row, _ in batch.fused_pairs.rows()
        ]
        for pair, label, chances, tokens in zip(
            batch.tensors["pair_indices"].tolist(),
            batch.tensors["labels"].tolist(),
            best.values.tolist(),
            best.indices.tolist(),
            strict=True,
        ):
            guesses = ", ".join(
                f"{self._word(token)} {chance:.2f}"
                for token, chance in zip(tokens, chances, strict=True)
            )
            lines[pair].append(Guess(f"{self._word(label)}: {guesses}", tokens[0] == label))
        return [
            PanelEntry(image_row, tuple(pair_lines))
            for pair_lines, (_, image_row) in zip(lines, batch.fused_pairs.rows(), strict=True)
        ]

    def _word(self, token: int) -> str:
        return str(self.tokenizer.decode([token])).strip()
