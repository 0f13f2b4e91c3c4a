"""From a text to token ids, and to the words that they belong to."""

import re

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

Ids = NDArray[np.int64]
# Index of the text, word of the tokenizer, and position of the first letter in the text.
Token = tuple[int, int, int]

NOT_SPACE = re.compile(r"\S")
SPACE = re.compile(r"\s")
# Letters of scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, and those of
# Chinese and Japanese. Korean has spaces.
UNSPACED = re.compile(
    r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)


def encode(tokenizer: PreTrainedTokenizerFast, text: str, pair: str | None = None) -> Encoding:
    """Tokenize a text, or two.

    A special token that is written in a text ("[SEP]", "<s>") is read as ordinary characters.
    """
    backend = tokenizer.backend_tokenizer
    # A copy of a tokenizer, and one that was called itself, have lost this setting.
    backend.encode_special_tokens = True
    encoding: Encoding = backend.encode(text, pair)
    return encoding


def input_ids(encoding: Encoding, tokenizer: PreTrainedTokenizerFast) -> Ids:
    """Return the token ids, (tokens,), with special tokens only where the tokenizer adds them.

    Where the vocabulary has the characters of a special token as a piece (that of SentencePiece
    may), a text still yields its id. The id of unknown words replaces it.
    """
    ids = np.array(encoding.ids, dtype=np.int64)
    unknown = tokenizer.unk_token_id
    if unknown is not None:
        is_written = np.array(encoding.special_tokens_mask) == 0
        ids[is_written & np.isin(ids, tokenizer.all_special_ids)] = unknown
    return ids


def word_ids(encoding: Encoding, texts: tuple[str | None, str | None]) -> Ids:
    """Return the index of each token's word, -1 for tokens that the tokenizer adds, (tokens,).

    Words are those of the tokenizer. Where it does not split texts at spaces, they are split here;
    in scripts without spaces, each token begins a word.

    Args:
        encoding: Of the texts.
        texts: The text, and the second text if there is one.
    """
    words, word = [], -1
    previous: Token | None = None
    for sequence, of_tokenizer, (start, _) in zip(
        encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True
    ):
        if sequence is None or of_tokenizer is None:
            words.append(-1)
            continue
        text = texts[sequence] or ""
        match = NOT_SPACE.search(text, start)
        begin = len(text) if match is None else match.start()
        token = (sequence, of_tokenizer, begin)
        if previous is None or _begins_word(text, previous, token):
            word += 1
        words.append(word)
        previous = token
    return np.array(words, dtype=np.int64)


def _begins_word(text: str, previous: Token, token: Token) -> bool:
    """Return whether a token begins a word, given the one before it."""
    if token[0] != previous[0]:
        return True
    before, begin = previous[2], token[2]
    # The bytes of one letter belong together, and so do a word and the spaces before it.
    return before < begin and bool(
        token[1] != previous[1]
        or SPACE.search(text, before, begin)
        or UNSPACED.match(text, begin)
        or UNSPACED.match(text, begin - 1)
    )
