"""Token states, and the vocabulary for how they are used."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

Modality = Literal["text", "image"]
# Which tokens of a row a component reads; "first" stands for the row's summary.
TokenUse = Literal["all", "first", "none"]
# Where a row's summary is: in its first token, in no single one, or in the token that ends a text.
Summary = Literal["first", "mean", "eos"]
# Role of a module; each has a learning rate multiplier.
Role = Literal["encoder", "fusion", "head"]


# Kernels of attention read a bias whose rows begin at multiples of so many elements as it is.
BIAS_ALIGNMENT = 8
_keeps_autocast = ContextVar("keeps_autocast", default=False)


# Not frozen: torch.compile cannot trace how attrs sets the attributes of a frozen class.
@attrs.define(eq=False)
class Tokens:
    """Token states with their mask: `Tokens(hidden_states, attention_mask)`.

    Without a mask, every token is real: attention is then computed without one. Iterating yields
    the states and the mask.

    Attributes:
        hidden_states: (rows, tokens, hidden).
        attention_mask: True where real, (rows, tokens), bool.
    """

    hidden_states: Tensor
    _attention_mask: Tensor | None = None

    @property
    def attention_mask(self) -> Tensor:
        """True where real, (rows, tokens), bool; made anew at each call if there is none."""
        if self._attention_mask is not None:
            return self._attention_mask
        states = self.hidden_states
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)

    @property
    def has_mask(self) -> bool:
        """Whether some tokens may be padding."""
        return self._attention_mask is not None

    def __iter__(self) -> Iterator[Tensor]:
        yield self.hidden_states
        yield self.attention_mask

    def map(self, function: Callable[[Tensor], Tensor]) -> "Tokens":
        """Return tokens with a function of the states, and of the mask if there is one."""
        mask = self._attention_mask
        return Tokens(function(self.hidden_states), None if mask is None else function(mask))

    def take(self, rows: Tensor) -> "Tokens":
        """Return some rows, (rows,) int64, of which some may repeat; see `take_rows`."""
        return self.map(lambda part: take_rows(part, rows))

    def with_states(self, hidden_states: Tensor) -> "Tokens":
        """Return tokens with other states, and the same mask."""
        return Tokens(hidden_states, self._attention_mask)

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to attention scores; see `attention_bias`. None without a mask."""
        mask = self._attention_mask
        return None if mask is None else attention_bias(mask, dtype)


def take_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of a tensor, of which some may repeat.

    The gradients of a row that is taken several times add up in the same order each time. Those of
    `tensor[rows]` do not if a CPU uses several threads, nor those of `index_select` on a GPU: the
    same run would then differ in the last bits.

    Args:
        tensor: (n, ...).
        rows: Indices of rows, (m,), int64.

    Returns:
        (m, ...).
    """
    if not tensor.is_floating_point():
        return tensor[rows]
    # Looking up a table is the one operation that keeps the order on every device.
    return F.embedding(rows, tensor.flatten(1)).view(-1, *tensor.shape[1:])


def attention_bias(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores of attention so that no token attends to padding.

    Args:
        attention_mask: True where real, (rows, tokens), bool.
        dtype: That of queries and keys; see `compute_dtype`.

    Returns:
        0 where real and minus infinity elsewhere, (rows, 1, 1, tokens): the same for all heads and
        queries. Made once per forward pass, it spares each layer the conversion of a mask.
    """
    num_tokens = attention_mask.shape[1]
    # An exported program takes texts of any length, which a multiple would tell apart.
    num_unused = 0 if torch.compiler.is_exporting() else -num_tokens % BIAS_ALIGNMENT
    is_real = F.pad(attention_mask, (0, num_unused))
    bias = torch.zeros(is_real.shape, dtype=dtype, device=is_real.device)
    return bias.masked_fill(~is_real, -torch.inf)[:, None, None, :num_tokens]


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which products with a tensor are computed: autocast's, or its own."""
    device_type = _autocast_device(tensor)
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return tensor.dtype


def _autocast_device(tensor: Tensor) -> str:
    # The meta device has no autocast of its own.
    return "cpu" if tensor.is_meta else tensor.device.type


def own_precision(weight: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast for a module whose parameters are not fp32.

    It then computes in the dtype of its parameters, and so do its layer norms, which autocast
    computes in fp32; see `train.residual`. Inputs must have that dtype too.

    Args:
        weight: One of the module's parameters, other than an embedding table.
    """
    if weight.dtype == torch.float32 or _keeps_autocast.get():
        return nullcontext()
    return torch.autocast(_autocast_device(weight), enabled=False)


@contextmanager
def autocast_kept() -> Iterator[None]:
    """Let `own_precision` change nothing, as where only some parameters of a module are bf16."""
    token = _keeps_autocast.set(True)
    try:
        yield
    finally:
        _keeps_autocast.reset(token)


def summarize(tokens: Tokens, summary: Summary) -> Tensor:
    """Return one vector per row, (rows, hidden).

    Args:
        tokens: The tokens.
        summary: "first": the first token; "mean": the mean of the real ones; "eos": the last real
            one, which ends the text (Radford et al., "CLIP", ICML 2021).
    """
    if summary == "first":
        return tokens.hidden_states[:, 0]
    if summary == "eos":
        return _last_real(tokens)
    if not tokens.has_mask:
        return tokens.hidden_states.mean(1)
    is_real = tokens.attention_mask[:, :, None]
    total = (tokens.hidden_states * is_real).sum(1)
    # bf16 cannot count beyond 256.
    mean: Tensor = total / is_real.sum(1).to(total.dtype)
    return mean


def _last_real(tokens: Tokens) -> Tensor:
    if not tokens.has_mask:
        return tokens.hidden_states[:, -1]
    # The first maximum of the running count of real tokens.
    last = tokens.attention_mask.long().cumsum(1).argmax(1)
    index = last[:, None, None].expand(-1, 1, tokens.hidden_states.shape[2])
    return tokens.hidden_states.gather(1, index).squeeze(1)
