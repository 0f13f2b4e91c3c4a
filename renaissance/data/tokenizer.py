"""The run's tokenizer: any fast tokenizer of Hugging Face, or the words of a dataset."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from renaissance.contracts.dataset import Dataset
from renaissance.errors import SpecError
from renaissance.spec.sections import RunSpec

# `data.tokenizer = "dataset"`: whole words, of a dataset that states its vocabulary.
DATASET = "dataset"


def tokenizer_source(spec: RunSpec) -> str:
    """Return `data.tokenizer`, or else the checkpoint of the encoder that takes text.

    Raises:
        SpecError: If there is neither.
    """
    if spec.data.tokenizer is not None:
        return spec.data.tokenizer
    encoder = spec.model.text_encoder or spec.model.encoder
    checkpoint = getattr(encoder.options, "checkpoint", None) if encoder else None
    if checkpoint is None:
        raise SpecError(
            "data.tokenizer: absent, and the text encoder has no checkpoint to take it from; "
            "name a tokenizer: a hub id, a local folder, or 'dataset'"
        )
    return str(checkpoint)


def load_tokenizer(
    source: str, max_text_length: int, datasets: Sequence[Dataset]
) -> PreTrainedTokenizerFast:
    """Load a tokenizer and set it to truncate at `max_text_length` tokens.

    Args:
        source: Hub id, local folder, or "dataset".
        max_text_length: Tokens, special ones included.
        datasets: The run's datasets, the first of which gives the vocabulary of "dataset".

    Raises:
        SpecError: If there is none, or it is not a fast one, or it cannot pad.
    """
    tokenizer = _from_vocabulary(datasets) if source == DATASET else _from_pretrained(source)
    where = f"data.tokenizer: {source!r}"
    if not tokenizer.is_fast:
        raise SpecError(f"{where} has no fast version (tokenizer.json); convert it first")
    for token in ("pad_token_id", "cls_token_id", "sep_token_id"):
        if getattr(tokenizer, token) is None:
            raise SpecError(f"{where} has no {token}; use a tokenizer of an encoder model")
    # A tokenizer file may come with padding and truncation of its own.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(max_text_length)
    return tokenizer


def separator_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the token after whose first occurrence a second text begins, as BERT's tokenizer has.

    None for a tokenizer that gives the tokens of both texts the same type, as RoBERTa's does.
    """
    types = tokenizer.backend_tokenizer.encode("a", "a").type_ids
    return int(tokenizer.sep_token_id) if len(set(types)) > 1 else None


def _from_vocabulary(datasets: Sequence[Dataset]) -> PreTrainedTokenizerFast:
    words = datasets[0].vocabulary if datasets else None
    if words is None:
        raise SpecError(
            "data.tokenizer: 'dataset', but the first dataset states no vocabulary; "
            "name a hub id or a local folder"
        )
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


def _from_pretrained(source: str) -> PreTrainedTokenizerFast:
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(source).is_dir() else "name"
        cause = str(error).splitlines()[0]
        raise SpecError(
            f"data.tokenizer: cannot load a tokenizer from the {kind} {source!r}: {cause}; "
            "give a folder with tokenizer.json, a hub id that can be reached, or 'dataset'"
        ) from error
