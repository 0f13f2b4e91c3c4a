"""A run that stops at a loss or gradient that is not finite names the samples in question."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.full_disk import full_disk
from torch import nn

from renaissance import ObjectiveOutput, RunError
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.distributed import Ranks
from renaissance.engine.nonfinite import stop_not_finite

NAN, INFINITY = float("nan"), float("inf")


def micro_batch(*indices: int) -> MicroBatch:
    return MicroBatch(torch.tensor(indices), None, None, None, {})


def outputs(**losses: float) -> dict[str, ObjectiveOutput]:
    return {name: ObjectiveOutput(torch.tensor(loss)) for name, loss in losses.items()}


def stop(
    folder: Path, batches: list[MicroBatch], results: list[dict[str, ObjectiveOutput]], ranks: Ranks
) -> tuple[str, dict[str, object]]:
    """Return the message and the report."""
    with pytest.raises(RunError) as caught:
        stop_not_finite(
            folder, nn.Linear(2, 2), TrainState(step=6), "[run]\n", ranks, batches, results
        )
    saved = folder / "nonfinite-step-00000006"
    assert str(saved) in str(caught.value)
    return str(caught.value), json.loads((saved / "report.json").read_text())


def test_samples_are_those_of_the_micro_batches_whose_loss_is_not_finite(tmp_path: Path) -> None:
    batches = [micro_batch(4, 9), micro_batch(7, 1), micro_batch(3)]
    results = [outputs(mlm=1.0, itm=2.0), outputs(mlm=NAN, itm=2.0), outputs(mlm=1.0, itm=INFINITY)]
    message, report = stop(tmp_path, batches, results, Ranks("cpu"))
    assert message.startswith(
        "step 7: the loss of itm, mlm is not finite; samples 1, 3, 7. The parameters before the "
        "step and the micro-batches are in "
    )
    assert report == {"step": 6, "objectives": ["itm", "mlm"], "indices": [1, 3, 7]}
    saved = tmp_path / "nonfinite-step-00000006"
    for index, batch in enumerate(batches):
        tensors = load_file(saved / f"rank0-micro-batch{index}.safetensors")
        assert torch.equal(tensors["indices"], batch.indices)
    assert set(load_file(saved / "model.safetensors")) == {"weight", "bias"}


def test_a_gradient_alone_puts_all_samples_of_the_step_in_question(tmp_path: Path) -> None:
    batches = [micro_batch(*range(30)), micro_batch(40)]
    message, report = stop(tmp_path, batches, [outputs(mlm=1.0), outputs(mlm=2.0)], Ranks("cpu"))
    assert "step 7: the gradient (the losses are finite) is not finite; samples 0, 1, 2" in message
    assert "18, 19 and 11 more. " in message
    assert report == {"step": 6, "objectives": [], "indices": [*range(30), 40]}


@pytest.mark.parametrize(
    ("loss", "other", "expected"),
    [
        # Only the other rank has such a loss: the samples of this one are not in question.
        (1.0, {"objectives": ["itm"], "indices": [8]}, (["itm"], [8])),
        (NAN, {"objectives": [], "indices": [8]}, (["mlm"], [5])),
        (NAN, {"objectives": ["itm"], "indices": [8]}, (["itm", "mlm"], [5, 8])),
        (1.0, {"objectives": [], "indices": [8]}, ([], [5, 8])),
    ],
)
def test_ranks_put_their_reports_together(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loss: float,
    other: dict[str, list[str] | list[int]],
    expected: tuple[list[str], list[int]],
) -> None:
    monkeypatch.setattr(Ranks, "gather_text", lambda self, text: [text, json.dumps(other)])
    _, report = stop(tmp_path, [micro_batch(5)], [outputs(mlm=loss)], Ranks("cpu"))
    assert (report["objectives"], report["indices"]) == expected


def test_a_full_disk_does_not_hide_what_is_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(), pytest.raises(RunError) as caught:
        stop_not_finite(
            tmp_path,
            nn.Linear(2, 2),
            TrainState(step=6),
            "[run]\n",
            Ranks("cpu"),
            [micro_batch(4)],
            [outputs(mlm=NAN)],
        )
    assert str(caught.value).startswith(
        "step 7: the loss of mlm is not finite; samples 4. The parameters before the step and the "
        f"micro-batches could not all be written to {tmp_path}/nonfinite-step-00000006; try a lower"
    )
    assert "cannot write the checkpoint" in capsys.readouterr().out
