"""Attention in training on a CPU, compared with PyTorch's in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from renaissance.engine.cpu_attention import cpu_attention

BATCH, HEADS, QUERIES, KEYS, SIZE = 2, 6, 7, 5, 8
# Queries 2 and 3 of sample 1 see no key.
SEES = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
SEES[0, :, :, 3:] = False
SEES[1, :, 2:4] = False
ADDED = torch.zeros(SEES.shape).masked_fill(~SEES, -math.inf)


def inputs(num_key_heads=HEADS, num_keys=KEYS):
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, QUERIES), (num_key_heads, num_keys), (num_key_heads, num_keys)]
    return [
        # As models make them: the heads are a view of the states.
        torch.randn(BATCH, tokens, heads, SIZE, generator=generator)
        .bfloat16()
        .transpose(1, 2)
        .requires_grad_()
        for heads, tokens in shapes
    ]


def gradients(tensors, dtype, fast, **arguments):
    """Return the result and the gradients of the inputs, computed in a dtype."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    mask = arguments.pop("attn_mask", None)
    if mask is not None and mask.is_floating_point():
        mask = mask.detach().to(dtype).requires_grad_(mask.requires_grad)
        leaves += [mask] if mask.requires_grad else []
    with cpu_attention() if fast else torch.enable_grad():
        output = F.scaled_dot_product_attention(*leaves[:3], attn_mask=mask, **arguments)
    weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    (output.double() * weight).sum().backward()
    return [output.double(), *(leaf.grad.double() for leaf in leaves)]


@pytest.mark.parametrize(
    ("sizes", "arguments"),
    [
        pytest.param({}, {}, id="no mask"),
        pytest.param({}, {"scale": 0.7}, id="scale"),
        pytest.param({}, {"attn_mask": SEES}, id="boolean mask"),
        pytest.param({}, {"attn_mask": SEES[0, 0]}, id="one mask for all"),
        pytest.param({}, {"attn_mask": ADDED}, id="additive mask"),
        pytest.param(
            {},
            {"attn_mask": torch.full((1, HEADS, QUERIES, KEYS), 0.5, requires_grad=True)},
            id="learned bias",
        ),
        pytest.param({}, {"is_causal": True}, id="causal"),
        pytest.param({"num_key_heads": 2}, {"enable_gqa": True}, id="grouped heads"),
        pytest.param({"num_keys": 1}, {}, id="one key"),
    ],
)
def test_equals_pytorchs_attention_with_all_its_arguments(sizes, arguments):
    tensors = inputs(**sizes)
    expected = gradients(tensors, torch.float64, fast=False, **arguments)
    actual = gradients(tensors, torch.bfloat16, fast=True, **arguments)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0.03)


def test_a_query_that_sees_nothing_gets_zero_and_gives_no_gradient():
    output, *grads = gradients(inputs(), torch.bfloat16, fast=True, attn_mask=ADDED)
    assert output[1, :, 2:4].count_nonzero() == 0
    assert output[1, :, 4].count_nonzero() == HEADS * SIZE
    assert grads[0][1, :, 2:4].count_nonzero() == 0
    assert all(grad.isfinite().all() for grad in grads)


def test_autocast_chooses_the_dtype():
    states = torch.randn(1, 2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16), cpu_attention():
        assert F.scaled_dot_product_attention(states, states, states).dtype == torch.bfloat16
    with cpu_attention():
        assert F.scaled_dot_product_attention(states, states, states).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_takes_weights_with_its_probability_and_scales_the_rest(dtype):
    # All keys weigh the same, and each value tells its key: the result tells what was dropped.
    num_keys, num_queries = 64, 2000
    query, key = torch.zeros(1, 1, num_queries, 64), torch.zeros(1, 1, num_keys, 64)
    value = torch.eye(num_keys)[None, None]
    torch.manual_seed(0)
    with cpu_attention():
        weights = F.scaled_dot_product_attention(
            query.to(dtype), key.to(dtype), value.to(dtype), dropout_p=0.25
        )
    kept = weights != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert kept.float().mean((0, 1, 2)).sub(0.75).abs().max() < 0.06
    expected = torch.full((), 1 / num_keys / 0.75).expand(kept.sum())
    torch.testing.assert_close(weights[kept].float(), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("mask", [None, torch.ones(1, 1, 3, 6, dtype=torch.bool)])
def test_a_batch_may_be_empty(mask):
    query, key = torch.randn(0, 2, 3, 4).bfloat16(), torch.randn(0, 2, 6, 4).bfloat16()
    with cpu_attention():
        output = F.scaled_dot_product_attention(query, key, key, attn_mask=mask)
    assert output.shape == (0, 2, 3, 4)


def test_a_query_alone_in_the_batch_is_left_to_pytorch():
    # What it broadcasts, two matrix products of one batch would not.
    query, key = torch.randn(1, 2, 3, 4).bfloat16(), torch.randn(5, 2, 6, 4).bfloat16()
    with cpu_attention():
        output = F.scaled_dot_product_attention(query, key, key)
    assert torch.equal(output, F.scaled_dot_product_attention(query, key, key))
    assert output.shape == (5, 2, 3, 4)


def test_recomputed_activations_are_the_same():
    query, key, value = inputs()

    def attend(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=0.3).float().sum()

    found = []
    for run in (attend, lambda *states: checkpoint(attend, *states, use_reentrant=False)):
        torch.manual_seed(1)
        with cpu_attention():
            run(query, key, value).backward()
        found.append([states.grad for states in (query, key, value)])
        for states in (query, key, value):
            states.grad = None
    for actual, expected in zip(found[1], found[0], strict=True):
        assert torch.equal(actual, expected)
        assert expected.count_nonzero() > 0
