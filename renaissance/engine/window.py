"""The figures of a log window that a stop cut short, saved so that a resumed run logs the same."""

import base64
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from renaissance.engine.distributed import Ranks
from renaissance.engine.manifest import WINDOW
from renaissance.engine.metrics import MetricBook
from renaissance.engine.tensors import read_tensors


def gather_window(book: MetricBook, ranks: Ranks) -> dict[str, Tensor]:
    """Return the figures so far of all ranks, by "<rank>/<name>"; every rank must call it."""
    texts = ranks.gather_text(_as_text(book.state()))
    # Not added up: sums of sums would round differently.
    return {
        f"{rank}/{name}": tensor
        for rank, text in enumerate(texts)
        for name, tensor in _unpacked(text).items()
    }


def restore_window(checkpoint: Path, book: MetricBook, ranks: Ranks) -> None:
    """Continue the window of a checkpoint, if it has one and was saved by as many ranks.

    Every rank must call it; rank 0 reads the checkpoint.
    """
    path = checkpoint / WINDOW
    sent = ranks.from_main(lambda: _as_text(read_tensors(path)) if path.exists() else "")
    tensors = _unpacked(sent) if sent else {}
    if len({name.partition("/")[0] for name in tensors}) == ranks.world_size:
        mine = f"{ranks.rank}/"
        book.restore({n.removeprefix(mine): t for n, t in tensors.items() if n.startswith(mine)})


def _as_text(tensors: dict[str, Tensor]) -> str:
    return base64.b64encode(save(tensors)).decode()


def _unpacked(text: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load(base64.b64decode(text))
    return tensors
