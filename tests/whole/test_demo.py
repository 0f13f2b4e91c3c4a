"""The demo fits the machine, and compares with what needs no pictures."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from support.running import write_spec

from renaissance.builtin.datasets.shapes import COLOURS, SHAPES
from renaissance.demo.__main__ import choose_num_ranks
from renaissance.demo.scores import Score, score
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec


@pytest.mark.parametrize(("num_gpus", "num_ranks"), [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_no_rank_is_started_without_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, num_ranks: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert choose_num_ranks() == num_ranks


def test_the_prior_is_the_share_of_the_commonest_answer() -> None:
    result = Score(6, Counter({3: 5, 7: 2, 8: 1}))
    assert (result.share, result.prior) == (6 / 8, 5 / 8)


def test_each_question_is_counted_once(tmp_path: Path) -> None:
    parts = build(load_spec([str(write_spec(tmp_path))], load_plugins()), 1, load_weights=False)
    collator = parts.require_validate()
    scores = score(parts, collator, {"colours": COLOURS, "shapes": SHAPES}, "matching")
    batch = collator[[(0, index) for index in range(len(collator.datasets))]]
    labels = batch.objectives["mlm"].tensors["labels"]
    for name, words in {"colours": COLOURS, "shapes": SHAPES}.items():
        ids = parts.tokenizer.convert_tokens_to_ids(list(words))
        expected = Counter(label for label in labels.flatten().tolist() if label in ids)
        assert scores[name].answers == expected
        assert 0 <= scores[name].num_right <= expected.total()
    matches = batch.objectives["itm"].tensors["labels"].tolist()
    assert scores["matching"].answers == Counter(matches)
