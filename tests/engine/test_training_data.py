"""What an objective finds when a run starts is kept."""

from typing import NoReturn

import pytest

from renaissance import CheckpointError
from renaissance.contracts.training_data import NoTrainingData
from renaissance.engine.training_data import TrainingAnswers


def _nothing() -> NoReturn:
    raise AssertionError("it was looked for again")


def _answers(stored: dict[str, dict[str, object]], is_resumed: bool = False) -> TrainingAnswers:
    return TrainingAnswers(_nothing, stored, is_resumed)


def test_what_is_found_is_recorded_once() -> None:
    started = _answers({})
    data = started.of("vqa")
    assert data.kept("answers", lambda: ["yes", "no"]) == ["yes", "no"]
    assert data.kept("answers", _nothing) == ["yes", "no"]
    assert started.records() == {"vqa": {"kept": {"answers": ["yes", "no"]}}}
    assert NoTrainingData().kept("answers", lambda: ["yes"]) == ["yes"]


def test_a_run_that_is_used_does_not_look_again() -> None:
    stored: dict[str, dict[str, object]] = {"vqa": {"kept": {"answers": ["yes", "no"]}}}
    assert _answers(stored).of("vqa").kept("answers", _nothing) == ["yes", "no"]


def test_a_resumed_run_must_find_the_same() -> None:
    stored: dict[str, dict[str, object]] = {"vqa": {"kept": {"answers": ["yes", "no"]}}}
    same, other = (_answers(stored, is_resumed=True).of("vqa") for _ in range(2))
    assert same.kept("answers", lambda: ["yes", "no"]) == ["yes", "no"]
    with pytest.raises(CheckpointError) as caught:
        other.kept("answers", lambda: ["no", "yes"])
    assert str(caught.value) == (
        "objective 'vqa': since the run began, its answers changed from ['yes', 'no'] to "
        "['no', 'yes']; the outputs of its head would mean something else. Restore the data, or "
        "choose another run.name"
    )
