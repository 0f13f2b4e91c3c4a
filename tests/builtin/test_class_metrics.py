"""Metrics over classes, against scikit-learn, and the picture of the confusion matrix."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from renaissance import Evaluation
from renaissance.builtin.monitors.tensorboard import TensorBoard
from renaissance.confusion_matrix import DARKEST, draw_confusion_matrix
from renaissance.contracts.class_metrics import class_metrics
from renaissance.testing.made_up_run import make_run_info


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("sizes", [(40,), (13, 27), (1, 39)])
def test_one_class_per_sample(num_classes: int, sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    shares = torch.randn(40, num_classes, generator=generator).softmax(-1)
    labels = torch.randint(num_classes, (40,), generator=generator)
    made = class_metrics(num_classes, multi_label=False)
    for part, true in zip(shares.split(sizes), labels.split(sizes), strict=True):
        made["auroc"].update(part, true)
        made["macro_f1"].update(part.argmax(-1), true)
        made["confusion"].update(part.argmax(-1), true)
    chosen = shares.argmax(-1)
    one_hot = torch.nn.functional.one_hot(labels, num_classes)
    assert float(made["auroc"].compute()) == pytest.approx(roc_auc_score(one_hot, shares))
    assert float(made["macro_f1"].compute()) == pytest.approx(
        f1_score(labels, chosen, average="macro")
    )
    assert made["confusion"].compute().tolist() == confusion_matrix(labels, chosen).tolist()


def test_classes_without_samples_do_not_count() -> None:
    shares = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.6, 0.4, 0.0]])
    labels = torch.tensor([0, 1, 1])
    made = class_metrics(3, multi_label=False)
    made["auroc"].update(shares, labels)
    made["macro_f1"].update(shares.argmax(-1), labels)
    per_class = [roc_auc_score(labels == index, shares[:, index]) for index in (0, 1)]
    assert float(made["auroc"].compute()) == pytest.approx(np.mean(per_class))
    assert float(made["macro_f1"].compute()) == pytest.approx(
        f1_score(labels, shares.argmax(-1), average="macro")
    )
    # Of one class alone there is no curve.
    made["auroc"].reset()
    made["auroc"].update(shares, torch.tensor([2, 2, 2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made["auroc"].compute().isnan()


def test_any_number_of_classes_per_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(30, 4, generator=generator)
    labels = (torch.rand(30, 4, generator=generator) < 0.4).long()
    # Nobody has the last class: its F1 is 0, as it is in scikit-learn, and it has no curve.
    labels[:, 3] = 0
    made = class_metrics(4, multi_label=True)
    assert made.keys() == {"auroc", "macro_f1"}
    for rows in (slice(0, 11), slice(11, 30)):
        made["auroc"].update(shares[rows], labels[rows])
        made["macro_f1"].update((shares[rows] >= 0.5).long(), labels[rows])
    assert float(made["auroc"].compute()) == pytest.approx(
        roc_auc_score(labels[:, :3], shares[:, :3], average="macro")
    )
    assert float(made["macro_f1"].compute()) == pytest.approx(
        f1_score(labels, shares >= 0.5, average="macro", zero_division=0)
    )


def test_many_classes_have_no_picture_and_no_curves() -> None:
    assert class_metrics(50, multi_label=False).keys() == {"macro_f1", "auroc", "confusion"}
    assert class_metrics(51, multi_label=False).keys() == {"macro_f1", "auroc"}
    assert class_metrics(101, multi_label=False).keys() == {"macro_f1"}


@pytest.mark.parametrize("num_classes", [2, 3, 20, 21, 50])
def test_the_darkness_of_a_cell_is_its_share_of_the_row(num_classes: int) -> None:
    counts = [[0] * num_classes for _ in range(num_classes)]
    counts[0][1], counts[1][1], counts[1][0] = 7, 1, 3
    picture = draw_confusion_matrix(counts, [f"class {i}" for i in range(num_classes)])
    cell = max(20, min(64, 640 // num_classes))
    start = picture.width - 12 - num_classes * cell

    def corner(row: int, column: int) -> tuple[int, ...]:
        # Inside the cell, beside the count.
        color = picture.getpixel((start + column * cell + 3, start + row * cell + 3))
        assert isinstance(color, tuple)
        return color

    def blended(share: float) -> tuple[int, ...]:
        return tuple(round(255 - share * (255 - dark)) for dark in DARKEST)

    assert picture.width == picture.height < 1200
    assert corner(0, 1) == DARKEST
    assert corner(1, 0) == blended(0.75)
    assert corner(1, 1) == blended(0.25)
    assert corner(0, 0) == (255, 255, 255)


def test_long_names_are_cut_and_do_not_reach_into_the_cells() -> None:
    names = ["x" * 300, "a\nname of\ttwo lines"]
    picture = draw_confusion_matrix([[1, 0], [0, 1]], names)
    assert picture.width < 500
    assert (
        picture.tobytes()
        == draw_confusion_matrix(
            [[1, 0], [0, 1]], ["x" * 21 + "...", "a name of two lines"]
        ).tobytes()
    )


def test_tensorboard_gets_the_picture(tmp_path: Path) -> None:
    run = make_run_info(tmp_path, 0)
    monitor = TensorBoard(TensorBoard.Options(panel=False))
    monitor.run_started(run)
    picture = draw_confusion_matrix([[3, 1], [0, 2]], ["no", "yes"])
    monitor.evaluated(
        run, Evaluation(4, 1.0, "validate", {"loss": 1.0}, pictures={"task/confusion": picture})
    )
    monitor.run_finished(run, "finished", {})
    events = EventAccumulator(str(tmp_path / "tensorboard/validate"), size_guidance={"images": 0})
    (image,) = events.Reload().Images("task/confusion")
    assert (image.step, image.width, image.height) == (4, picture.width, picture.height)
