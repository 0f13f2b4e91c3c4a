"""The blocks of fusion layers: attention and feed-forward, as in BERT.

Both are post-norm: the layer norm of the sum of input and output (Devlin et al., "BERT", 2019).
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from renaissance.builtin.fusions.dropout import Dropout
from renaissance.builtin.fusions.options import StackOptions

LAYER_NORM_EPS = 1e-12  # BERT's


class Stream(NamedTuple):
    """The tokens of one modality inside a fusion.

    Attributes:
        states: (pairs, tokens, hidden), or if `rows` is given, (rows, tokens, hidden).
        bias: What is added to the scores of queries that attend to them, (pairs, 1, 1, tokens);
            None if all are real.
        rows: Row of each pair, (pairs,), int64, where pairs share rows that no layer changes.
    """

    states: Tensor
    bias: Tensor | None
    rows: Tensor | None = None


class Attention(nn.Module):
    """Multi-head attention with its output projection, dropout, residual and layer norm.

    Query, key and value weights are stacked in one matrix, so that one matrix product computes all
    three if they come from the same states.
    """

    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        hidden_size = options.hidden_size
        self.num_heads = options.num_heads
        self.attention_dropout = options.attention_dropout
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(options.dropout)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, hidden_states: Tensor, context: Stream) -> Tensor:
        """Let states attend to a context, which may be the same states.

        Args:
            hidden_states: (pairs, tokens, hidden).
            context: What they attend to.

        Returns:
            (pairs, tokens, hidden).
        """
        if hidden_states is context.states:
            query, key, value = self.project(hidden_states)
        else:
            query, key, value = self.project_apart(hidden_states, context)
        return self.attend(hidden_states, query, key, value, context.bias)

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of the same states, each (pairs, tokens, hidden)."""
        query, key, value = self.query_key_value(hidden_states).chunk(3, dim=-1)
        return query, key, value

    def project_apart(
        self, hidden_states: Tensor, context: Stream
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query of some states and the key and value of a context."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        hidden_size = hidden_states.shape[-1]
        query = F.linear(hidden_states, weight[:hidden_size], bias[:hidden_size])
        key_value = F.linear(context.states, weight[hidden_size:], bias[hidden_size:])
        if context.rows is not None:
            key_value = key_value.index_select(0, context.rows)
        key, value = key_value.chunk(2, dim=-1)
        return query, key, value

    def attend(
        self,
        hidden_states: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Attend, given the projections.

        Args:
            hidden_states: The attending states, for the residual, (pairs, tokens, hidden).
            query: (pairs, tokens, hidden).
            key: (pairs, context_tokens, hidden).
            value: (pairs, context_tokens, hidden).
            bias: That of the context.

        Returns:
            (pairs, tokens, hidden).
        """
        attended = F.scaled_dot_product_attention(
            self._split_heads(query),
            self._split_heads(key),
            self._split_heads(value),
            attn_mask=bias,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        attended = attended.transpose(1, 2).flatten(2)
        output: Tensor = self.layer_norm(hidden_states + self.dropout(self.output(attended)))
        return output

    def _split_heads(self, states: Tensor) -> Tensor:
        # (pairs, tokens, hidden) -> (pairs, heads, tokens, head_size)
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a GELU in between, dropout, residual and layer norm."""

    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        hidden_size = options.hidden_size
        self.intermediate = nn.Linear(hidden_size, options.intermediate_size)
        self.output = nn.Linear(options.intermediate_size, hidden_size)
        self.dropout = Dropout(options.dropout)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform each token on its own, (pairs, tokens, hidden) in and out."""
        transformed = self.output(F.gelu(self.intermediate(hidden_states)))
        output: Tensor = self.layer_norm(hidden_states + self.dropout(transformed))
        return output
