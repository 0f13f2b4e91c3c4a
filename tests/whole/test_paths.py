"""Relative paths start from the working directory, and a run folder works from any other."""

from pathlib import Path

import pytest
import tomli
from support.arrow_files import rows, spec_with_files, write_arrow
from support.command_line import renaissance

VALIDATE = 'data.validate=[{type = "image-text", files = "train.arrow"}]'


def test_a_run_is_evaluated_and_resumed_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "specs").mkdir(parents=True)
    elsewhere.mkdir()
    (project / "data").mkdir()
    write_arrow(project / "data" / "train.arrow", rows(8))
    spec = spec_with_files(project)
    text = spec.read_text().replace(f'"{project}/tokenizer"', '"tokenizer"')
    text = text.replace(f'root = "{project}"', 'root = "data"')
    # Of the spec's folder, only what is part of the spec.
    (project / "specs" / "run.toml").write_text(f'extends = ["base.toml"]\n{text}')
    (project / "specs" / "base.toml").write_text("[run]\nseed = 3\n")
    monkeypatch.chdir(project)
    steps = ["train.max_steps=2", "evaluate.every_steps=2"]
    assert renaissance("train", "specs/run.toml", VALIDATE, *steps).code == 0

    monkeypatch.chdir(elsewhere)
    run = project / "runs" / "tiny"
    assert str(tmp_path) in (run / "checkpoints" / "best" / "spec.toml").read_text()
    finished = renaissance("evaluate", str(run))
    assert finished.code == 0, finished.err
    assert renaissance("check", str(run / "spec.toml")).code == 0
    further = renaissance("train", str(run / "spec.toml"), "train.max_steps=4")
    assert further.code == 0, further.err
    assert (run / "checkpoints" / "step-00000004").is_dir()
    assert list(elsewhere.iterdir()) == []
    assert tomli.loads((run / "spec.toml").read_text())["run"]["seed"] == 3
