"""Equal pairs of several objectives are found, and fused once."""

from typing import Any

import attrs
import numpy as np
import pytest
import torch
from support.collating import Given, collator, epoch_of, make, texts, word_pieces
from torch import nn

from renaissance import EncoderContext, ObjectiveBatch, Pairs, SpecError
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.fusions.co_attention import CoAttention
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.builtin.poolers.double import Double
from renaissance.data.shared_pairs import share_pairs
from renaissance.engine.multi_objective import MultiObjective
from renaissance.model.two_tower import TwoTower

HIDDEN = 16
SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}


def triples(pairs: Pairs) -> list[tuple[int, int, int]]:
    types = torch.ones_like(pairs.image_rows) if pairs.image_types is None else pairs.image_types
    columns = (pairs.text_rows, pairs.image_rows, types)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("has_types", [False, True])
def test_each_objective_finds_its_pairs_among_distinct_ones(has_types: bool) -> None:
    generator = np.random.default_rng(0)

    def draw(outputs: str) -> ObjectiveBatch:
        rows = torch.from_numpy(generator.integers(4, size=(2, 12)))
        types = torch.from_numpy(generator.integers(1, 3, size=12)) if has_types else None
        return ObjectiveBatch(1, Pairs(rows[0], rows[1], types, frozenset({outputs})))

    objectives = {"a": draw("text"), "b": draw("pooled"), "c": ObjectiveBatch(1)}
    shared = share_pairs(objectives)
    assert shared is not None
    distinct = [triple for group in shared.groups.values() for triple in triples(group)]
    assert len(set(distinct)) == len(distinct)
    for name in ("a", "b"):
        pairs = objectives[name].fused_pairs
        groups = [shared.groups[index] for index in shared.groups_of[name]]
        found = [triple for group in groups for triple in triples(group)]
        assert [found[index] for index in shared.order[name].tolist()] == triples(pairs)
        assert all(group.outputs >= pairs.outputs for group in groups)
    both = set(shared.groups_of["a"]) & set(shared.groups_of["b"])
    assert {shared.groups[i].outputs for i in both} == {frozenset({"text", "pooled"})}
    assert all((g.image_types is not None) == has_types for g in shared.groups.values())


def test_nothing_is_shared_where_no_two_pairs_are_equal() -> None:
    rows = torch.arange(3)
    objectives = {"a": ObjectiveBatch(3, Pairs(rows, rows)), "b": ObjectiveBatch(3)}
    assert share_pairs(objectives) is None
    other = {"a": ObjectiveBatch(3, Pairs(rows, rows, torch.ones(3, dtype=torch.int64)))}
    other["b"] = ObjectiveBatch(3, Pairs(rows, rows, torch.full((3,), 2)))
    assert share_pairs(other) is None
    assert share_pairs({}) is None


def network(objectives: dict[str, Any], vocab_size: int) -> MultiObjective:
    context = EncoderContext(image_size=8, max_text_length=40, vocab_size=vocab_size)
    text = HFTextEncoder.Options(architecture="bert", config=SIZES)
    image = HFImageEncoder.Options(architecture="vit", config=SIZES | {"patch_size": 4})
    fusion = CoAttention.Options(hidden_size=HIDDEN, num_heads=2, num_layers=2)
    torch.manual_seed(0)
    model = TwoTower(
        HFTextEncoder(text, context),
        HFImageEncoder(image, context),
        CoAttention(fusion),
        Double(Double.Options(), HIDDEN),
    )
    # Dropout would differ between pairs that are fused twice.
    return MultiObjective(model, nn.ModuleDict(objectives), (0.5,) * 3, (0.5,) * 3).eval()


def test_pairs_fused_once_give_the_losses_of_pairs_fused_twice() -> None:
    tokenizer = word_pieces()
    words = texts(12)
    objectives = {
        "mlm": make(MLM, tokenizer),
        "itm": make(ITM, tokenizer, nn.Linear(2 * HIDDEN, 2), text="masked"),
    }
    objectives["mlm"].head = nn.Linear(HIDDEN, len(tokenizer))
    dataset = Given([(text, index) for index, text in enumerate(words)])
    batch = collator(dataset, objectives, tokenizer)[epoch_of(12)]
    assert batch.input_ids is not None
    # One text for both objectives, and the true pairs of matching among the others'.
    assert len(batch.input_ids) == 12
    assert batch.shared_pairs is not None
    num_true = int(batch.objectives["itm"].tensors["labels"].sum())
    num_fused = sum(len(group.text_rows) for group in batch.shared_pairs.groups.values())
    assert 0 < num_true < 12
    assert num_fused == 24 - num_true
    ours = network(objectives, len(tokenizer))
    gradients = []
    losses = []
    for each in (batch, attrs.evolve(batch, shared_pairs=None)):
        ours.zero_grad()
        output = ours(each)
        losses.append({name: float(o.loss_sum.detach()) for name, o in output.items()})
        torch.stack([o.loss_sum for o in output.values()]).sum().backward()
        gradients.append({n: p.grad for n, p in ours.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_evaluation_matches_plain_texts() -> None:
    tokenizer = word_pieces()
    objectives = {"itm": make(ITM, tokenizer, text="masked")}
    dataset = Given([(text, index) for index, text in enumerate(texts(4))])
    masked = collator(dataset, objectives, tokenizer, training=False)[epoch_of(4)]
    plain = {"itm": make(ITM, tokenizer)}
    expected = collator(dataset, plain, tokenizer, training=False)[epoch_of(4)]
    assert torch.equal(masked.input_ids, expected.input_ids)


def test_masked_texts_of_no_objective_are_refused() -> None:
    tokenizer = word_pieces()
    dataset = Given([(text, index) for index, text in enumerate(texts(4))])
    # In the wrong order: mlm has not masked anything yet.
    objectives = {"itm": make(ITM, tokenizer, text="masked"), "mlm": make(MLM, tokenizer)}
    with pytest.raises(SpecError) as caught:
        collator(dataset, objectives, tokenizer)[epoch_of(4)]
    assert str(caught.value).startswith("objective 'itm': text = 'masked', but ")
    assert str(caught.value).endswith(
        "has no masked text; put [[objectives]] with type = 'mlm' before itm, for the same "
        "datasets, or set text = 'plain'"
    )
    with pytest.raises(SpecError) as caught:
        make(ITM, tokenizer, text="masked", negatives="dataset", replace="either")
    assert str(caught.value) == (
        "objective 'itm': text = 'masked' with negatives = 'dataset' and replace = 'either': texts "
        "from outside the micro-batch are not masked; set negatives = 'batch' or replace = 'image'"
    )
