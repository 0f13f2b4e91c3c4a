"""Steps that are not finite are left out on the device, and reported a step later."""

import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file
from support.running import TINY, run_here, torchrun, weights, write_spec
from torch import Tensor, nn

from renaissance import RunError
from renaissance.builtin.objectives.itm import ITM
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.guard import GuardedStep, StepGuard

FUSED: dict[str, Any] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
}


def gradient(step: int) -> Tensor:
    return torch.randn(5, generator=torch.Generator().manual_seed(step))


def walk(name: str, bad: tuple[int, ...], num_steps: int) -> tuple[list[Tensor], StepGuard]:
    """Take guarded steps; return the parameters after each."""
    parameter = nn.Parameter(torch.ones(5))
    optimizer = FUSED[name]([parameter])
    guard = StepGuard(optimizer, torch.device("cpu"))
    values = []
    for step in range(num_steps):
        parameter.grad = gradient(step)
        if step in bad:
            parameter.grad[2] = math.nan
        guard.step(parameter.grad.norm(), GuardedStep(TrainState(step=step), [], []))
        values.append(parameter.detach().clone())
    return values, guard


@pytest.mark.parametrize("name", FUSED)
def test_a_bad_step_and_those_that_follow_change_nothing(name: str) -> None:
    expected, _ = walk(name, (), 2)
    values, guard = walk(name, (2,), 5)
    assert torch.equal(values[1], expected[1])
    for value in values[2:]:
        assert torch.equal(value, expected[1])
    bad = guard.first_bad()
    assert bad is not None
    assert bad.state.step == 2


@pytest.mark.parametrize("name", FUSED)
def test_the_guard_changes_no_finite_step(name: str) -> None:
    values, guard = walk(name, (), 4)
    parameter = nn.Parameter(torch.ones(5))
    optimizer = FUSED[name]([parameter])
    for step in range(4):
        parameter.grad = gradient(step)
        optimizer.step()
        assert torch.equal(values[step], parameter)
    assert guard.first_bad() is None


def test_the_last_steps_are_not_awaited() -> None:
    _, guard = walk("adamw", (3,), 4)
    assert guard.first_bad(num_unread=1) is None
    bad = guard.first_bad()
    assert bad is not None
    assert bad.state.step == 3


def test_only_optimizers_that_heed_the_flag_fit() -> None:
    parameters = [nn.Parameter(torch.ones(2, 2))]
    assert all(StepGuard.fits(make(parameters)) for make in FUSED.values())
    assert not StepGuard.fits(torch.optim.SGD(parameters, lr=0.1))
    assert not StepGuard.fits(torch.optim.Muon(parameters, lr=0.1))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_without_a_finite_value_stops_the_run_before_it_changes_a_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, log_every: int
) -> None:
    """`adamw` leaves the step out on the device; `muon`, whose kernels take no flag, waits."""
    settings = ["data.validate=[]", f"optimizer.type={optimizer}", "checkpoint.every_steps=2"]
    settings += [f"train.log_every={log_every}", "checkpoint.keep_last=9", "train.max_steps=7"]
    spec = write_spec(tmp_path)
    assert run_here(spec, tmp_path / "whole", *settings) == 0
    forward, num_calls = ITM.forward, 0

    def overflow(self: ITM, *arguments: Any) -> Any:
        nonlocal num_calls
        output = forward(self, *arguments)
        num_calls += self.training
        # Its gradient is finite.
        more = math.inf if num_calls == 5 else 0.0
        return attrs.evolve(output, loss_sum=output.loss_sum + more)

    monkeypatch.setattr(ITM, "forward", overflow)
    with pytest.raises(RunError, match=r"^step 5: the loss of itm is not finite; samples \d+"):
        run_here(spec, tmp_path, *settings)
    saved = load_file(tmp_path / "tiny/nonfinite-step-00000004/model.safetensors")
    expected = weights(tmp_path / "whole/tiny", 4)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)
    names = [path.name for path in sorted((tmp_path / "tiny/checkpoints").glob("step-*"))]
    assert names == ["step-00000002", "step-00000004"]
    assert "NaN" not in (tmp_path / "tiny/metrics.jsonl").read_text()


WORSE = """
import math
import os

import attrs

from renaissance import hookimpl
from renaissance.builtin.objectives.itm import ITM


class Worse(ITM):
    num_calls = 0

    def forward(self, batch, features):
        output = super().forward(batch, features)
        self.num_calls += self.training
        is_bad = self.training and self.num_calls == 3 and os.environ["RANK"] == "1"
        return attrs.evolve(output, loss_sum=output.loss_sum + (math.inf if is_bad else 0.0))


@hookimpl
def register_objectives(register):
    register("worse", Worse)
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_all_ranks_stop_at_a_loss_that_only_one_of_them_has(tmp_path: Path, optimizer: str) -> None:
    """No rank exchanges its loss: the gradient carries the news."""
    (tmp_path / "worse.py").write_text(WORSE)
    spec = write_spec(tmp_path, TINY.replace('type = "itm"', 'type = "worse"'))
    settings = [f"run.output_dir={tmp_path}", f"run.plugins=['{tmp_path}/worse.py']"]
    settings += [f"optimizer.type={optimizer}", "train.log_every=100"]
    finished = torchrun(2, str(spec), *settings)
    assert finished.returncode != 0
    assert "step 3: the loss of worse is not finite; samples " in finished.stderr + finished.stdout
    report = json.loads((tmp_path / "tiny/nonfinite-step-00000002/report.json").read_text())
    assert report["objectives"] == ["worse"]
    # Those of rank 1: half of the global batch.
    assert len(report["indices"]) == 4
