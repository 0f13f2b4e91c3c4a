"""bf16 copies of parameters, in place of the parameters while a step computes.

Autocast copies each parameter on its own at every forward pass, and its layer norms return fp32:
the states between layers are fp32 and are copied before each product. Here, all copies are made by
one call per step, and components that follow their parameters' dtype keep bf16 states. Parameters,
gradients and optimizer stay fp32 (Micikevicius et al., "Mixed Precision Training", ICLR 2018).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.contracts.head import Head
from renaissance.contracts.pooler import Pooler
from renaissance.engine.multi_objective import MultiObjective
from renaissance.spec.sections import TrainSection

# Parameters whose gradients become fp32 in one call: about those of one layer. The gradients of a
# group are handed on, and exchanged between ranks, once all of them are there.
GROUP_SIZE = 16
# Larger tables are not copied: of those of words, a step reads less than copying them would.
MAX_TABLE_ROWS = 1024


class Bf16Copies:
    """Copies of the parameters of some modules.

    The output of embeddings is bf16. Small tables, such as those of positions, are copied; large
    ones are read in fp32. The gradients of both add up in fp32: bf16 is too coarse for a row that
    is read often.

    Args:
        modules: What to copy the parameters of, on their device; with none, nothing is done.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
        embeddings = [part for part in parts if isinstance(part, nn.Embedding)]
        self._tables = [(e, p) for e in embeddings if _is_small(e) for p in e.parameters()]
        self._embeddings = [part for part in embeddings if not _is_small(part)]
        # Every name under which a parameter is used; tied parameters have several.
        self._slots = [
            (part, name, parameter)
            for part in parts
            if not isinstance(part, nn.Embedding)
            for name, parameter in part._parameters.items()
            if parameter is not None and parameter.dtype == torch.float32
        ]
        copied = [p for _, _, p in self._slots] + [p for _, p in self._tables]
        copies = {p: torch.empty_like(p, dtype=torch.bfloat16) for p in copied}
        self._copies = {p: copy.requires_grad_(False) for p, copy in copies.items()}
        self._copy(list(self._copies))
        self._trained = [p for p in self._copies if p.requires_grad]
        # Looking up a table connects its rows by itself; a tied layer is connected like others.
        in_slots = {p for _, _, p in self._slots}
        self._connected = [p for p in self._trained if p in in_slots]

    def refresh(self) -> None:
        """Copy the trained parameters anew; call it before each step."""
        self._copy(self._trained)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put the copies in place of the parameters, for a forward and a backward pass.

        Backward must be inside too, since gradient checkpointing computes again there. Gradients
        are those of the parameters, in fp32.
        """
        copies = dict(self._copies)
        for start in range(0, len(self._connected), GROUP_SIZE):
            group = self._connected[start : start + GROUP_SIZE]
            connected = _Connect.apply([self._copies[p] for p in group], *group)  # type: ignore[no-untyped-call]
            copies.update(zip(group, connected, strict=True))
        hooks = [part.register_forward_hook(_to_bf16) for part in self._embeddings]
        for table, parameter in self._tables:
            table.forward = partial(_look_up, table, self._copies[parameter])  # type: ignore[method-assign]
        # Not setattr, which takes only parameters.
        for part, name, parameter in self._slots:
            part._parameters[name] = copies[parameter]  # type: ignore[assignment]
        try:
            yield
        finally:
            for part, name, parameter in self._slots:
                part._parameters[name] = parameter
            for hook in hooks:
                hook.remove()
            for table, _ in self._tables:
                # The class's own is seen again.
                del table.forward

    def _copy(self, parameters: Sequence[nn.Parameter]) -> None:
        if parameters:
            with torch.no_grad():
                torch._foreach_copy_([self._copies[p] for p in parameters], list(parameters))


def bf16_copies(network: MultiObjective, section: TrainSection) -> Bf16Copies:
    """Return the copies that `train.precision` and `train.residual` ask for.

    A sharded network needs none: it is gathered in bf16.
    """
    is_bf16 = section.precision == "bf16" and section.residual == "bf16"
    has_copies = is_bf16 and not network.is_sharded
    return Bf16Copies(following_modules(network) if has_copies else [])


def following_modules(network: MultiObjective) -> list[nn.Module]:
    """Return the modules of a network that compute in their parameters' dtype."""
    kinds = (Encoder, Fusion, Pooler, Head)
    components = [module for module in network.modules() if isinstance(module, kinds)]
    others = [part for part in network.model.parts().values() if not isinstance(part, kinds)]
    # The states that a cache keeps are those of autocast, which evaluation computes too.
    cached = network.model.parts()["image_encoder"] if network.state_caches else None
    follow = [part for part in components if part.follows_dtype and part is not cached]
    return [*follow, *others]


class _Connect(torch.autograd.Function):
    """Return bf16 copies as functions of their parameters."""

    @staticmethod
    def forward(ctx: Any, copies: list[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        """Return the copies, which share memory with those given."""
        ctx.set_materialize_grads(False)
        return tuple(copy.view_as(copy) for copy in copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients in fp32; None for those that are not used."""
        given = [gradient for gradient in gradients if gradient is not None]
        full = [torch.empty_like(gradient, dtype=torch.float32) for gradient in given]
        torch._foreach_copy_(full, given)
        remaining = iter(full)
        return None, *(None if g is None else next(remaining) for g in gradients)


class _Rows(torch.autograd.Function):
    """Rows of a table's bf16 copy; the gradient is that of the table, in fp32."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, copy: Tensor, ids: Tensor, padding: int) -> Tensor:
        """Return the rows, (..., hidden)."""
        ctx.save_for_backward(ids)
        ctx.num_rows, ctx.padding = table.shape[0], padding
        return F.embedding(ids, copy)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Add up the gradients of each row in fp32."""
        (ids,) = ctx.saved_tensors
        return (
            torch.ops.aten.embedding_dense_backward(
                gradient.float(), ids, ctx.num_rows, ctx.padding, False
            ),
            None,
            None,
            None,
        )


def _look_up(table: nn.Embedding, copy: Tensor, ids: Tensor) -> Tensor:
    padding = -1 if table.padding_idx is None else table.padding_idx
    rows: Tensor = _Rows.apply(table.weight, copy, ids, padding)  # type: ignore[no-untyped-call]
    return rows


def _is_small(part: nn.Module) -> bool:
    """Return whether a module is a small table of a plain sort."""
    return (
        type(part) is nn.Embedding
        and part.num_embeddings <= MAX_TABLE_ROWS
        and part.weight.dtype == torch.float32
        and part.max_norm is None
        and not part.scale_grad_by_freq
        and not part.sparse
    )


def _to_bf16(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
    return output.to(torch.bfloat16)
