"""Fine-tuning as people do it: what is frozen, averaged and adapted survives an exact resume."""

from pathlib import Path

import pytest
import torch
from support.running import metrics, run_here, weights, write_spec

LAYERS = [f"model.{tower}_encoder.config.num_hidden_layers=2" for tower in ("text", "image")]
# A schedule that does not depend on the length of the run.
STEADY = ["schedule.decay=constant", "schedule.warmup_steps=0", "checkpoint.every_steps=4"]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            ["optimizer.layer_decay=0.75", 'model.text_encoder.frozen="all but 1"'], id="layers"
        ),
        pytest.param(["train.ema=0.8"], id="average"),
        pytest.param(
            [
                "model.text_encoder.adapt={type='lora', rank=2, dropout=0.1}",
                "model.image_encoder.adapt={type='lora', rank=4}",
            ],
            id="lora",
        ),
    ],
)
def test_resumed_is_bit_identical(tmp_path: Path, settings: list[str]) -> None:
    spec = write_spec(tmp_path)
    common = [*LAYERS, *STEADY, *settings, "evaluate.every_steps=4"]
    assert run_here(spec, tmp_path / "whole", *common, "train.max_steps=8") == 0
    for steps in (4, 8):
        assert run_here(spec, tmp_path / "resumed", *common, f"train.max_steps={steps}") == 0
    assert metrics(tmp_path / "whole/tiny") == metrics(tmp_path / "resumed/tiny")
    whole, resumed = (weights(tmp_path / name / "tiny", 8) for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
