"""Comparing variants by what their run folders hold."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.study_runs import STUDY, write_run, write_scored, write_study

from renaissance.study.comparison import compare_variants, unmeasured

Scores = dict[tuple[str, int], NDArray[np.float64]]


def made_up_scores() -> Scores:
    generator = np.random.default_rng(0)
    chance = {"small": 0.6, "large": 0.75}
    return {
        (text, seed): (generator.uniform(size=100) < chance[text]).astype(float)
        for text in chance
        for seed in range(3)
    }


def test_a_row_has_the_figures_of_its_runs(tmp_path: Path) -> None:
    study, scores = write_study(tmp_path), made_up_scores()
    for (text, seed), values in scores.items():
        write_scored(study.folder / f"{text}.seed-{seed}", values.tolist())
    baseline, large = compare_variants(study)
    means = {key: values.mean() for key, values in scores.items()}
    assert baseline.is_baseline
    assert baseline.difference is None
    large_means = [means["large", seed] for seed in range(3)]
    assert large.mean == pytest.approx(np.mean(large_means))
    assert large.deviation == pytest.approx(np.std(large_means, ddof=1))
    difference = large.difference
    assert difference is not None
    assert difference.mean == pytest.approx(large.mean - baseline.mean)
    assert (difference.num_seeds, difference.num_samples) == (3, 100)
    assert difference.low < difference.mean < difference.high
    # Of one comparison, nothing is corrected.
    assert large.p_corrected == difference.p_value


def test_scores_of_other_samples_are_not_paired(tmp_path: Path) -> None:
    study, scores = write_study(tmp_path), made_up_scores()
    for (text, seed), values in scores.items():
        write_scored(study.folder / f"{text}.seed-{seed}", values.tolist(), data=text)
    difference = compare_variants(study)[1].difference
    assert difference is not None
    assert difference.num_samples == 1
    assert difference.notes == (
        "no scores of samples: the interval is of seeds alone",
        "the baseline was measured on other samples: nothing is paired by sample",
    )


def test_scores_whose_mean_is_not_the_metric_are_not_used(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for name, accuracy in (("small", 0.5), ("large", 0.9)):
        for seed in range(3):
            scores = {"itm/accuracy": [0.0, 1.0]}
            write_run(study.folder / f"{name}.seed-{seed}", {"itm/accuracy": accuracy}, scores)
    difference = compare_variants(study)[1].difference
    assert difference is not None
    assert (difference.num_samples, difference.mean) == (1, pytest.approx(0.4))


def test_a_missing_seed_is_left_out_of_both(tmp_path: Path) -> None:
    study, scores = write_study(tmp_path), made_up_scores()
    for (text, seed), values in scores.items():
        if (text, seed) != ("large", 1):
            write_scored(study.folder / f"{text}.seed-{seed}", values.tolist())
    _, large = compare_variants(study)
    assert large.missing == ("large.seed-1",)
    difference = large.difference
    assert difference is not None
    expected = np.mean([(scores["large", s] - scores["small", s]).mean() for s in (0, 2)])
    assert difference.mean == pytest.approx(expected)


def test_a_variant_without_results_is_a_gap(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_scored(study.folder / "small.seed-0", [1.0, 0.0])
    _, large = compare_variants(study)
    assert math.isnan(large.mean)
    assert large.difference is None
    assert len(large.missing) == 3


def test_without_the_baseline_the_others_are_still_shown(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for seed in range(3):
        write_scored(study.folder / f"large.seed-{seed}", [1.0, 0.0, 1.0, 1.0])
    baseline, large = compare_variants(study)
    assert baseline.is_baseline
    assert baseline.missing == ("small.seed-0", "small.seed-1", "small.seed-2")
    assert (large.mean, large.missing, large.difference) == (0.75, (), None)


def test_a_metric_that_nothing_measured_is_named(tmp_path: Path) -> None:
    text = STUDY.replace('"itm/accuracy"', '"itm/accuracy", "itm/acuracy"')
    study = write_study(tmp_path, text)
    write_scored(study.folder / "small.seed-0", [1.0, 0.0])
    assert unmeasured(study, compare_variants(study)) == [
        "study.report.metrics: no run has measured 'itm/acuracy'; correct it, or run the study "
        "again; measured so far: itm/accuracy, itm/loss; did you mean 'itm/accuracy'?"
    ]


def test_controls_have_rows_of_their_own(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    folder = study.folder / "small.seed-0"
    write_scored(folder, [1.0, 0.0])
    (folder / "results.json").write_text(
        '{"validate": {"metrics": {"itm/accuracy": 0.5}, '
        '"controls": {"no image": {"itm/accuracy": 0.25}}}}'
    )
    rows = {(row.variant.name, row.metric): row.mean for row in compare_variants(study)}
    assert rows["small", "itm/accuracy@no image"] == 0.25


def test_variants_that_share_a_run_share_a_row(tmp_path: Path) -> None:
    text = STUDY.replace("seeds", 'stages = ["first", "second"]\nseeds').replace(
        "[study.report]", "[study.stage.first]\naxes = []\n\n[study.report]"
    )
    study = write_study(tmp_path, text)
    # Only the first stage, which does not depend on the axis, was measured.
    for seed in range(3):
        write_scored(study.folder / f"first.all.seed-{seed}", [1.0, 0.0])
    (row,) = compare_variants(study)
    assert (row.variant.name, row.is_baseline) == ("all", True)
