"""Filling the masks of a text about an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from renaissance.contracts.batches import Pairs
from renaissance.contracts.objective import Objective
from renaissance.data.collate import RowBuilder
from renaissance.errors import DataError, PluginError, quoted
from renaissance.inference.rows import Picture, Rows

if TYPE_CHECKING:
    from renaissance.inference.model import Model


def fill_masks(
    model: Model, objective: Objective, image: Picture, text: str, top: int
) -> list[list[tuple[str, float]]]:
    """Return the most probable words of each mask; see `Model.fill_mask`."""
    tokenizer = model.tokenizer
    input_ids = np.array(model.mask_tokenizer.encode(text).ids, dtype=np.int64)
    positions = np.flatnonzero(input_ids == tokenizer.mask_token_id)
    if len(positions) == 0:
        raise DataError(
            f"text: got {quoted(text)}, expected {tokenizer.mask_token} in place of each word to "
            f"predict, within the first {model.spec.data.max_text_length} tokens"
        )
    reader = model.reader(Rows([{"image": image, "text": text}]))
    builder = RowBuilder(reader)
    sample = reader.sample(0, 0)
    pairs = Pairs(
        text_rows=torch.tensor([builder.text_view(sample, "masked", input_ids)]),
        image_rows=torch.tensor([builder.image(sample)]),
        outputs=frozenset({"text"}),
    )
    batch = builder.micro_batch([sample], {}, {}).to(model.device)
    with model.computing():
        encoded = model.network.encode(batch)
        fused = model.network.model.fuse(encoded["text"], encoded["image"], [pairs])[0]
        logits = objective.token_logits(fused.text.hidden_states[0, positions])
    if logits is None:
        raise PluginError(
            f"{type(objective).__name__}.token_logits returned None; expected the logits "
            "of the vocabulary, (tokens, vocabulary)"
        )
    best = logits.float().softmax(-1).topk(min(top, logits.shape[-1]))
    return [
        [
            (str(tokenizer.decode([index])).strip(), probability)
            for index, probability in zip(indices, probabilities, strict=True)
        ]
        for indices, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
