"""The run's tokenizer: any fast Hugging Face tokenizer, or the words of a dataset."""

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from renaissance.contracts.dataset import Dataset
from renaissance.errors import SpecError, printed, quoted
from renaissance.files import LFS_POINTER

# `data.tokenizer = "dataset"`: whole words, for a dataset with a fixed vocabulary.
DATASET = "dataset"
TOKENIZER_FILE = "tokenizer.json"
# SentencePiece's mark of a space, which is in some vocabularies that hold no text.
SPACE = "\u2581"
# Some editors write it at the beginning of a file.
BYTE_ORDER_MARK = "\ufeff"


def load_tokenizer(
    source: str, max_text_length: int, datasets: Sequence[Dataset], key: str = "data.tokenizer"
) -> PreTrainedTokenizerFast:
    """Load a tokenizer and set it to truncate at `max_text_length` tokens.

    Args:
        source: Hub id, local folder, or "dataset".
        max_text_length: Maximum length, tokens, special ones included.
        datasets: The run's datasets; for "dataset", the first provides the vocabulary.
        key: The key of the run spec that names it, for messages.

    Raises:
        SpecError: If there is no such tokenizer, it is not fast, it does not pad, it adds no
            special tokens to a text, it has only special tokens, or its file begins with a byte
            order mark.
    """
    tokenizer = _from_vocabulary(datasets) if source == DATASET else _from_pretrained(source, key)
    where = f"{key}: {quoted(source)}"
    if not tokenizer.is_fast:
        raise SpecError(f"{where} has no fast version (tokenizer.json); convert it first")
    if tokenizer.pad_token_id is None:
        raise SpecError(f"{where} has no pad_token_id; use a tokenizer of an encoder model")
    if not tokenizer.num_special_tokens_to_add(pair=False):
        raise SpecError(
            f"{where} adds no token of its own to a text, so an empty text would have none; use a "
            "tokenizer of an encoder model"
        )
    # A dataset without texts, such as one of images alone, needs no words, and neither does a run
    # that has kept its tokenizer.
    is_whole = source == DATASET or os.path.isfile(Path(source) / TOKENIZER_FILE)
    if not is_whole and not _has_ordinary_tokens(tokenizer):
        raise SpecError(
            f"{where} has only special tokens, {', '.join(tokenizer.all_special_tokens[:5])}: "
            "every word would be unknown. Its vocabulary is missing; expected tokenizer.json, or "
            "the vocabulary file of the model. Save the tokenizer there with save_pretrained, or "
            "name another"
        )
    # A vocabulary may leave ids out.
    first = tokenizer.convert_ids_to_tokens(0) or ""
    if first.startswith(BYTE_ORDER_MARK) and first != BYTE_ORDER_MARK:
        raise SpecError(
            f"{where}: its first token is {first!r}: the vocabulary file begins with a byte order "
            "mark, which is taken for a part of the token; save the file as UTF-8 without one"
        )
    # A tokenizer file may enable its own padding and truncation.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(max_text_length)
    return tokenizer


def separator_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the id of the token that separates two texts, as in BERT's tokenizer.

    None for a tokenizer that gives the tokens of both texts the same type, as RoBERTa's does.
    """
    types = tokenizer.backend_tokenizer.encode("a", "a").type_ids
    separator: int | None = tokenizer.sep_token_id
    return separator if len(set(types)) > 1 else None


def starts_with_class(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether texts begin with the class token; XLNet's end with it, and T5 has none."""
    ids = tokenizer.backend_tokenizer.encode("a").ids
    return bool(ids[:1] == [tokenizer.cls_token_id])


def count_ids(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the size of a table with a row for each token id.

    It may be greater than the number of tokens, since some vocabularies leave ids out.
    """
    ids: Collection[int] = tokenizer.get_vocab().values()
    return 1 + max(ids)


def readable(tokenizer: PreTrainedTokenizerFast, input_ids: Tensor | None) -> list[str]:
    """Decode text rows, keeping mask tokens but no other special tokens.

    Args:
        tokenizer: The run's tokenizer.
        input_ids: (texts, tokens), int64; None if there are no texts.
    """
    tokens = (
        tokenizer.pad_token,
        tokenizer.cls_token,
        tokenizer.sep_token,
        tokenizer.eos_token,
    )
    dropped = [token for token in tokens if token is not None]
    texts = []
    for row in [] if input_ids is None else input_ids.tolist():
        text = str(tokenizer.decode(row))
        for token in dropped:
            text = text.replace(token, " ")
        texts.append(" ".join(text.split()))
    return texts


def _has_ordinary_tokens(tokenizer: PreTrainedTokenizerFast) -> bool:
    # Without any file of a vocabulary, transformers returns the family's special tokens.
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    return bool(tokenizer.get_vocab().keys() - special - {*tokenizer.all_special_tokens, SPACE})


def _from_vocabulary(datasets: Sequence[Dataset]) -> PreTrainedTokenizerFast:
    words = datasets[0].vocabulary if datasets else None
    if words is None:
        raise SpecError(
            "data.tokenizer: 'dataset', but the first dataset has no vocabulary; "
            "name a hub id or a local folder"
        )
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the digest of all that determines its token ids, however its files are written."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    # The run sets these by `data.max_text_length`.
    del content["truncation"], content["padding"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _from_pretrained(source: str, key: str) -> PreTrainedTokenizerFast:
    try:
        # Without an explicit False, the library asks on standard input whether to run its code.
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False
        )
        if tokenizer.is_fast:
            # Some damage shows only when it is used.
            tokenizer.backend_tokenizer.encode("a photo", "of it")
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    # Families whose files are missing or damaged raise all kinds of errors. A panic of the library
    # is not even an Exception.
    except BaseException as error:
        kind = "folder" if os.path.isdir(source) else "name"
        is_own = key == "data.tokenizer"
        other = "'dataset'" if is_own else "name the tokenizer in data.tokenizer"
        raise SpecError(
            f"{key}: cannot load a tokenizer from the {kind} {quoted(source)}: "
            f"{_cause(source, error)}; "
            f"give a folder with tokenizer.json or a hub id that can be reached, or {other}"
        ) from error


def _cause(source: str, error: BaseException) -> str:
    folder = Path(source)
    for path in sorted(folder.iterdir()) if os.path.isdir(folder) else ():
        if path.is_file() and _starts(path, LFS_POINTER):
            return (
                f"{path.name} is a git-lfs pointer, not the file itself; run 'git lfs pull' there"
            )
    cause = (printed(error) or type(error).__name__).splitlines()[0]
    if cause.endswith("instantiate the backend tokenizer from one of: "):
        return "it has no files of one"
    # The library falls back on another one, which could not read such a file.
    if "tiktoken" in cause and find_spec("sentencepiece") is None:
        return (
            "its vocabulary needs the library sentencepiece, which is not installed; run "
            "pip install sentencepiece protobuf"
        )
    return cause


def _starts(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start
