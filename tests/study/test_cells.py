"""What the cells of a study see in training."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from support.running import write_spec

from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.loop import Loop
from renaissance.engine.train import train
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.study import Cell, Study

TEXT = """
[study]
name = "streams"
base = ["run.toml", "train.max_steps=9", "evaluate.every_steps=9", "monitors=[]"]
output_dir = "{folder}/runs"
seeds = [0, 1]
[study.axes.model]
base = []
frozen = "model.text_encoder.frozen=true"
merged = "model.fusion.type=merged-attention"
alone = "objectives=[{{type='itm'}}]"
divided = "train.micro_batch_size=2"
"""
VARIANTS = ("base", "frozen", "merged", "alone", "divided")
# By step: the indices of its samples, and a digest of its texts and images.
Seen = list[tuple[list[int], str]]


def seen_by(cell: Cell, patch: pytest.MonkeyPatch) -> Seen:
    """Train a cell, and return the samples of each step."""
    seen: Seen = []
    step = Loop._step

    def note(self: Loop, micro_batches: list[MicroBatch], num_targets: Any) -> Any:
        indices = [index for batch in micro_batches for index in batch.indices.tolist()]
        content = hashlib.sha256()
        for batch in micro_batches:
            for tensor in (batch.input_ids, batch.pixel_values):
                assert tensor is not None
                content.update(tensor.numpy().tobytes())
        seen.append((indices, content.hexdigest()))
        return step(self, micro_batches, num_targets)

    plugins = load_plugins()
    with patch.context() as context:
        context.setattr(Loop, "_step", note)
        assert train(load_spec(cell.arguments, plugins), plugins) == 0
    return seen


def indices_of(seen: Seen) -> list[list[int]]:
    return [indices for indices, _ in seen]


def test_all_variants_see_equal_samples_in_equal_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_spec(tmp_path)
    path = tmp_path / "study.toml"
    path.write_text(TEXT.format(folder=tmp_path))
    cells = {cell.name: cell for cell in Study.read(path).cells()}
    base, *others = [seen_by(cells[f"{name}.seed-0"], monkeypatch) for name in VARIANTS]
    # Nine steps of 8 are more than an epoch of 50.
    assert [len(step[0]) for step in base] == [8] * 9
    for name, seen in zip(VARIANTS[1:], others, strict=True):
        assert indices_of(seen) == indices_of(base), name
        # The same masked words and negatives too, unless the variant is about them.
        assert (seen == base) == (name in ("frozen", "merged")), name
    # Another seed has another order, so the comparison could have failed.
    other_seed = seen_by(cells["base.seed-1"], monkeypatch)
    assert indices_of(other_seed) != indices_of(base)
    assert indices_of(seen_by(cells["merged.seed-1"], monkeypatch)) == indices_of(other_seed)
