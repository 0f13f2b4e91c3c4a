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
