"""From samples to micro-batches: rows, padding, bad records, the same for any division."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.collating import (
    Given,
    byte_pairs,
    collator,
    epoch_of,
    imagenet,
    make,
    texts,
    word_pieces,
)
from support.pictures import encoded, smooth_picture
from support.running import TINY, one_tower_spec, write_spec
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from renaissance import DataError, Pairs, Sample, SpecError
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.data.collate import RowBuilder
from renaissance.data.micro_batch import MicroBatch, map_leaves
from renaissance.data.tokenizer import separator_id
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

# Three texts per image.
PAIRS = [(text, index // 3) for index, text in enumerate(texts(24))]
MakeTokenizer = Callable[[], PreTrainedTokenizerFast]
TOKENIZERS: dict[str, MakeTokenizer] = {"word pieces": word_pieces, "byte pairs": byte_pairs}


def both_objectives(negatives: str = "dataset") -> dict[str, MLM | ITM]:
    tokenizer = word_pieces()
    return {"mlm": make(MLM, tokenizer), "itm": make(ITM, tokenizer, negatives=negatives)}


class Textured(Given):
    """Images that no crop and no operation leaves as they are."""

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        sample = super().sample(index, generator)
        return attrs.evolve(sample, images=(smooth_picture(60, 50 + self.pairs[index][1]),))


def decoded(batch: MicroBatch) -> list[str]:
    assert batch.input_ids is not None
    return word_pieces().batch_decode(batch.input_ids.tolist(), skip_special_tokens=True)


# --- rows ---


def test_each_image_has_one_row_shared_by_all_objectives() -> None:
    batch = collator(Given(PAIRS), both_objectives("batch"), word_pieces())[epoch_of(12)]
    mlm, itm = batch.objectives["mlm"].pairs, batch.objectives["itm"].pairs
    # 12 texts on 4 images; false images are others of the micro-batch.
    assert batch.pixel_values.shape == (4, 3, 8, 8)
    assert mlm.image_rows.tolist() == [row for row in range(4) for _ in range(3)]
    assert set(itm.image_rows.tolist()) <= set(range(4))
    # Row by row the image that it is said to be.
    assert [int(image.float().mean()) for image in batch.pixel_values] == [0, 1, 2, 3]


def test_every_text_has_one_row_per_view() -> None:
    batch = collator(Given(PAIRS), both_objectives("batch"), word_pieces())[epoch_of(12)]
    assert len(batch.input_ids) == 24
    plain, masked = (batch.objectives[n].pairs.text_rows.tolist() for n in ("itm", "mlm"))
    assert sorted(plain + masked) == list(range(24))
    # "swimming" is "swim ##ming", which decoding puts together again.
    assert [decoded(batch)[row] for row in plain] == [text for text, _ in PAIRS[:12]]
    mask = word_pieces().mask_token_id
    for row in masked:
        hidden = (batch.input_ids[row] == mask).sum()
        assert hidden < batch.attention_mask[row].sum() - 2


def test_a_false_image_that_is_in_the_batch_takes_no_further_row() -> None:
    # Six texts on two images: whatever is drawn is there already.
    dataset = Given(PAIRS[:6])
    batch = collator(dataset, both_objectives("dataset"), word_pieces())[epoch_of(6)]
    assert len(batch.pixel_values) == 2
    assert 0 in batch.objectives["itm"].tensors["labels"]


@pytest.mark.parametrize("options", [{"randaugment": True}, {"random_resized_crop": (0.1, 0.9)}])
def test_an_augmented_image_has_one_row_per_sample(options: dict[str, Any]) -> None:
    objectives, tokenizer = both_objectives("batch"), word_pieces()
    evaluation = imagenet(training=False, **options)
    batch = collator(Textured(PAIRS), objectives, tokenizer, transform=evaluation)[epoch_of(6)]
    assert len(batch.pixel_values) == 2
    one = collator(Textured(PAIRS), objectives, tokenizer, transform=imagenet(**options))
    batch = one[epoch_of(6)]
    assert len(batch.pixel_values) == 6
    # Two images, each seen in three ways.
    assert len({image.numpy().tobytes() for image in batch.pixel_values}) == 6
    again = one[epoch_of(6)]
    assert torch.equal(batch.pixel_values, again.pixel_values)
    assert not torch.equal(batch.pixel_values, one[epoch_of(6, epoch=1)].pixel_values)


def test_another_sample_never_has_the_same_image() -> None:
    reader = collator(Given(PAIRS[:6]), {}, word_pieces()).reader
    builder, sample = RowBuilder(reader), reader.sample(0, 1)
    others = [builder.other_sample(sample, f"purpose {i}") for i in range(50)]
    assert {other.index for other in others} == {3, 4, 5}
    again = [builder.other_sample(sample, f"purpose {i}").index for i in range(50)]
    assert again == [other.index for other in others]
    without = RowBuilder(reader, bad=frozenset({3, 5}))
    assert {without.other_sample(sample, f"purpose {i}").index for i in range(50)} == {4}


def test_a_dataset_of_one_image_has_no_other() -> None:
    one = collator(Given(PAIRS[:3]), both_objectives("dataset"), word_pieces())
    # Of this many pairs, one is to be false.
    with pytest.raises(DataError, match=r"given: \d: .* no sample with another image; matching"):
        one[epoch_of(3) + epoch_of(3, epoch=1) + epoch_of(3, epoch=2)]


# --- bad records ---


class Damaged(Given):
    """Image 1 is cut short, image 2 is too large, and record 9 cannot be read at all."""

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        if index == 9:
            raise DataError("given: 9: no such record")
        sample = super().sample(index, generator)
        (image,), (number,) = sample.images, sample.image_ids
        if number == 1:
            image = Image.open(io.BytesIO(encoded(smooth_picture(60, 60), "PNG")[:400]))
        elif number == 2:
            image = image.resize((101, 100))
        return attrs.evolve(sample, images=(image,))


def test_bad_records_are_named() -> None:
    one = collator(Damaged(PAIRS), both_objectives(), word_pieces())
    for index, text in (
        (4, "^given: 4: image cannot be decoded "),
        (7, "^given: 7: image of 101 x 100 = 10100 pixels; expected at most 10000 "),
        (9, "^given: 9: no such record$"),
    ):
        with pytest.raises(DataError, match=text):
            one[[(0, index)]]


def test_a_text_that_is_too_long_is_a_bad_record() -> None:
    # Splitting it into tokens would take two minutes and 3.5 GB.
    dataset = Given([("a photo", 0), ("a " * 25_000_000, 1)])
    tokenizer, objectives = word_pieces(), both_objectives()
    objectives.pop("itm")
    with pytest.raises(DataError) as error:
        collator(dataset, objectives, tokenizer)[epoch_of(2)]
    assert str(error.value) == (
        "given: 1: a text of 50,000,000 characters; expected at most 1,000 "
        "(data.max_text_characters). Shorten it and prepare the data again, or raise the limit"
    )
    batch = collator(dataset, objectives, tokenizer, skip_bad_samples=True)[epoch_of(2)]
    assert batch.indices.tolist() == [0]
    dataset.second_text = "b" * 1001
    with pytest.raises(DataError, match="given: 0: a text of 1,001 characters"):
        collator(dataset, objectives, tokenizer)[epoch_of(1)]


@pytest.mark.parametrize(
    ("make_tokenizer", "num_special", "num_special_of_two"),
    [(word_pieces, 2, 3), (byte_pairs, 2, 4)],
)
def test_the_special_tokens_leave_room_for_a_text(
    make_tokenizer: MakeTokenizer, num_special: int, num_special_of_two: int
) -> None:
    dataset = Given([("a photo of a dog", 0), ("a photo", 1)])

    def length(max_text_length: int) -> int:
        tokenizer = make_tokenizer()
        objectives = {"itm": make(ITM, tokenizer, negatives="dataset")}
        one = collator(dataset, objectives, tokenizer, max_text_length=max_text_length)
        batch = one[epoch_of(2)]
        assert batch.input_ids is not None
        return batch.input_ids.shape[1]

    assert length(num_special + 1) == num_special + 1
    for second_text, count in ((None, num_special), ("a cat", num_special_of_two)):
        dataset.second_text = second_text
        for too_short in (1, count):
            with pytest.raises(SpecError) as caught:
                length(too_short)
            assert str(caught.value) == (
                f"data.max_text_length: got {too_short}, but {count} of the tokens are special "
                f"ones that the tokenizer adds; use at least {count + 1}"
            )


def test_bad_records_are_left_out_and_reported() -> None:
    tokenizer, objectives = word_pieces(), both_objectives()
    one = collator(Damaged(PAIRS), objectives, tokenizer, skip_bad_samples=True)
    batch = one[[(0, index) for index in (0, 4, 7, 9, 10)]]
    assert batch.indices.tolist() == [0, 10]
    named = {message.split(": ")[1] for message in batch.bad_samples.values()}
    assert {"4", "7", "9"} <= named
    # A false image that cannot be read is replaced by another.
    assert batch.objectives["itm"].num_targets == 2
    assert len(batch.pixel_values) == len(
        {*batch.objectives["itm"].pairs.image_rows.tolist()}
        | {*batch.objectives["mlm"].pairs.image_rows.tolist()}
    )
    with pytest.raises(DataError, match=r"^no sample of a micro-batch of 2 can be read: given: 4"):
        one[[(0, 4), (0, 7)]]


# --- padding ---


@pytest.mark.parametrize(
    ("num_words", "max_text_length", "expected"),
    # Special tokens take two of the length.
    [(3, 40, 8), (6, 40, 8), (7, 40, 16), (20, 40, 24), (20, 20, 20), (20, 10, 10)],
)
def test_texts_are_padded_to_a_multiple_of_8(
    num_words: int, max_text_length: int, expected: int
) -> None:
    tokenizer = word_pieces(whole_words=True)
    pairs = [(text, 0) for text in ["one", *texts(1, num_words)]]
    objectives = {"mlm": make(MLM, tokenizer)}
    batch = collator(Given(pairs), objectives, tokenizer, max_text_length=max_text_length)[
        epoch_of(2)
    ]
    assert batch.input_ids.shape == batch.attention_mask.shape == (2, expected)
    lengths = [3, min(num_words + 2, max_text_length)]
    assert batch.attention_mask.sum(1).tolist() == lengths
    for ids, length in zip(batch.input_ids, lengths, strict=True):
        assert (ids[length:] == tokenizer.pad_token_id).all()
        # Truncation keeps the end mark.
        assert ids[length - 1] == tokenizer.sep_token_id


@pytest.mark.parametrize("text", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_padding_changes_no_loss(tmp_path: Path, text: str) -> None:
    plugins = load_plugins()
    spec = load_spec([str(write_spec(tmp_path, text)), "data.max_text_length=32"], plugins)
    setup = build(spec, 1, load_weights=False)
    task = setup.network.eval()
    # As if trained: at first, attention weighs all tokens nearly alike.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    batch = setup.train[epoch_of(8)]

    def padded(tensor: Tensor, value: int) -> Tensor:
        return F.pad(tensor, (0, 16), value=value)

    more = attrs.evolve(
        map_leaves(Pairs, lambda pairs: attrs.evolve(pairs, text_index=None), batch),
        # Another token than padding: it is the mask that must keep it out.
        input_ids=padded(batch.input_ids, 7),
        attention_mask=padded(batch.attention_mask, False),
        packing=None,
    )
    with torch.no_grad():
        outputs, padded_outputs = task(batch), task(more)
    for name, output in outputs.items():
        assert float(output.loss_sum) == pytest.approx(
            float(padded_outputs[name].loss_sum), abs=1e-5, rel=1e-5
        )
        torch.testing.assert_close(
            output.predictions["logits"],
            padded_outputs[name].predictions["logits"],
            atol=1e-5,
            rtol=1e-5,
        )


# --- the same for any division ---


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_masks_and_negatives_are_the_same_for_any_division(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    objectives = {
        "mlm": make(MLM, tokenizer, whole_word=True),
        "itm": make(ITM, tokenizer, negatives="dataset", replace="either"),
    }
    one = collator(Given(PAIRS), objectives, tokenizer)
    whole = one[epoch_of(24)]
    start = num_targets = 0
    for size in (1, 7, 16):
        part = one[epoch_of(24)[start : start + size]]
        for number in range(size):
            place = start + number
            for name in objectives:
                ours, theirs = part.objectives[name].pairs, whole.objectives[name].pairs
                a = part.input_ids[ours.text_rows[number]]
                b = whole.input_ids[theirs.text_rows[place]]
                kept = [t[t != tokenizer.pad_token_id] for t in (a, b)]
                assert torch.equal(*kept)
                assert torch.equal(
                    part.pixel_values[ours.image_rows[number]],
                    whole.pixel_values[theirs.image_rows[place]],
                )
        labels = part.objectives["mlm"].tensors["labels"]
        expected = whole.objectives["mlm"].tensors["labels"]
        assert torch.equal(labels, expected[num_targets : num_targets + len(labels)])
        num_targets += len(labels)
        assert torch.equal(
            part.objectives["itm"].tensors["labels"],
            whole.objectives["itm"].tensors["labels"][start : start + size],
        )
        start += size
    assert num_targets == whole.objectives["mlm"].num_targets


def test_masks_differ_from_epoch_to_epoch() -> None:
    one = collator(Given(PAIRS), both_objectives(), word_pieces())
    first, second = (one[epoch_of(24, epoch)].objectives["mlm"] for epoch in (0, 1))
    assert first.tensors["positions"].tolist() != second.tensors["positions"].tolist()


# --- words ---


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_words_of_two_texts_are_kept_apart(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    dataset = Given([("elephants and umbrella", 0)], second_text="swimming elephants")
    reader = collator(dataset, {}, tokenizer).reader
    builder, sample = RowBuilder(reader), reader.sample(0, 0)
    words, ids = builder.word_ids(sample), builder.input_ids(sample)
    special = np.isin(ids, tokenizer.all_special_ids)
    assert (words[special] == -1).all()
    assert len(np.unique(words[~special])) == 5
    found = [tokenizer.decode(ids[words == word]).strip() for word in np.unique(words[~special])]
    assert found == ["elephants", "and", "umbrella", "swimming", "elephants"]


# --- tokenizers ---


def test_what_tells_two_texts_apart() -> None:
    assert separator_id(word_pieces()) == word_pieces().sep_token_id
    assert separator_id(byte_pairs()) is None
