"""Token states and their masks."""

import pytest
import torch
import torch.nn.functional as F

from renaissance import Tokens, attention_bias, compute_dtype, summarize, take_rows

STATES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_without_a_mask_every_token_is_real():
    tokens = Tokens(STATES)
    assert not tokens.has_mask
    assert torch.equal(tokens.attention_mask, torch.ones(2, 3, dtype=torch.bool))
    assert tokens.bias(torch.float32) is None
    torch.testing.assert_close(summarize(tokens, "mean"), STATES.mean(1))


def test_the_end_of_a_text_is_its_last_real_token():
    ends = STATES[[0, 1], [2, 0]]
    assert torch.equal(summarize(Tokens(STATES, MASK), "eos"), ends)
    assert torch.equal(summarize(Tokens(STATES), "eos"), STATES[:, 2])
    padded_before = Tokens(STATES, torch.tensor([[False, True, True], [True, True, False]]))
    assert torch.equal(summarize(padded_before, "eos"), STATES[[0, 1], [2, 1]])


def test_tokens_are_states_and_mask_in_this_order():
    tokens = Tokens(STATES, attention_mask=MASK)
    states, mask = tokens
    assert states is STATES
    assert mask is MASK
    assert tokens.has_mask
    assert Tokens(*tokens).attention_mask is MASK


def test_map_and_with_states_keep_the_mask_or_its_absence():
    for tokens in (Tokens(STATES), Tokens(STATES, MASK)):
        second = tokens.map(lambda part: part[1:])
        assert torch.equal(second.hidden_states, STATES[1:])
        assert torch.equal(second.attention_mask, tokens.attention_mask[1:])
        assert second.has_mask == tokens.with_states(STATES + 1).has_mask == tokens.has_mask


def test_a_bias_lets_no_token_attend_to_padding():
    bias = attention_bias(MASK, torch.float32)
    assert bias.shape == (2, 1, 1, 3)
    # Rows begin where kernels can read them as they are.
    assert bias.stride(0) % 8 == 0
    query, key, value = torch.randn(3, 2, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        F.scaled_dot_product_attention(query, key, value, attn_mask=bias),
        F.scaled_dot_product_attention(query, key, value, attn_mask=MASK[:, None, None, :]),
    )


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_are_computed_in_autocasts_dtype(device):
    states = STATES.to(device)
    assert compute_dtype(states) == torch.float32
    assert compute_dtype(states.to(torch.bfloat16)) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(states) == torch.bfloat16


def test_rows_taken_several_times_get_the_same_gradient_with_several_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(16, 50, 64, generator=generator, requires_grad=True)
    rows = torch.randint(16, (128,), generator=generator)
    weights = torch.randn(128, 50, 64, generator=generator)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = [
            torch.autograd.grad((weights * take_rows(states, rows)).sum(), states)[0]
            for _ in range(10)
        ]
    finally:
        torch.set_num_threads(num_threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    expected = torch.zeros(16, 50, 64).index_add_(0, rows, weights)
    torch.testing.assert_close(gradients[0], expected)
    torch.testing.assert_close(take_rows(states, rows), states[rows], rtol=0, atol=0)


def test_rows_of_masks_and_of_bf16_states_are_taken_as_well() -> None:
    rows = torch.tensor([2, 0, 2])
    tokens = Tokens(torch.randn(3, 4, 8).bfloat16(), torch.rand(3, 4) > 0.5)
    taken = tokens.take(rows)
    assert torch.equal(taken.hidden_states, tokens.hidden_states[rows])
    assert torch.equal(taken.attention_mask, tokens.attention_mask[rows])
    assert not Tokens(tokens.hidden_states).take(rows).has_mask
