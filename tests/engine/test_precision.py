"""The arithmetic that `train.precision` asks for."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import profile

from renaissance.engine.precision import auto_precision, autocast, set_tf32

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", None, "fp32"),
        ("mps", None, "fp32"),
        ("cuda:0", (7, 5), "fp32"),
        ("cuda:0", (8, 0), "bf16"),
        ("cuda:1", (9, 0), "bf16"),
    ],
)
def test_bf16_is_chosen_where_the_device_has_units_for_it(
    monkeypatch, device, capability, expected
):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability
    )
    assert auto_precision(torch.device(device)) == expected
    assert asked == ([] if capability is None else [torch.device(device)])


def test_tf32_is_for_cuda_devices_and_can_be_refused(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    set_tf32(True, CPU)
    assert (set_to, torch.backends.cudnn.allow_tf32) == ([], False)
    for is_allowed, expected in ((True, "high"), (False, "highest")):
        set_tf32(is_allowed, torch.device("cuda"))
        assert set_to.pop() == expected
        assert torch.backends.cudnn.allow_tf32 is is_allowed


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_training_on_a_cpu_changes_how_attention_is_computed(precision):
    def operators(training):
        query = torch.zeros(1, 1, 2, 8, requires_grad=True)
        with autocast(precision, CPU, training), profile() as profiled:
            F.scaled_dot_product_attention(query, query, query)
        return {event.name for event in profiled.events()}

    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert fused in operators(training=False)
    assert (fused in operators(training=True)) == (precision == "fp32")
    assert fused in operators(training=False)
