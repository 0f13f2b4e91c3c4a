"""The built-in poolers."""

from typing import Any

import pytest
import torch

from renaissance import Tokens
from renaissance.builtin.poolers.double import Double
from renaissance.builtin.poolers.mean import Mean
from renaissance.builtin.poolers.single import Single

HIDDEN = 8
POOLERS = [(Double, 2 * HIDDEN), (Single, HIDDEN), (Mean, 2 * HIDDEN)]
each_pooler = pytest.mark.parametrize(("pooler_class", "output_size"), POOLERS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_tokens() -> tuple[Tokens, Tokens]:
    text_mask = torch.tensor([[True] * 3, [True, False, False]])
    image_mask = torch.tensor([[True, True, True, False], [True] * 4])
    return (
        Tokens(torch.randn(2, 3, HIDDEN), text_mask),
        Tokens(torch.randn(2, 4, HIDDEN), image_mask),
    )


def pool(pooler: Any, text: Tokens, image: Tokens) -> torch.Tensor:
    """Hand over only what the pooler says it reads."""

    def read(tokens: Tokens, which: str) -> Tokens | None:
        if which == "none":
            return None
        return tokens if which == "all" else Tokens(*(part[:, :1] for part in tokens))

    return pooler(read(text, pooler.text_use), read(image, pooler.image_use))


def test_double_is_the_first_tokens_each_through_its_own_layer():
    pooler = Double(Double.Options(), HIDDEN)
    text, image = make_tokens()
    expected = torch.cat(
        [
            torch.tanh(text.hidden_states[:, 0] @ pooler.text.dense.weight.T),
            torch.tanh(image.hidden_states[:, 0] @ pooler.image.dense.weight.T),
        ],
        dim=-1,
    )
    torch.testing.assert_close(pool(pooler, text, image), expected)
    assert (pooler.text_use, pooler.image_use) == ("first", "first")


def test_single_is_the_first_text_token_and_asks_for_no_image():
    pooler = Single(Single.Options(), HIDDEN)
    text, image = make_tokens()
    expected = torch.tanh(text.hidden_states[:, 0] @ pooler.text.dense.weight.T)
    torch.testing.assert_close(pool(pooler, text, image), expected)
    assert (pooler.text_use, pooler.image_use) == ("first", "none")


def test_mean_leaves_out_padding():
    pooler = Mean(Mean.Options(), HIDDEN)
    text, image = make_tokens()
    text_means = torch.stack([text.hidden_states[0].mean(0), text.hidden_states[1, 0]])
    image_means = torch.stack([image.hidden_states[0, :3].mean(0), image.hidden_states[1].mean(0)])
    expected = torch.cat(
        [
            torch.tanh(text_means @ pooler.text.dense.weight.T),
            torch.tanh(image_means @ pooler.image.dense.weight.T),
        ],
        dim=-1,
    )
    torch.testing.assert_close(pool(pooler, text, image), expected)


@each_pooler
def test_size_gradients_and_bf16(pooler_class, output_size):
    pooler = pooler_class(pooler_class.Options(), HIDDEN)
    tokens = make_tokens()
    pooled = pool(pooler, *tokens)
    assert pooler.output_size == output_size
    assert pooled.shape == (2, output_size)
    with torch.autocast("cpu", torch.bfloat16):
        low = pool(pooler, *tokens)
    torch.testing.assert_close(low.float(), pooled, atol=0.01, rtol=0.01)
    pooled.square().sum().backward()
    assert all(parameter.grad.any() for parameter in pooler.parameters())


@each_pooler
def test_runs_without_data(pooler_class, output_size):
    pooler = pooler_class(pooler_class.Options(), HIDDEN).to("meta")
    text, image = (Tokens(*(part.to("meta") for part in tokens)) for tokens in make_tokens())
    assert pool(pooler, text, image).shape == (2, output_size)
