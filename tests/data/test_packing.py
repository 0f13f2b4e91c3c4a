"""Texts one after the other in rows."""

import numpy as np
import torch
from support.collating import Given, collator, epoch_of, make, texts, word_pieces

from renaissance import Pairs
from renaissance.builtin.objectives.mlm import MLM
from renaissance.data.packing import find_real_tokens, pack_texts


def test_every_real_token_stands_in_one_place_beside_those_of_its_text() -> None:
    lengths = np.random.default_rng(0).integers(3, 33, size=100)
    packing = pack_texts(lengths.tolist(), 32)
    assert packing is not None
    ids = torch.arange(100 * 32).view(100, 32)
    packed = packing.pack(ids, -7)
    assert packed.shape == packing.texts.shape == packing.position_ids.shape
    assert packed.shape[1] == 64
    is_real = packing.texts >= 0
    assert torch.equal(packed == -7, ~is_real)
    # The id of each token says which text and which position it had.
    assert torch.equal(packed[is_real] // 32, packing.texts[is_real])
    assert torch.equal(packed[is_real] % 32, packing.position_ids[is_real])
    assert sorted(packed[is_real].tolist()) == [
        text * 32 + position for text, n in enumerate(lengths) for position in range(n)
    ]
    # Rows are almost full.
    assert len(packed) <= 1.06 * lengths.sum() / 64 + 1
    unpacked = packing.unpack(packed[:, :, None].float(), 100, 32)[:, :, 0]
    mask = torch.arange(32) < torch.from_numpy(lengths)[:, None]
    assert torch.equal(unpacked, torch.where(mask, ids, 0).float())


def test_tokens_attend_to_their_own_text_alone() -> None:
    packing = pack_texts([3, 20, 2, 5], 20)
    assert packing is not None
    bias = packing.bias(torch.float32)
    assert bias.shape == (len(packing.texts), 1, 64, 64)
    for row, text_of in enumerate(packing.texts.tolist()):
        for query, key in ((0, 1), (0, 21), (21, 22), (63, 0)):
            expected = 0.0 if text_of[query] == text_of[key] else -torch.inf
            assert bias[row, 0, query, key] == expected


def test_texts_with_little_padding_are_not_packed() -> None:
    assert pack_texts([8, 8, 7, 8], 8) is None
    # Two thirds are padding, but one row would be longer than all.
    assert pack_texts([2, 8], 16) is None


def test_micro_batches_are_packed_in_training_alone() -> None:
    tokenizer = word_pieces()
    dataset = Given([(text, i) for i, text in enumerate(["word " * 30, *texts(30, num_words=2)])])
    for training in (True, False):
        one = collator(dataset, {"mlm": make(MLM, tokenizer)}, tokenizer, training)
        batch = one[epoch_of(31)]
        assert (batch.packing is not None) == training
        assert (batch.objectives["mlm"].fused_pairs.text_index is not None) == training


def test_pairs_know_their_real_tokens_and_a_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(3, 33, size=40)
    rows = torch.from_numpy(np.random.default_rng(1).integers(40, size=100))
    pairs = find_real_tokens(Pairs(rows, rows), lengths.tolist(), 32)
    assert pairs.text_index is not None
    assert torch.equal(pairs.text_rows, rows)
    index = pairs.text_index.tolist()
    real = {i * 32 + p for i, row in enumerate(rows.tolist()) for p in range(lengths[row])}
    assert real <= set(index) <= set(range(100 * 32))
    assert len(index) == len(set(index)) == -(-len(real) // 64) * 64
    # Few pairs do not have that much padding.
    few = find_real_tokens(Pairs(rows[:1], rows[:1]), [9] * 40, 16)
    assert few.text_index is not None
    assert few.text_index.tolist() == list(range(16))
