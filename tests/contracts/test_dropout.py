"""Dropout of the fusion layers."""

import pytest
import torch
from torch import nn

from renaissance.contracts.dropout import Dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.97])
def test_drops_each_element_with_the_probability_and_scales_the_rest(probability):
    torch.manual_seed(0)
    output = Dropout(probability)(torch.full((1000, 8, 125), 3.0))

    kept = output[output != 0]
    # Six standard deviations of a million draws.
    tolerance = 6 * (probability * (1 - probability) / 1e6) ** 0.5
    assert abs(len(kept) / 1e6 - (1 - probability)) < tolerance
    # Four elements share one random number: none of the four is drawn otherwise than the others.
    shares = (output.view(-1, 4) != 0).float().mean(0)
    assert (shares - (1 - probability)).abs().max() < 2 * tolerance
    torch.testing.assert_close(
        kept, torch.full_like(kept, 3 / (1 - probability)), rtol=1e-3, atol=0
    )
    assert len(kept.unique()) == 1


def test_neighbours_are_dropped_independently_of_each_other():
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).float().view(-1, 4)
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02


def test_gradients_pass_where_the_states_did():
    states = torch.randn(5, 7, 3, requires_grad=True)
    output = Dropout(0.4)(states)
    output.sum().backward()
    torch.testing.assert_close(states.grad * states, output)


def test_a_seed_gives_the_same_draws_and_the_next_call_gives_others():
    dropout, states = Dropout(0.5), torch.ones(64, 64)
    torch.manual_seed(3)
    first, second = dropout(states), dropout(states)
    torch.manual_seed(3)
    assert torch.equal(dropout(states), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(0, 4), (1,), (3, 5), (2, 3, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_keeps_shape_and_dtype_of_any_tensor(shape, dtype):
    output = Dropout(0.3)(torch.ones(shape, dtype=dtype))
    assert (output.shape, output.dtype) == (shape, dtype)


def test_does_nothing_out_of_training_or_at_probability_0_and_drops_all_at_1():
    states = torch.randn(9, 9)
    assert torch.equal(Dropout(0.5).eval()(states), states)
    assert torch.equal(Dropout(0.0)(states), states)
    assert torch.equal(Dropout(1.0)(states), torch.zeros_like(states))
    assert torch.equal(Dropout(1.0)(states), nn.Dropout(1.0)(states))
