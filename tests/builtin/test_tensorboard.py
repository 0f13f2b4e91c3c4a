"""TensorBoard: every figure of metrics.jsonl, in charts that training and validation share."""

import time
from pathlib import Path

import numpy as np
import pytest
import tomli
from PIL import Image
from support.running import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from renaissance import draw_panel
from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.builtin.monitors.tensorboard import TensorBoard
from renaissance.testing.made_up_run import make_evaluation, make_run_info, make_step_report

# Kept beside training: figures of the run that metrics.jsonl leaves out, since they are timings.
TIMINGS = {"run/samples_per_second", "run/data_wait_share", "run/peak_memory_gib"}


def play(folder: Path, start_step: int, *steps: int, panel: bool = True) -> None:
    """Play a run that ends without a word after its last step."""
    folder.mkdir(exist_ok=True)
    run = make_run_info(folder, start_step)
    monitors = [JsonLines(JsonLines.Options()), TensorBoard(TensorBoard.Options(panel=panel))]
    for monitor in monitors:
        monitor.run_started(run)
        for step in steps:
            monitor.step_finished(run, make_step_report(step))
            monitor.evaluated(run, make_evaluation(step, num_images=5))


def events_of(folder: Path, split: str) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard" / split), size_guidance={"images": 0})
    return events.Reload()


def name_in_jsonl(tag: str) -> str:
    if tag.startswith("loss/"):
        return "loss" if tag == "loss/total" else f"{tag.removeprefix('loss/')}/loss"
    return tag.removeprefix("run/").removeprefix("optimizer/").removeprefix("metrics/")


def test_tags_and_values_are_those_of_metrics_jsonl(tmp_path: Path) -> None:
    play(tmp_path, 0, 2, 4, 6)
    # TensorBoard reads files in the order of their names, which begin with the second.
    time.sleep(1)
    play(tmp_path, 2, 4, 6, 8)
    for split in ("train", "validate"):
        lines = [line for line in metrics(tmp_path) if line["split"] == split]  # type: ignore[comparison-overlap]
        events = events_of(tmp_path, split)
        tags = set(events.Tags()["scalars"])
        names = {name_in_jsonl(tag) for tag in tags - TIMINGS}
        expected = set(lines[0]) - {"step", "split"}
        # The epoch stands beside training alone.
        assert names == (expected if split == "train" else expected - {"epoch"})
        for tag in tags - TIMINGS:
            scalars = events.Scalars(tag)
            # Steps of the first run after the checkpoint are not there twice.
            assert [scalar.step for scalar in scalars] == [2, 4, 6, 8]
            values = [line[name_in_jsonl(tag)] for line in lines]
            assert [scalar.value for scalar in scalars] == pytest.approx(values, rel=1e-6)


def test_training_and_validation_share_charts(tmp_path: Path) -> None:
    play(tmp_path, 0, 2)
    train, validate = (
        set(events_of(tmp_path, split).Tags()["scalars"]) for split in ("train", "validate")
    )
    assert validate == {"loss/total", "loss/itm", "metrics/itm/accuracy"}
    assert train - validate == {
        *(f"optimizer/learning_rate/{role}" for role in ("encoder", "fusion", "head")),
        *("optimizer/gradient_norm", "run/epoch", *TIMINGS),
    }
    # TensorBoard sorts by the first part.
    assert sorted(tag.partition("/")[0] for tag in train)[:2] == ["loss", "loss"]
    # Nothing stands beside the two.
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {"train", "validate"}


def test_timings_are_those_of_the_report(tmp_path: Path) -> None:
    play(tmp_path, 0, 2)
    events = events_of(tmp_path, "train")
    found = {tag: events.Scalars(tag)[0].value for tag in TIMINGS}
    assert found == {
        "run/samples_per_second": 102.0,
        "run/data_wait_share": pytest.approx(0.02),
        "run/peak_memory_gib": 0.5,
    }


def test_the_spec_is_shown_as_it_is(tmp_path: Path) -> None:
    play(tmp_path, 0, 2)
    events = events_of(tmp_path, "train")
    (event,) = events.Tensors("spec/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines())
    unindented = "\n".join(line.removeprefix("    ") for line in text.splitlines())
    assert tomli.loads(unindented) == make_run_info(tmp_path).spec


def test_the_panel(tmp_path: Path) -> None:
    play(tmp_path / "with", 0, 2, 4)
    play(tmp_path / "without", 0, 2, 4, panel=False)
    images = events_of(tmp_path / "with", "validate").Images("panel")
    assert [image.step for image in images] == [2, 4]
    (file := tmp_path / "panel.png").write_bytes(images[0].encoded_image_string)
    shown = np.asarray(Image.open(file))
    assert np.array_equal(shown, np.asarray(draw_panel(make_evaluation(2, 5).panel)))
    # Four pictures in a row; the second and the fifth are where they belong.
    assert shown.shape[1] == 4 * 280
    assert tuple(shown[8, 280 + 8]) == (40, 99, 0)
    assert tuple(shown[shown.shape[0] // 2 + 8, 8]) == (160, 99, 0)
    assert events_of(tmp_path / "without", "validate").Tags()["images"] == []
