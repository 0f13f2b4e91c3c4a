"""The kit's checks of what an objective offers for use."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import Modality, Objective, Tokens
from renaissance.builtin.objectives.itc import ITC
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.testing import ContractError, check_objective


class Long(ITC):
    """An objective with a fault."""

    def embed(self, tokens: Tokens, modality: Modality) -> Tensor:
        return 2 * super().embed(tokens, modality)


class Whole(ITM):
    """An objective with a fault."""

    def match_score(self, pooled: Tensor) -> Tensor:
        return F.softmax(super().match_score(pooled), dim=0)


class Short(MLM):
    """An objective with a fault."""

    def token_logits(self, hidden_states: Tensor) -> Tensor:
        return super().token_logits(hidden_states)[:, :-1]


class Half(ITM):
    """An objective with a fault."""

    def match_score(self, pooled: Tensor) -> Tensor:
        return super().match_score(pooled).to(torch.bfloat16)


class Deeper(ITC):
    """An objective with a fault."""

    def embedding_layer(self, modality: Modality) -> nn.Linear:
        layer = super().embedding_layer(modality)
        other = nn.Linear(layer.in_features, layer.out_features)
        return layer if modality == "text" else other


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Long, r"embed\(tokens, 'text'\) has lengths \[.*\], expected unit vectors"),
        (Deeper, r"embed\(tokens, 'image'\) is not embedding_layer\('image'\) of the summary"),
        (Whole, r"match_score of a row depends on the other rows"),
        (Short, r"token_logits has shape \(5, \d+\)"),
        (Half, r"match_score has shape \(3,\) and torch.bfloat16, expected \(3,\) and"),
    ],
)
def test_what_cannot_be_used_is_a_violation(component: type[Objective], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_objective(component, compares_samples=issubclass(component, ITC))
