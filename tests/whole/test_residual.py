"""`train.residual`: whole runs in bf16, with bf16 states between layers."""

from pathlib import Path

import pytest
import torch
from support.asserting import assert_same_weights
from support.running import metrics, run_here, torchrun, weights, write_spec

BF16 = ["train.precision=bf16", "optimizer.type=sgd", "optimizer.learning_rate=0.05"]


def test_recomputed_activations_change_no_weight(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    settings = [*BF16, "train.micro_batch_size=2", "checkpoint.every_steps=2"]
    assert run_here(spec, tmp_path / "whole", *settings, "train.max_steps=4") == 0
    recomputed = [*settings, "train.gradient_checkpointing=half"]
    assert run_here(spec, tmp_path / "parts", *recomputed, "train.max_steps=4") == 0
    first, second = (weights(tmp_path / name / "tiny", 4) for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {tensor.dtype for tensor in first.values() if tensor.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize("residual", ["bf16", "fp32"])
def test_ranks_and_micro_batches_agree_to_the_rounding_of_bf16(
    tmp_path: Path, residual: str
) -> None:
    spec = write_spec(tmp_path)
    settings = [*BF16, f"train.residual={residual}", "train.max_steps=4"]
    assert run_here(spec, tmp_path / "one", *settings) == 0
    result = torchrun(2, str(spec), f"run.output_dir={tmp_path / 'two'}", *settings)
    assert result.returncode == 0, result.stderr
    assert_same_weights(tmp_path / "one/tiny", tmp_path / "two/tiny", 4, 5e-3)
    one, two = (metrics(tmp_path / name / "tiny")[-1]["loss"] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=0.01)
