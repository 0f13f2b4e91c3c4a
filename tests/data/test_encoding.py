"""Texts as token ids and as words, with tokenizers that split words and with ones that do not."""

from collections.abc import Callable

import numpy as np
import pytest
from support.collating import byte_pairs, word_pieces
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from renaissance.data.encoding import encode, input_ids, word_ids

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PIECES = ["▁", "▁a", "▁dog", "s", "▁run", "ning", "▁in", "▁snow", "▁a▁dog", *"acdfnoprstuw猫は黒"]

MakeTokenizer = Callable[[], PreTrainedTokenizerFast]


def pieces() -> Tokenizer:
    """Return a model like SentencePiece's, whose vocabulary holds its special tokens, too."""
    scores = [(token, 0.0) for token in SPECIAL]
    scores += [(piece, -1.0 - 0.1 * (len(piece) == 1)) for piece in PIECES]
    return Tokenizer(models.Unigram(scores, unk_id=3))


def finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def without_splitting() -> PreTrainedTokenizerFast:
    tokenizer = pieces()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return finished(tokenizer)


def metaspace(split: bool) -> PreTrainedTokenizerFast:
    tokenizer = pieces()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    return finished(tokenizer)


def words_of(tokenizer: PreTrainedTokenizerFast, text: str, pair: str | None = None) -> list[str]:
    """Return the characters of each word, without spaces."""
    encoding = encode(tokenizer, text, pair)
    ids = word_ids(encoding, (text, pair))
    assert (ids[np.array(encoding.special_tokens_mask) == 1] == -1).all()
    words: dict[int, str] = {}
    for word, sequence, (start, end) in zip(
        ids.tolist(), encoding.sequence_ids, encoding.offsets, strict=True
    ):
        if word >= 0:
            characters = (pair if sequence else text)[start:end]  # type: ignore[index]
            words[word] = words.get(word, "") + characters.replace(" ", "")
    assert list(words) == list(range(len(words)))
    return list(words.values())


SPLITTERS: dict[str, MakeTokenizer] = {
    "no splitting": without_splitting,
    "metaspace without splitting": lambda: metaspace(split=False),
    "metaspace": lambda: metaspace(split=True),
    "byte pairs": byte_pairs,
}


@pytest.mark.parametrize("make_tokenizer", SPLITTERS.values(), ids=SPLITTERS)
def test_words_end_at_spaces_whatever_the_tokenizer(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    text = "dogs running in  snow"
    assert words_of(tokenizer, text) == ["dogs", "running", "in", "snow"]
    assert words_of(tokenizer, text, "dogs snow") == [*text.split(), "dogs", "snow"]


def test_a_token_of_several_words_is_one() -> None:
    assert words_of(without_splitting(), "a dog running") == ["adog", "running"]


@pytest.mark.parametrize("make_tokenizer", SPLITTERS.values(), ids=SPLITTERS)
def test_in_scripts_without_spaces_each_token_is_a_word(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    encoding = encode(tokenizer, "猫は黒 dogs")
    words = word_ids(encoding, ("猫は黒 dogs", None))
    # The bytes of one character, each a token of its own, stay together.
    by_character = [int(words[encoding.char_to_token(place)]) for place in (0, 1, 2, 4)]
    assert by_character == [0, 1, 2, 3]
    assert words.max() == 3


def test_the_words_of_word_pieces_are_those_of_the_tokenizer() -> None:
    tokenizer = word_pieces()
    text = "two elephants, swimming nearby"
    encoding = encode(tokenizer, text)
    expected = [-1 if word is None else word for word in encoding.word_ids]
    assert word_ids(encoding, (text, None)).tolist() == expected


WRITERS: dict[str, MakeTokenizer] = {"word pieces": word_pieces, **SPLITTERS}


@pytest.mark.parametrize("make_tokenizer", WRITERS.values(), ids=WRITERS)
def test_written_special_tokens_are_ordinary_text(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for token in tokenizer.all_special_tokens:
        text = f"a {token} dog{token}{token}s {token}"
        for pair in (None, text):
            encoding = encode(tokenizer, text, pair)
            ids = input_ids(encoding, tokenizer)
            added = np.array(encoding.special_tokens_mask) == 1
            assert set(ids[added]) == {tokenizer.cls_token_id, tokenizer.sep_token_id}
            assert special.isdisjoint(ids[~added].tolist())
            # Nothing is lost: the characters are encoded, or are an unknown word.
            assert (~added).sum() >= 5 * (1 if pair is None else 2)


def test_a_copy_of_a_tokenizer_reads_them_alike() -> None:
    tokenizer = word_pieces()
    # Calling it resets what was set on its backend.
    encode(tokenizer, "a"), tokenizer("a")
    assert tokenizer.sep_token not in encode(tokenizer, "a [SEP] dog").tokens[:-1]
