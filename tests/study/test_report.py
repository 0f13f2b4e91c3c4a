"""The files of a report, also of a study that is not finished."""

from pathlib import Path

import pytest
from PIL import Image
from support.study_runs import write_scored, write_study

from renaissance.study.comparison import compare_variants
from renaissance.study.report import gaps, write_report

pytest.importorskip("matplotlib")


def test_a_report_is_made_of_what_there_is(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for name in ("small.seed-0", "small.seed-1", "large.seed-0"):
        write_scored(study.folder / name, [1.0, 0.0, 1.0, 1.0])
    failed = study.folder / "large.seed-1" / "study.failed.json"
    failed.parent.mkdir()
    failed.write_text('{"command": "train", "code": 2}')
    rows = compare_variants(study)
    names = [
        path.name
        for path in write_report(study, rows, ["large.seed-0: finished with x = 1, now 2"])
    ]
    assert names == [
        "table.md",
        "table.csv",
        "table.tex",
        "report.md",
        "hparams",
        "curves.png",
        "bars.png",
    ]
    log = study.folder / "large.seed-1" / "study.log"
    assert gaps(study, rows) == [
        "small.seed-2: absent; run the study again",
        f"large.seed-1: failed: train ended with 2; see {log}, and run the study again",
        "large.seed-2: absent; run the study again",
    ]
    page = (study.folder / "report" / "report.md").read_text()
    assert "- large.seed-1: failed: train ended with 2; see " in page
    assert "- large.seed-0: finished with x = 1, now 2\n" in page
    assert "| small.seed-0 | step-00000002 | `0123` |" in page
    assert "    renaissance train 'run.name=\"small.seed-0\"'" in page
    assert "- renaissance 9\n" in page
    for name in ("curves.png", "bars.png"):
        with Image.open(study.folder / "report" / name) as picture:
            colours = picture.convert("RGB").getcolors(1 << 20)
        # Blue is the second variant's, in both pictures.
        assert colours is not None
        assert len(colours) > 20
    shown = {path.name for path in (study.folder / "report" / "hparams").iterdir()}
    assert shown == {"small.seed-0", "small.seed-1", "large.seed-0"}


def test_results_are_rows_for_those_who_plot_themselves(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_scored(study.folder / "large.seed-2", [1.0, 0.0])
    accuracy, loss = study.results()
    assert (accuracy.metric, accuracy.value, loss.metric) == ("itm/accuracy", 0.5, "itm/loss")
    assert (accuracy.values, accuracy.seed, accuracy.stage) == ({"text": "large"}, 2, "")
