"""`renaissance study` and `renaissance compare`, from the file to the report."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.command_line import renaissance
from support.killing import descendants, kill_tree
from support.running import environment, write_spec

from renaissance.commands import study_check
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.scores import read_scores
from renaissance.files import read_json

TEXT = """
[study]
name = "tiny"
base = ["run.toml", "train.max_steps=4", "monitors=[{type='jsonl'}]"]
seeds = [0]
[study.axes]
rate = { low = [], high = "optimizer.learning_rate=0.01" }
[study.report]
metrics = ["itm/accuracy", "mlm/accuracy"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a study whose runs are finished."""
    folder = tmp_path_factory.mktemp("study")
    write_spec(folder)
    (folder / "study.toml").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = renaissance("study", "run", "study.toml", "--jobs", "2")
    assert (done.code, done.err) == (0, ""), done
    return folder


@pytest.fixture
def there(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a copy of it, as the working directory."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_what_is_finished_is_skipped(there: Path) -> None:
    again = renaissance("study", "run", "study.toml")
    assert (again.code, again.out) == (0, "2 of 2 runs are finished\n")
    listed = renaissance("study", "list", "study.toml").out.splitlines()
    assert listed[1:] == ["low.seed-0\tfinished\t4/4\t", "high.seed-0\tfinished\t4/4\t"]


def test_the_scores_are_of_the_same_samples_in_the_same_order(there: Path) -> None:
    runs = [RunFolder(there / "runs/tiny" / name) for name in ("low.seed-0", "high.seed-0")]
    low, high = (read_scores(run, "validate") for run in runs)
    assert low.data == high.data != ""
    for run, scores in zip(runs, (low, high), strict=True):
        metrics = read_json(run.results)["validate"]["metrics"]
        # A word has no score of its own sample.
        assert list(scores.by_metric) == ["itm/accuracy"]
        accuracy = scores.by_metric["itm/accuracy"]
        assert accuracy.shape == (21,)
        assert accuracy.mean() == pytest.approx(metrics["itm/accuracy"])


def test_other_validation_data_has_another_digest(there: Path) -> None:
    run = there / "runs/tiny/low.seed-0"
    before = read_scores(RunFolder(run), "validate").data
    setting = "data.validate.0.num_samples=5"
    assert renaissance("evaluate", str(run), setting).code == 0
    after = read_scores(RunFolder(run), "validate")
    assert after.data != before
    assert after.by_metric["itm/accuracy"].shape == (5,)


def test_a_finished_run_of_another_spec_is_named(there: Path) -> None:
    text = TEXT.replace("learning_rate=0.01", "learning_rate=0.02")
    (there / "study.toml").write_text(text)
    done = renaissance("study", "run", "study.toml")
    assert done.code == 2
    assert done.err == (
        "error: high.seed-0: finished with optimizer.learning_rate = 0.01, now 0.02; delete "
        "runs/tiny/high.seed-0 to run it anew, or restore the study\n"
    )
    # The report is still made, and says so.
    reported = renaissance("study", "report", "study.toml")
    assert reported.code == 0
    assert "warning: high.seed-0: finished with optimizer.learning_rate" in reported.out
    page = (there / "runs/tiny/report/report.md").read_text()
    assert f"- {done.err.removeprefix('error: ')}" in page


def test_the_report_is_printed_and_written(there: Path) -> None:
    pytest.importorskip("matplotlib")
    reported = renaissance("study", "report", "study.toml")
    assert (reported.code, reported.err) == (0, "")
    lines = reported.out.splitlines()
    assert lines[0].split("\t")[:4] == ["variant", "metric", "seeds", "mean"]
    assert lines[1].startswith("low (baseline)\titm/accuracy\t1\t")
    assert "only 21 samples: the interval is too narrow" in reported.out
    assert "one seed: the interval does not know what another seed would change" in reported.out
    assert (there / "runs/tiny/report/bars.png").stat().st_size > 1000


def test_a_report_of_metrics_that_nothing_measured_names_those_there_are(there: Path) -> None:
    text = TEXT.replace('["itm/accuracy", "mlm/accuracy"]', '["itm/acuracy"]')
    (there / "study.toml").write_text(text)
    reported = renaissance("study", "report", "study.toml")
    assert reported.code == 2
    assert reported.err == (
        "error: study.report.metrics: no run has measured 'itm/acuracy'; correct it, or run the "
        "study again; measured so far: itm/accuracy, itm/loss, loss, mlm/accuracy, mlm/loss; did "
        "you mean 'itm/accuracy'?\n"
    )


def test_a_failed_cell_does_not_stop_the_others(there: Path) -> None:
    shutil.rmtree(there / "runs")
    # Only when it is trained does a run find that its data is missing.
    text = TEXT.replace('"optimizer.learning_rate=0.01"', '"data.train.0.type=no-such"')
    (there / "study.toml").write_text(text)
    refused = renaissance("study", "run", "study.toml")
    assert refused.code == 2
    assert "error: high.seed-0: " in refused.err
    text = TEXT.replace('"optimizer.learning_rate=0.01"', '"model.init_from=nowhere"')
    (there / "study.toml").write_text(text)
    done = renaissance("study", "run", "study.toml")
    assert done.code == 1
    reason = "train ended with 2; see runs/tiny/high.seed-0/study.log"
    assert done.out.splitlines()[-1] == f"failed: high.seed-0: {reason}"
    assert "low.seed-0\tfinished\t4/4" in renaissance("study", "list", "study.toml").out
    assert "high.seed-0\tfailed\t\ttrain ended" in renaissance("study", "list", "study.toml").out
    reported = renaissance("study", "report", "study.toml")
    assert reported.code == 0
    assert f"missing: high.seed-0: failed: {reason}, and run the study again\n" in reported.out
    assert "high\titm/accuracy\t0 of 1\t-" in reported.out


def test_one_cell_is_run_by_its_name(there: Path) -> None:
    shutil.rmtree(there / "runs")
    unknown = renaissance("study", "run", "study.toml", "--cell", "hihg.seed-0")
    assert unknown.err == (
        "error: --cell: there is no run 'hihg.seed-0'; did you mean 'high.seed-0'?; `renaissance "
        "study list` shows them\n"
    )
    assert renaissance("study", "run", "study.toml", "--cell", "high.seed-0").code == 0
    assert not (there / "runs/tiny/low.seed-0").exists()


def test_check_names_what_each_run_takes_and_what_differs(there: Path) -> None:
    checked = renaissance("study", "check", "study.toml")
    assert (checked.code, checked.err) == (0, "")
    rows = [line.split("\t") for line in checked.out.splitlines()]
    assert rows[1][4:6] == ["PFLOP", "time"]
    assert rows[2][:4] == ["low", "45,067", "100.0%", "4"]
    assert (
        "setting\tvalue\tvariants\n"
        "optimizer.learning_rate\t0.003\trate = low\n"
        "optimizer.learning_rate\t0.01\trate = high\n"
    ) in checked.out
    assert checked.out.endswith("ok: these 2 runs can start\n")


def test_times_are_in_proportion_to_a_measured_micro_batch(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> list[list[str]]:
        out = renaissance("study", "check", "study.toml").out
        return [line.split("\t") for line in out.splitlines()]

    measured = rows()
    assert re.fullmatch(r"\d+ (s|min|h|d)", measured[2][5])
    assert re.fullmatch(
        r"time: an estimate for one process on this machine's \w+, as if all runs trained at the "
        r"[\d.]+ GFLOP/s that were measured now for forward and backward passes of "
        r"low.seed-0; reading data, evaluating and saving take time, too",
        measured[4][0],
    )
    # A sample per second, in a study of 4 steps of 8 samples; one run is twice as long.
    text = TEXT.replace("learning_rate=0.01", "learning_rate=0.01', 'train.max_steps=8")
    text = text.replace('high = "', "high = ['").replace('=8" }', "=8'] }")
    (there / "study.toml").write_text(text)
    shutil.rmtree(there / "runs")
    monkeypatch.setattr(study_check, "training_rate", lambda spec, flops: flops)
    assert [row[5] for row in rows()[2:4]] == ["32 s", "64 s"]
    # A large study on a small machine: everything else is still shown.
    monkeypatch.setattr(study_check, "training_rate", lambda spec, flops: None)
    unknown = rows()
    assert [row[5] for row in unknown[2:4]] == ["?", "?"]
    assert unknown[4][0].startswith("time: not estimated, since a sample of low.seed-0 takes ")
    assert unknown[4][0].endswith("too much for a CPU; check the study on a machine with a GPU")

    def fail(spec: object, flops: int) -> float:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(study_check, "training_rate", fail)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert rows()[4] == [
        f"time: unknown, since low.seed-0 failed on this machine's {device}: out of memory"
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (3e6, "35 d")],
)
def test_a_duration_has_few_digits(seconds: float, words: str) -> None:
    assert study_check._duration(seconds) == words


def test_check_names_every_fault_at_once(there: Path) -> None:
    text = TEXT.replace('"optimizer.learning_rate=0.01"', '"optimizer.learning_rate=0.003"')
    text = text.replace('"mlm/accuracy"]', '"mlm/accurcy"]')
    (there / "study.toml").write_text(text)
    checked = renaissance("study", "check", "study.toml")
    assert checked.code == 2
    faults = checked.err.removeprefix("error: ").splitlines()
    assert faults == [
        "study.axes.rate.high: changes nothing: every cell has the same settings without "
        "optimizer.learning_rate=0.003; correct it, or remove it",
        "high.seed-0: has the same settings as low.seed-0; exclude one of them",
        "study.report.metrics: no cell reports 'mlm/accurcy'; expected one of itm/accuracy, "
        "itm/loss, loss, mlm/accuracy, mlm/loss",
        "high.seed-0: finished with optimizer.learning_rate = 0.01, now 0.003; delete "
        "runs/tiny/high.seed-0 to run it anew, or restore the study",
    ]


def test_runs_are_compared(there: Path) -> None:
    runs = ["runs/tiny/low.seed-0", "runs/tiny/high.seed-0"]
    compared = renaissance("compare", *runs, "--sheet", "sheet.png")
    assert (compared.code, compared.err) == (0, "")
    assert "optimizer.learning_rate\t0.003\t0.01\n" in compared.out
    assert "low.seed-0 (baseline)\titm/accuracy\t1\t" in compared.out
    metrics = [
        read_json(there / run / "results.json")["validate"]["metrics"]["mlm/accuracy"]
        for run in runs
    ]
    assert f"\t{metrics[1] - metrics[0]:+.4f}\t" in compared.out


def test_runs_that_cannot_be_compared_are_named(there: Path) -> None:
    compared = renaissance("compare", "runs/tiny/low.seed-0", "elsewhere", "--split", "test")
    assert compared.code == 2
    assert compared.err == (
        "error: elsewhere: no spec.toml there; expected a run folder (runs/NAME)\n"
        "runs/tiny/low.seed-0: not evaluated on 'test'; run `renaissance evaluate "
        "runs/tiny/low.seed-0 --split test`\n"
        "elsewhere: not evaluated on 'test'; run `renaissance evaluate elsewhere --split test`\n"
    )


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\nfrom renaissance.cli import main\nsys.argv = ['renaissance', *{}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    for arguments in (["study", "--help"], ["study", "run", "--help"], ["compare", "--help"]):
        command = [sys.executable, "-c", code.format(arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())


@pytest.mark.slow
def test_a_study_that_is_stopped_or_killed_goes_on_to_the_same_table(there: Path) -> None:
    pytest.importorskip("matplotlib")
    text = TEXT.replace("max_steps=4", "max_steps=200").replace("[0]", "[0, 1]")
    (there / "study.toml").write_text(text)
    command = [sys.executable, "-m", "renaissance", "study", "run", "study.toml", "--jobs", "2"]
    tables = []
    for how in (None, signal.SIGINT, signal.SIGKILL):
        shutil.rmtree(there / "runs")
        if how is not None:
            stop_while_two_cells_run(command, there / "runs/tiny", how)
            states = renaissance("study", "list", "study.toml").out
            for name in ("low.seed-0", "low.seed-1"):
                assert f"{name}\tunfinished\t" in states
            assert "high.seed-1\tabsent" in states
        subprocess.run(command, env=environment(), check=True)
        assert renaissance("study", "report", "study.toml").code == 0
        tables.append((there / "runs/tiny/report/table.csv").read_bytes())
    assert tables[0] == tables[1] == tables[2]


def stop_while_two_cells_run(command: list[str], runs: Path, how: signal.Signals) -> None:
    """Start a study, and stop it once its first two cells have each saved a checkpoint.

    SIGINT goes to the study alone; SIGKILL goes to its cells as well, at once.
    """
    process = subprocess.Popen(command, env=environment())
    folders = [runs / f"low.seed-{seed}/checkpoints" for seed in (0, 1)]
    while not all(list(folder.glob("step-*/manifest.json")) for folder in folders):
        assert process.poll() is None
        time.sleep(0.02)
    # The two commands; each may have processes of its own.
    assert len(descendants(process.pid)) >= 2
    if how == signal.SIGKILL:
        kill_tree(process)
        return
    process.send_signal(how)
    assert process.wait(120) == 128 + signal.SIGINT
