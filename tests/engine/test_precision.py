"""The arithmetic that `train.precision` asks for."""

import pytest
import torch
import torch.nn.functional as F

from renaissance.engine.precision import autocast

CPU = torch.device("cpu")


def attention_gradients(precision, training):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (11, 5, 5))
    mask = torch.arange(5) < torch.tensor([[3], [5]])
    with autocast(precision, CPU, training):
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
    output.float().square().sum().backward()
    return output, [query.grad, key.grad, value.grad]


@pytest.mark.parametrize("training", [False, True])
def test_attention_in_16_bits_is_that_of_fp32_to_its_rounding(training):
    expected, expected_gradients = attention_gradients("fp32", training)
    output, gradients = attention_gradients("bf16", training)
    assert (expected.dtype, output.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.02)
    for actual, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)


def test_training_in_16_bits_leaves_the_fused_kernel_and_puts_every_setting_back():
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed
    before = allowed(), torch._C._get_flash_sdp_enabled()
    assert before[1]
    with autocast("bf16", CPU, training=True):
        assert (allowed(), torch._C._get_flash_sdp_enabled()) == (True, False)
    assert (allowed(), torch._C._get_flash_sdp_enabled()) == before
    with autocast("bf16", CPU):
        assert (allowed(), torch._C._get_flash_sdp_enabled()) == before
