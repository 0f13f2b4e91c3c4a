"""The blocks of fusion layers: attention and feed-forward, as in BERT.

Both are post-norm: the layer norm of the sum of input and output (Devlin et al., "BERT", 2019).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import Dropout, take_rows
from renaissance.builtin.fusions.options import StackOptions
from renaissance.builtin.fusions.streams import Stream

LAYER_NORM_EPS = 1e-12  # BERT's


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

    def forward(self, tokens: Stream, context: Stream) -> Tensor:
        """Let tokens attend to a context, which may be the same tokens.

        Args:
            tokens: The attending tokens.
            context: What they attend to.

        Returns:
            The new states of the tokens, in the form of the old ones.
        """
        if tokens.states is context.states:
            query, key, value = self.project(tokens)
        else:
            query, key, value = self.project_apart(tokens, context)
        return self.attend(tokens, query, key, value, context.bias)

    def project(self, tokens: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of the same tokens, each (pairs, tokens, hidden)."""
        projected = tokens.unpack(self.query_key_value(tokens.states))
        query, key, value = projected.chunk(3, dim=-1)
        return query, key, value

    def project_apart(self, tokens: Stream, context: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query of some tokens and the key and value of a context."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        hidden_size = tokens.states.shape[-1]
        query = F.linear(tokens.states, weight[:hidden_size], bias[:hidden_size])
        key_value = F.linear(context.states, weight[hidden_size:], bias[hidden_size:])
        key_value = context.unpack(key_value)
        if context.rows is not None:
            key_value = take_rows(key_value, context.rows)
        key, value = key_value.chunk(2, dim=-1)
        return tokens.unpack(query), key, value

    def attend(
        self, tokens: Stream, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Attend, given the projections.

        Args:
            tokens: The attending tokens, for the residual.
            query: (pairs, tokens, hidden).
            key: (pairs, context_tokens, hidden).
            value: (pairs, context_tokens, hidden).
            bias: That of the context.

        Returns:
            The new states of the tokens, in the form of the old ones.
        """
        attended = F.scaled_dot_product_attention(
            self._split_heads(query),
            self._split_heads(key),
            self._split_heads(value),
            attn_mask=bias,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        attended = tokens.pack(attended.transpose(1, 2).flatten(2))
        output: Tensor = self.layer_norm(tokens.states + self.dropout(self.output(attended)))
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
        """Transform each token on its own, (..., hidden) in and out."""
        transformed = self.output(F.gelu(self.intermediate(hidden_states)))
        output: Tensor = self.layer_norm(hidden_states + self.dropout(transformed))
        return output
