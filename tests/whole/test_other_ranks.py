"""A run that goes on with another number of ranks sees each of the remaining samples once."""

from pathlib import Path

import pytest
from support.running import TINY, run_here, torchrun, write_spec

PLUGIN = '''
"""Image-text matching that notes which samples it trains on."""

import os

import attrs
import torch
from renaissance import hookimpl
from renaissance.builtin.objectives.itm import ITM


class Noting(ITM):
    """Matching."""

    def collate(self, samples, builder):
        batch = super().collate(samples, builder)
        indices = torch.tensor([sample.index for sample in samples])
        return attrs.evolve(batch, tensors={**batch.tensors, "indices": indices})

    def update_metrics(self, metrics, batch, output):
        # Called for what was trained on, not for what was read ahead.
        with open(f"{os.environ['NOTES']}-{os.environ.get('RANK', 'alone')}", "a") as file:
            file.writelines(f"{index}\\n" for index in batch.tensors["indices"].tolist())
        super().update_metrics(metrics, batch, output)


@hookimpl
def register_objectives(register):
    register("noting", Noting)
'''


@pytest.mark.slow
def test_4_then_2_then_3_then_1_ranks_see_each_sample_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noting.py").write_text(PLUGIN)
    validation = TINY[TINY.index("[[data.validate]]") : TINY.index("[[objectives]]")]
    text = TINY.replace(validation, "").replace('"itm"', '"noting"')
    text = text.replace("num_samples = 50", "num_samples = 48")
    spec = write_spec(tmp_path, text)
    settings = ["run.plugins=" + f'["{tmp_path}/noting.py"]', "checkpoint.best_metric=loss"]
    settings += ["schedule.decay=constant", "schedule.warmup_steps=1", f"run.output_dir={tmp_path}"]

    def notes(name: str) -> list[list[int]]:
        return [
            [int(line) for line in path.read_text().splitlines()]
            for path in sorted(tmp_path.glob(f"{name}-*"))
        ]

    for num_ranks, max_steps in ((4, 2), (2, 4)):
        arguments = [str(spec), *settings, f"train.max_steps={max_steps}"]
        finished = torchrun(num_ranks, *arguments, NOTES=str(tmp_path / f"notes{num_ranks}"))
        assert finished.returncode == 0, finished.stderr
        assert [len(mine) for mine in notes(f"notes{num_ranks}")] == [16 // num_ranks] * num_ranks
    finished = torchrun(3, str(spec), *settings, "train.max_steps=6", NOTES=str(tmp_path / "no"))
    assert finished.returncode != 0
    assert "got 8, which 3 ranks cannot share equally" in finished.stderr
    assert "Or start as many ranks as can share it: 1, 2, 4, 8" in finished.stderr
    assert not notes("no")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes1"))
    assert run_here(spec, tmp_path, *settings, "train.max_steps=6") == 0
    seen = [index for mine in notes("notes*") for index in mine]
    assert sorted(seen) == list(range(48))
