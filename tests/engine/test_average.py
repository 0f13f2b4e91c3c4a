"""The moving average of the parameters: what it is, who uses it, and where it is refused."""

from pathlib import Path

import pytest
import torch
from support.command_line import renaissance
from support.running import metrics, run_here, weights, write_spec
from support.tiny_models import save_model

from renaissance import SpecError
from renaissance.engine.average import averaged
from renaissance.inference.loading import load

DECAY = 0.75
ALL = ["train.max_steps=3", "checkpoint.every_steps=1", "checkpoint.keep_last=9"]
ALL += ["evaluate.every_steps=3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("average")
    assert run_here(write_spec(folder), folder, *ALL, f"train.ema={DECAY}") == 0
    return folder / "tiny"


def averages(run: Path, step: int) -> dict[str, torch.Tensor]:
    tensors = weights(run, step)
    names = [name for name in tensors if name.startswith("average.")]
    return {name.removeprefix("average.").replace("/", "."): tensors[name] for name in names}


def test_it_follows_the_parameters_and_leaves_training_alone(run: Path, tmp_path: Path) -> None:
    assert run_here(write_spec(tmp_path), tmp_path, *ALL) == 0
    for step in (1, 2, 3):
        plain, tensors = weights(tmp_path / "tiny", step), weights(run, step)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in plain.items())
    first, second, third = (weights(run, step) for step in (1, 2, 3))
    expected = averages(run, 1)
    assert expected
    moved = 0.0
    for name, average in expected.items():
        after = DECAY * average + (1 - DECAY) * second[name]
        after = DECAY * after + (1 - DECAY) * third[name]
        torch.testing.assert_close(averages(run, 3)[name], after)
        moved = max(moved, float((average - first[name]).abs().max()))
    # The first step kept most of what was there before.
    assert moved > 0


def test_it_is_what_is_evaluated_and_loaded(run: Path) -> None:
    last = [line for line in metrics(run) if line["split"] == "validate"][-1]
    result = renaissance("evaluate", str(run), "--checkpoint", "last")
    assert result.code == 0, result.err
    assert f"{last['itm/loss']:.4f}" in result.out
    state = load(run).network.state_dict()
    own = weights(run, 3)
    for name, average in averages(run, 3).items():
        assert torch.equal(state[name], average)
    assert any(not torch.equal(state[name], own[name]) for name in averages(run, 3))


def test_a_new_run_starts_from_it(run: Path, tmp_path: Path) -> None:
    settings = [f"model.init_from={run}", "train.max_steps=1", "train.ema=0.5"]
    settings += ["optimizer.learning_rate=1e-12", "schedule.warmup_steps=0"]
    assert run_here(write_spec(tmp_path), tmp_path, *settings) == 0
    after = weights(tmp_path / "tiny", 1)
    for name, average in averages(run, 3).items():
        torch.testing.assert_close(after[name], average)
        torch.testing.assert_close(averages(tmp_path / "tiny", 1)[name], average)


def test_averaged_tensors_have_the_names_of_parameters() -> None:
    own, average = torch.zeros(1), torch.ones(1)
    tensors = {"model.a.weight": own, "model.b": own, "average.model/a/weight": average}
    assert averaged(tensors) == {"model.a.weight": average, "model.b": own}


def test_batch_norms_are_refused_unless_they_are_frozen(tmp_path: Path) -> None:
    save_model(tmp_path / "resnet", "resnet")
    settings = [f"model.image_encoder={{type='hf-image', checkpoint='{tmp_path}/resnet'}}"]
    settings += ["train.ema=0.9", "train.max_steps=1"]
    with pytest.raises(SpecError) as caught:
        run_here(write_spec(tmp_path), tmp_path, *settings)
    assert str(caught.value) == (
        "train.ema: model.image_encoder has batch norms, whose running statistics belong to the "
        "parameters of the moment, not to their average; freeze it, choose an encoder without, or "
        "remove this key"
    )
    settings.append("model.image_encoder.frozen=true")
    assert renaissance("check", str(write_spec(tmp_path)), *settings).code == 0
