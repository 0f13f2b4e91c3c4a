"""The operations per second that times are estimated from."""

from pathlib import Path

import pytest
from support.running import write_spec

from renaissance.commands import training_rate as module
from renaissance.commands.training_rate import MAX_CPU_FLOPS, training_rate
from renaissance.data.micro_batch import MicroBatch
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec


def test_the_rate_is_of_the_samples_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec([str(write_spec(tmp_path)), "train.device=cpu"], load_plugins())
    seconds = iter((100.0, 2.0) * 2)
    sizes = []

    def passes(network: object, batch: MicroBatch, *rest: object) -> float:
        sizes.append(len(batch.indices))
        return next(seconds)

    monkeypatch.setattr(module, "_seconds", passes)
    # A micro-batch of 8, of which the second pass counts; then as much as a CPU does quickly.
    assert training_rate(spec, 1000) == 1000 * 8 / 2
    assert training_rate(spec, MAX_CPU_FLOPS // 3) == MAX_CPU_FLOPS // 3 * 3 / 2
    assert sizes == [8, 8, 3, 3]


def test_a_cpu_is_not_kept_busy_by_a_large_model(tmp_path: Path) -> None:
    spec = load_spec([str(write_spec(tmp_path)), "train.device=cpu"], load_plugins())
    assert training_rate(spec, MAX_CPU_FLOPS + 1) is None
