"""Broken encoders: the kit says in words which promise is broken."""

from collections.abc import Callable
from typing import Any

import pytest
from support.sound_components import (
    SoundImage,
    SoundJoint,
    SoundText,
    after_init,
    breaking,
    check,
)
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from renaissance import (
    Tokens,
)
from renaissance.testing import (
    ContractError,
)


def text_of(function: Callable[[Any, Tensor, Tensor], Any]) -> Callable[..., Any]:
    def encode_text(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return function(self, input_ids, attention_mask)

    return encode_text


class Wakeful(SoundText):
    """Wakes up in forward."""

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        self.linear.train()
        return super().encode_text(input_ids, attention_mask)


class Thawing(SoundText):
    """Asks for a gradient in forward."""

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        self.linear.requires_grad_(True)
        return super().encode_text(input_ids, attention_mask)


class WrongCheckpointing(SoundText):
    """Gradient checkpointing that changes the numbers."""

    factor = 1.0

    wrong_from = 1

    def enable_gradient_checkpointing(self, every_n_layers: int = 1) -> None:
        self.factor = 2.0 if every_n_layers >= self.wrong_from else 1.0

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        tokens = super().encode_text(input_ids, attention_mask)
        return Tokens(self.factor * tokens.hidden_states, attention_mask)


class OtherWithoutWeights(SoundText):
    """Has one layer fewer without pretrained parameters."""

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        if not context.load_weights:
            self.linear = nn.Identity()


class JointPadding(SoundJoint):
    """Attends to padding in the joint stack."""

    def encode_joint(self, tokens: Tokens) -> Tokens:
        mean = tokens.hidden_states.mean(1, keepdim=True)
        return Tokens(tokens.hidden_states + mean, tokens.attention_mask)


class JointMask(SoundJoint):
    """Changes the mask in the joint stack."""

    def encode_joint(self, tokens: Tokens) -> Tokens:
        return Tokens(super().encode_joint(tokens).hidden_states, ~tokens.attention_mask)


class BatchMeanImage(SoundImage):
    """Takes the mean of the micro-batch off."""

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        return super().encode_image(pixel_values - pixel_values.mean(0))


class NoRealToken(SoundImage):
    """An empty mask."""

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        tokens = super().encode_image(pixel_values)
        return Tokens(tokens.hidden_states, ~tokens.attention_mask)


class UnfittedPositions(SoundText):
    """Returns position tables as they come."""

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        self.positions = nn.Embedding(context.max_text_length, self.hidden_size)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        tokens = super().encode_text(input_ids, attention_mask)
        positions = self.positions.weight[: input_ids.shape[1]]
        return Tokens(tokens.hidden_states + positions, attention_mask)

    def fit_tensor(self, name: str, tensor: Tensor) -> Tensor:
        return tensor


class OtherModel(SoundText):
    """Offers a model for export that computes something else."""

    def transformers_model(self) -> BertModel:
        config = BertConfig(
            vocab_size=64,
            hidden_size=self.hidden_size,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
        return BertModel(config, add_pooling_layer=False)


ENCODERS = [
    (breaking(SoundText, modalities=frozenset({"sound"})), "modalities is .* expected"),
    (breaking(SoundText, __init__=after_init(lambda s: delattr(s, "hidden_size"))), "hidden_size"),
    (breaking(SoundText, encode_text=text_of(lambda s, i, m: s.embedding(i))), "expected Tokens"),
    (
        breaking(
            SoundText, encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i)[:, :, :4], m))
        ),
        r"hidden_states of encode_text are \(3, 9, 4\) float32, expected .*hidden_size = 8",
    ),
    (
        breaking(SoundText, encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i), m.long()))),
        r"attention_mask of encode_text is \(3, 9\) int64, expected \(3, 9\) bool",
    ),
    (
        breaking(SoundText, encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i), ~m))),
        "encode_text changed the mask",
    ),
    (
        breaking(
            SoundText,
            encode_text=text_of(lambda s, i, m: Tokens((e := s.embedding(i)) + e.mean(1, True), m)),
        ),
        "padding: other token ids in the padding change",
    ),
    (
        breaking(
            SoundText,
            encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i) * i.shape[1], m)),
        ),
        "the states of a text of 6 tokens change when it is batched",
    ),
    (BatchMeanImage, "padding: the states of an image change when it is batched"),
    (NoRealToken, "attention_mask of encode_image has a row without real tokens"),
    (JointPadding, "other states in the padding change what encode_joint makes"),
    (JointMask, "encode_joint changed the mask"),
    (Wakeful, "frozen, it puts linear into training mode"),
    (Thawing, "its result still requires a gradient"),
    (WrongCheckpointing, "checkpointing: .* every_n_layers = 1 changes results or gradients"),
    (
        breaking(WrongCheckpointing, wrong_from=2),
        "gradient checkpointing: .* every_n_layers = 2 changes results or gradients; recompute",
    ),
    (
        UnfittedPositions,
        r"fit_tensor turned positions\.weight of shape \(16, 8\) into \(16, 8\) float32, "
        r"expected the encoder's own shape, \(32, 8\), or None",
    ),
    (OtherModel, r"the last hidden states of the model that it returns .* differ"),
    (OtherWithoutWeights, "with load_weights = False its parameters have other names"),
]


@pytest.mark.parametrize(("encoder", "text"), ENCODERS)
def test_broken_encoders(encoder: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(encoder)
