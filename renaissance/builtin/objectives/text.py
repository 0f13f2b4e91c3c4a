"""Token ids as a person reads them."""

from torch import Tensor
from transformers import PreTrainedTokenizerFast


def readable(tokenizer: PreTrainedTokenizerFast, input_ids: Tensor) -> str:
    """Return a text row, (tokens,), as text: gaps of masked tokens shown, other specials not."""
    text = str(tokenizer.decode(input_ids.tolist()))
    for token in (tokenizer.pad_token, tokenizer.cls_token, tokenizer.sep_token):
        text = text.replace(str(token), " ")
    return " ".join(text.split())
