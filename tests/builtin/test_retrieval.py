"""Retrieval against brute force: the whole model on each pair, ranks by sorting.

Run under torchrun, this file is one rank of an evaluation.
"""

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from support.collating import Given, collator, epoch_of, make, texts, word_pieces
from support.running import (
    TINY,
    environment,
    metrics,
    one_tower_spec,
    run_here,
    weights,
    write_spec,
)
from torch import nn

from renaissance import Features, Guess, ObjectiveBatch, Pairs, SpecError
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.ranking import score_split
from renaissance.builtin.objectives.recall import Cosines, FusedScores, Numbering, recall
from renaissance.builtin.objectives.retrieval import Retrieval
from renaissance.contracts.features import Fused
from renaissance.data.collate import Collator, RowBuilder
from renaissance.engine.distributed import Ranks
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import build_network, resolve_spec
from renaissance.engine.whole_split import WholeSplit
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.sections import ResolvedSpec

# Each text's image, by grey level: out of order, some with several texts.
IMAGES = [200, 30, 200, 90, 150, 30, 60, 200, 120, 90, 250]
NUM_NEGATIVES = 3
WAYS = ("image_to_text", "text_to_image")


def spec_text(tower: str, *others: str, **options: Any) -> str:
    """The tiny spec with retrieval, and perhaps other objectives."""
    text = TINY if tower == "two" else one_tower_spec()
    start, end = text.index("[[objectives]]"), text.index("[optimizer]")
    lines = ['[[objectives]]\ntype = "retrieval"', f"num_negatives = {NUM_NEGATIVES}"]
    lines += [f"{name} = {value}" for name, value in options.items()]
    lines += [f'[[objectives]]\ntype = "{other}"' for other in others]
    return text[:start] + "\n".join(lines) + "\n\n" + text[end:]


def build(
    folder: Path, tower: str, *others: str, **options: Any
) -> tuple[ResolvedSpec, MultiObjective, Collator]:
    """A tiny model of large weights, so that scores are far apart, and a split of `IMAGES`."""
    text = spec_text(tower, *others, **options).replace("patch_size = 16", "patch_size = 4")
    path = write_spec(folder, text)
    plugins = load_plugins()
    settings = ["data.image_size=8", "evaluate.micro_batch_size=3"]
    read = load_spec([str(path), *settings], plugins)
    spec = resolve_spec(read, num_samples=len(IMAGES), world_size=1)
    tokenizer = word_pieces()
    task = build_network(spec, tokenizer, load_weights=False).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if "log_scale" not in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    lengths = [3, 9, 5, 14, 4, 7, 11, 6, 3, 8, 5]
    words = [" ".join(texts(1, length, seed)) for seed, length in enumerate(lengths)]
    dataset = Given(list(zip(words, IMAGES, strict=True)))
    objectives = task.named_objectives()
    return spec, task, collator(dataset, objectives, tokenizer, False, spec.data.max_text_length)


def split_of(spec: ResolvedSpec, task: MultiObjective, collate: Collator) -> WholeSplit:
    return WholeSplit(task, collate, "retrieval", spec, Ranks("cpu"), is_final=True)


@torch.no_grad()
def evaluate(spec: ResolvedSpec, task: MultiObjective, collate: Collator) -> dict[str, float]:
    return task.named_objectives()["retrieval"].evaluate_split(split_of(spec, task, collate))


def distinct(values: Sequence[int]) -> list[int]:
    return sorted(set(values), key=values.index)


def single(collate: Collator, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One sample's text, its mask, and its image, alone."""
    builder = RowBuilder(collate.reader)
    sample = collate.reader.sample(0, index)
    builder.text(sample), builder.image(sample)
    batch = builder.micro_batch([sample], {}, ())
    length = int(batch.attention_mask.sum())
    return batch.input_ids[:, :length], batch.attention_mask[:, :length], batch.pixel_values


@torch.no_grad()
def brute_force(task: MultiObjective, collate: Collator) -> tuple[Any, Any]:
    """Match scores and similarities of each image with each text, (images, texts) each."""
    objectives = task.named_objectives()
    head, itc = objectives["retrieval"].head, objectives.get("itc")
    scores, similarities = [], []
    for image in distinct(IMAGES):
        pixels = task.normalize(single(collate, IMAGES.index(image))[2])
        for index in range(len(IMAGES)):
            ids, mask, _ = single(collate, index)
            text_tokens = task.model.encode_text(ids, mask)
            image_tokens = task.model.encode_image(pixels)
            row = torch.zeros(1, dtype=torch.int64)
            (fused,) = task.model.fuse(text_tokens, image_tokens, [Pairs(row, row)])
            logits = head(fused.pooled)[0]
            scores.append(float(logits[1] - logits[0]))
            if itc is not None:
                first = task.model.text_features(text_tokens).hidden_states[:, 0]
                other = task.model.image_features(image_tokens).hidden_states[:, 0]
                vectors = itc.text_projection(first), itc.image_projection(other)
                similarities.append(float(torch.cosine_similarity(*vectors)))
    shape = (len(distinct(IMAGES)), len(IMAGES))
    return (
        np.array(scores).reshape(shape),
        np.array(similarities).reshape(shape) if similarities else None,
    )


def figures(keys: Any, images: Sequence[int]) -> dict[str, float]:
    """Recall and median ranks, by sorting; `keys[image][text]` sorts the best first."""
    own = [distinct(images).index(image) for image in images]
    numbers = range(len(keys))
    ranks: dict[str, list[int]] = {way: [] for way in WAYS}
    for image in numbers:
        order = sorted(range(len(own)), key=lambda text: (keys[image][text], text))
        ranks["image_to_text"].append(
            1 + next(place for place, text in enumerate(order) if own[text] == image)
        )
    for text, image in enumerate(own):
        order = sorted(numbers, key=lambda other: (keys[other][text], other))
        ranks["text_to_image"].append(1 + order.index(image))
    found = {}
    for way, values in ranks.items():
        for k in (1, 5, 10):
            found[f"{way}_r{k}"] = sum(rank <= k for rank in values) / len(values)
        found[f"{way}_median_rank"] = float(median(values))
    return found


def far_apart(values: Any) -> bool:
    """Whether no two scores of one row or column are so close that rounding could swap them."""
    return all(
        np.diff(np.sort(row)).min() > 1e-5 for matrix in (values, values.T) for row in matrix
    )


@torch.no_grad()
@pytest.mark.parametrize("tower", ["two", "one"])
def test_recall_is_that_of_brute_force(tmp_path: Path, tower: str) -> None:
    spec, task, collate = build(tmp_path, tower)
    expected, _ = brute_force(task, collate)
    assert far_apart(expected)
    split = split_of(spec, task, collate)
    objective = task.named_objectives()["retrieval"]
    # Batches that do not come out even.
    scores = score_split(split, objective.match_score, 7, shortlist=0)
    np.testing.assert_allclose(scores.values.numpy(), expected, atol=1e-5, rtol=1e-5)
    found = objective.evaluate_split(split)
    wanted = figures(-expected, IMAGES)
    assert found == pytest.approx(wanted)
    # Neither perfect nor hopeless: mistakes would show.
    assert 0 < found["text_to_image_r1"] < found["text_to_image_r5"] <= 1
    assert found["image_to_text_median_rank"] > 1


@torch.no_grad()
@pytest.mark.parametrize("tower", ["two", "one"])
def test_recall_by_similarity_alone_is_that_of_brute_force(tmp_path: Path, tower: str) -> None:
    spec, task, collate = build(tmp_path, tower, "itc")
    _, similarity = brute_force(task, collate)
    assert far_apart(similarity)
    found = by_similarity(spec, task, collate)
    assert found == pytest.approx(figures(-similarity, IMAGES))
    assert 0 < found["text_to_image_r1"] < 1
    # In training it is measured only if that is wanted.
    split = WholeSplit(task, collate, "itc", spec, Ranks("cpu"), is_final=False)
    assert task.named_objectives()["itc"].evaluate_split(split) == {}


@torch.no_grad()
def by_similarity(spec: ResolvedSpec, task: MultiObjective, collate: Collator) -> dict[str, float]:
    return task.named_objectives()["itc"].evaluate_split(split_of(spec, task, collate))


def test_cosines_are_the_same_every_time_and_nan_is_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renaissance.builtin.objectives.recall.IMAGES_AT_ONCE", 2)
    images, texts = torch.randn(2, 5, 4, generator=seeded(1))
    images[3] = torch.nan
    numbering = Numbering(torch.arange(5), torch.arange(5), [])
    scores = Cosines(numbering, images, texts)
    first, second = (torch.stack(list(scores.rows())) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first[:3], images[:3] @ texts.T)
    assert (first[3] == -torch.inf).all()


@pytest.mark.parametrize("tower", ["two", "one"])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_shortlist_is_ranked_anew_and_the_rest_stays_behind(
    tmp_path: Path, tower: str, size: int
) -> None:
    spec, task, collate = build(tmp_path, tower, "itc", shortlist=size)
    scores, similarity = brute_force(task, collate)
    assert far_apart(scores)
    assert far_apart(similarity)
    found = evaluate(spec, task, collate)
    assert found == pytest.approx(figures(shortlisted(scores, similarity, size), IMAGES))


def shortlisted(scores: Any, similarity: Any, size: int) -> list[list[tuple[bool, float]]]:
    """Sorting keys: what is fused comes first, by its score; the rest by similarity."""
    of_text = np.argsort(np.argsort(-similarity, axis=0), axis=0) < size
    of_image = np.argsort(np.argsort(-similarity, axis=1), axis=1) < size
    chosen = of_text | of_image
    return [
        [
            (not chosen[i, t], -(scores if chosen[i, t] else similarity)[i, t])
            for t in range(chosen.shape[1])
        ]
        for i in range(chosen.shape[0])
    ]


def tied_scores() -> torch.Tensor:
    return torch.randint(3, (len(distinct(IMAGES)), len(IMAGES)), generator=seeded(8)).float()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tied_recall(ranks: Ranks) -> dict[str, float]:
    """Recall of scores of which many are equal, images shared out over ranks."""

    class Gathering:
        gather = staticmethod(ranks.gather_rows)

    image_of = torch.tensor([distinct(IMAGES).index(image) for image in IMAGES])
    own = torch.arange(ranks.rank, len(distinct(IMAGES)), ranks.world_size)
    gathering: Any = Gathering()
    return recall(FusedScores(Numbering(image_of, own, []), tied_scores()[own]), gathering)


def test_equal_scores_rank_in_the_order_of_the_split() -> None:
    expected = figures(-tied_scores().numpy(), IMAGES)
    assert tied_recall(Ranks("cpu")) == pytest.approx(expected)
    backwards = figures(-tied_scores().numpy()[:, ::-1], IMAGES[::-1])
    assert expected != pytest.approx(backwards)


@torch.no_grad()
def test_a_score_that_is_no_number_ranks_last(tmp_path: Path) -> None:
    spec, task, collate = build(tmp_path, "two")
    split = split_of(spec, task, collate)
    score = task.named_objectives()["retrieval"].match_score

    def broken(pooled: torch.Tensor) -> torch.Tensor:
        return score(pooled).where(torch.arange(len(pooled)) > 0, torch.nan)

    assert score_split(split, broken, 100, shortlist=0).values.isneginf().any()


@torch.no_grad()
@pytest.mark.parametrize("others", [(), ("itc",)])
def test_encoded_rows_are_one_per_index(tmp_path: Path, others: tuple[str, ...]) -> None:
    spec, task, collate = build(tmp_path, "two", *others)
    split = split_of(spec, task, collate)
    # The first and the third sample have the same image, the fourth another one.
    indices = [0, 2, 3, 0]
    states = split.encode_images(indices).tokens.hidden_states
    assert len(states) == 4
    assert torch.equal(states[[0, 0, 2]], states[[1, 3, 2]])
    assert not torch.equal(states[0], states[2])
    texts = split.encode_texts(indices)
    for row, index in enumerate(indices):
        ids, mask, _ = single(collate, index)
        expected = task.model.encode_text(ids, mask).hidden_states[0]
        found = texts.tokens.hidden_states[row][texts.tokens.attention_mask[row]]
        torch.testing.assert_close(found, expected)
    # Encoded alone only where an objective reads it.
    assert (texts.features is None) == (not others)
    assert texts.features is None or len(texts.features.hidden_states) == 4


def test_a_shortlist_without_a_similarity_names_the_remedy(tmp_path: Path) -> None:
    spec, task, collate = build(tmp_path, "two", "itm", shortlist=4)
    with pytest.raises(SpecError, match=r"'retrieval': shortlist = 4 .* type = 'itc' too, or set"):
        evaluate(spec, task, collate)


def test_recall_in_training_is_measured_only_if_wanted(tmp_path: Path) -> None:
    settings = ["train.max_steps=2", "evaluate.every_steps=2", "train.log_every=2"]
    for wanted in ("false", "true"):
        text = spec_text("two", recall_in_training=wanted)
        assert run_here(write_spec(tmp_path, text), tmp_path / wanted, *settings) == 0
        last = metrics(tmp_path / wanted / "tiny")[-1]
        assert 0 <= last["retrieval/accuracy"] <= 1
        assert ("retrieval/text_to_image_r10" in last) == (wanted == "true")
        assert ("retrieval/image_to_text_median_rank" in last) == (wanted == "true")


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(*build(tmp_path, "two"))
    pairs = len(distinct(IMAGES)) * len(IMAGES)
    assert f"{pairs} of {pairs} pairs on rank 0" in capsys.readouterr().out


# --- on two ranks ---

CASES = [("two", 0), ("one", 0), ("two", 2), ("one", 2)]


def evaluated(folder: Path, tower: str, size: int) -> dict[str, float]:
    others = ("itc",) if size else ()
    return evaluate(*build(folder, tower, *others, shortlist=size))


def one_image(folder: Path) -> list[dict[str, float]]:
    """One image alone: a second rank has none."""
    spec, task, _ = build(folder, "two", "itc", shortlist=1)
    pairs = [("a photo of two", 7), ("one umbrella", 7)]
    objectives = task.named_objectives()
    collate = collator(Given(pairs), objectives, word_pieces(), False, 24)
    return [evaluate(spec, task, collate), by_similarity(spec, task, collate)]


def results(folder: Path, ranks: Ranks) -> str:
    found = [evaluated(folder / str(ranks.rank), *case) for case in CASES]
    found.append(by_similarity(*build(folder / str(ranks.rank), "two", "itc")))
    return repr([*found, *one_image(folder / str(ranks.rank)), tied_recall(ranks)])


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [sys.executable, *launcher, __file__, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    expected = results(tmp_path, Ranks("cpu"))
    assert (tmp_path / "0.txt").read_text() == expected
    assert (tmp_path / "1.txt").read_text() == expected


# --- training ---


def test_each_image_meets_its_text_and_texts_of_other_images() -> None:
    tokenizer = word_pieces()
    words = [f"word{index}" for index in range(30)]
    first = len(tokenizer)
    tokenizer.add_tokens(words)
    dataset = Given([(word, index // 3) for index, word in enumerate(words)])
    objective = make(Retrieval, tokenizer, num_negatives=4)
    met = set()
    for epoch in range(20):
        batch = collator(dataset, {"retrieval": objective}, tokenizer)[epoch_of(6, epoch)]
        retrieval = batch.objectives["retrieval"]
        assert retrieval.num_targets == 6
        pairs = retrieval.pairs
        found = (batch.input_ids[pairs.text_rows, 1] - first).view(6, 5)
        images = batch.pixel_values[pairs.image_rows, 0, 0, 0].view(6, 5)
        assert found[:, 0].tolist() == list(range(6))
        assert (images == torch.arange(6)[:, None] // 3).all()
        assert (found[:, 1:] // 3 != images[:, 1:]).all()
        met |= set(found[:, 1:].flatten().tolist())
    assert met == set(range(30))


def test_loss_accuracy_and_panel() -> None:
    tokenizer = word_pieces(whole_words=True)
    objective = make(Retrieval, tokenizer, head=nn.Identity(), num_negatives=2)
    # Logits of false and true, whose differences are 2, 1, 0 and -1, 0.5, 3.
    logits = torch.tensor([[0.0, 2], [1, 2], [5, 5], [0, -1], [1, 1.5], [-1, 2]])
    rows = torch.arange(6)
    batch = ObjectiveBatch(2, Pairs(rows, rows // 3), {})
    output = objective(batch, Features(fused=Fused(pooled=logits)))
    by_hand = sum(
        math.log(sum(map(math.exp, scores))) - scores[0] for scores in ((2, 1, 0), (-1, 0.5, 3))
    )
    assert float(output.loss_sum) == pytest.approx(by_hand, rel=1e-6)
    found = objective.metrics()
    objective.update_metrics(found, batch, output)
    assert float(found["accuracy"].compute()) == pytest.approx(0.5)
    entries = objective.panel(batch, output, ["a photo", "of two", "a", "one", "and", "umbrella"])
    assert [(entry.image_row, entry.lines) for entry in entries] == [
        # Softmax of 2, 1, 0, and of 3, 0.5, -1.
        (0, ("a photo", Guess("best of 3, 0.67", is_right=True))),
        (1, ("umbrella", Guess("best of 3, 0.91", is_right=False))),
    ]


def test_it_starts_from_the_head_of_matching(tmp_path: Path) -> None:
    assert run_here(write_spec(tmp_path), tmp_path / "itm", "train.max_steps=2") == 0
    text = spec_text("two")
    settings = [f"model.init_from={tmp_path / 'itm' / 'tiny'}", "train.max_steps=1"]
    settings += ["schedule.warmup_steps=0", "optimizer.learning_rate=1e-12"]
    assert run_here(write_spec(tmp_path, text), tmp_path / "retrieval", *settings) == 0
    before = weights(tmp_path / "itm" / "tiny", 2)
    after = weights(tmp_path / "retrieval" / "tiny", 1)
    names = {name.replace(".itm.", ".retrieval."): name for name in before if ".itm.head." in name}
    assert len(names) == 2
    for name, old in names.items():
        torch.testing.assert_close(after[name], before[old])
    assert Retrieval.compatible_heads == ("itm",)
    assert set(dict(make(ITM, word_pieces()).named_parameters())) == {"head.weight", "head.bias"}


if __name__ == "__main__":
    every_rank = Ranks("cpu")
    target = Path(sys.argv[1])
    (target / f"{every_rank.rank}.txt").write_text(results(target, every_rank))
    every_rank.close()
