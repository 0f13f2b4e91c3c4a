"""What every component that is a module promises: gradients, state, precision, ranks."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

import attrs
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from renaissance.contracts.component import Component
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.inputs import close
from renaissance.testing.randomness import global_state
from renaissance.testing.ranks import on_two_ranks

SEED = 5
# bfloat16 has 8 significant bits; a few layers add up their roundings.
BF16_TOLERANCE = 0.15

M = TypeVar("M", bound=nn.Module)


@attrs.frozen
class Subject(Generic[M]):
    """A component as a module.

    Attributes:
        make: Makes it, with parameters drawn from torch's global generator.
        run: Runs it on tiny inputs and returns what a loss would read, without padding.
    """

    make: Callable[[], M]
    run: Callable[[M], Sequence[Tensor]]

    def build(self, seed: int = SEED, numpy_seed: int = 0) -> M:
        """Make it in evaluation mode."""
        with global_state(numpy_seed, torch_seed=seed):
            return self.make().eval()

    def outputs(self, module: M, seed: int = 0) -> list[Tensor]:
        """Run it, with the global random state set."""
        with global_state(seed):
            return list(self.run(module))


def check_module(check: ContractCheck[Component], subject: Subject[M], can_be_frozen: bool) -> None:
    """Check what all modules promise.

    Args:
        check: Collects violations.
        subject: The component.
        can_be_frozen: Whether run specs can freeze components of its kind.
    """
    with check.part("randomness"):
        _check_randomness(subject)
    has_parameters = any(p.requires_grad for p in subject.build().parameters())
    if has_parameters:
        with check.part("gradients"):
            _check_gradients(subject)
    if can_be_frozen:
        with check.part("frozen"):
            _check_frozen(subject)
    with check.part("checkpoint"):
        _check_checkpoint(subject)
    with check.part("bf16"):
        _check_bf16(subject)
    if has_parameters:
        with check.part("two ranks"):
            _check_two_ranks(subject)


def _check_randomness(subject: Subject[M]) -> None:
    module, again = subject.build(numpy_seed=0), subject.build(numpy_seed=1)
    differing = [
        name
        for name, value in module.state_dict().items()
        if not torch.equal(value, again.state_dict()[name])
    ]
    require(
        not differing,
        f"made twice with one torch seed, it differs in {', '.join(differing)}; draw initial "
        "parameters only from torch's generator, which the engine seeds",
    )
    with torch.no_grad():
        one, other = subject.outputs(module, seed=0), subject.outputs(module, seed=1)
        require(
            all(map(torch.equal, one, other)),
            "in evaluation mode its result depends on the global random state; draw nothing "
            "there (`F.dropout` needs `training=self.training`)",
        )
        module.train()
        results = []
        for seed in (0, 1):
            with global_state(seed, torch_seed=SEED):
                results.append(list(subject.run(module)))
    # Running statistics may change from one to the next, but they are not read in training.
    require(
        all(map(close, *results)),
        "in training mode its result depends on Python's or numpy's global generator; draw from "
        "torch's, which the engine seeds at every step",
    )


def backward(outputs: Sequence[Tensor]) -> None:
    """Go backward from a weighted sum: the plain sum of normalized states has no gradient."""
    generator = torch.Generator().manual_seed(4)
    terms = [
        (output.float() * torch.randn(output.shape, generator=generator)).sum()
        for output in outputs
    ]
    torch.autograd.backward(torch.stack(terms).sum())


def gradients_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the gradient of each trainable parameter, by name."""
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


def _check_gradients(subject: Subject[M]) -> None:
    module = subject.build()
    backward(subject.outputs(module))
    without = [name for name, gradient in gradients_of(module).items() if gradient is None]
    require(
        not without,
        f"no gradient reaches {', '.join(without)}; every trainable parameter must affect the "
        "result: remove those that do not, or call requires_grad_(False) on them",
    )
    infinite = [
        n for n, g in gradients_of(module).items() if g is not None and not g.isfinite().all()
    ]
    require(not infinite, f"the gradient of {', '.join(infinite)} is not finite on plain inputs")


def _check_frozen(subject: Subject[M]) -> None:
    module = subject.build()
    module.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    one = subject.outputs(module, seed=0)
    other = subject.outputs(module, seed=1)
    require(
        not any(output.requires_grad for output in (*one, *other)),
        "frozen (requires_grad_(False)), its result still requires a gradient; keep everything "
        "that is trained in parameters of the module, and do not call requires_grad_ in forward",
    )
    require(
        all(map(torch.equal, one, other)),
        "frozen (evaluation mode), its result differs each time; draw nothing random there",
    )
    changed = [n for n, v in module.state_dict().items() if not torch.equal(v, before[n])]
    require(
        not changed,
        f"frozen (evaluation mode), a forward changes {', '.join(changed)}; update running "
        "statistics in training mode only",
    )
    training = [name or "itself" for name, part in module.named_modules() if part.training]
    require(
        not training,
        f"frozen, it puts {', '.join(training)} into training mode; leave the mode alone",
    )


def _check_checkpoint(subject: Subject[M]) -> None:
    module = subject.build(seed=SEED).train()
    parameters = [p for p in module.parameters() if p.requires_grad]
    if parameters:
        backward(subject.outputs(module))
        torch.optim.SGD(parameters, lr=0.01).step()
    module.eval()
    restored = subject.build(seed=SEED + 1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        # Copies, since safetensors rejects two names of one tensor.
        save_file({name: value.clone() for name, value in module.state_dict().items()}, path)
        restored.load_state_dict(load_file(path))
    with torch.no_grad():
        is_same = all(map(close, subject.outputs(module), subject.outputs(restored)))
    require(
        is_same,
        "saved after a step and loaded into a new one, it gives another result; keep everything "
        "that the result depends on in parameters or persistent buffers",
    )


def _check_bf16(subject: Subject[M]) -> None:
    module = subject.build()
    with torch.no_grad():
        exact = subject.outputs(module)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = subject.outputs(module)
    for one, other in zip(exact, rounded, strict=True):
        require(
            bool(other.isfinite().all()),
            "under bf16 autocast its result is not finite; compute sums and powers in float32",
        )
        error = float((one - other.detach().float()).norm() / (one.norm() + 1e-6))
        require(
            error < BF16_TOLERANCE,
            f"under bf16 autocast its result is off by {error:.0%}; compute what is sensitive in "
            "float32 (`.float()`)",
        )
    if any(output.requires_grad for output in rounded):
        backward(rounded)
        wrong = [
            n for n, g in gradients_of(module).items() if g is not None and not g.isfinite().all()
        ]
        require(not wrong, f"under bf16 autocast the gradient of {', '.join(wrong)} is not finite")


class _Runner(nn.Module):
    """A module whose forward is `run`, since DistributedDataParallel only calls forward."""

    def __init__(self, module: nn.Module, run: Callable[[], Sequence[Tensor]]) -> None:
        super().__init__()
        self.module = module
        self.run = run

    def forward(self) -> list[Tensor]:
        return list(self.run())


def _check_two_ranks(subject: Subject[M]) -> None:
    alone = subject.build()
    backward(list(subject.run(alone)))
    # Different parameters at the start: DDP must copy those of rank 0.
    modules = [subject.build(), subject.build(seed=SEED + 1)]

    def work(group: dist.ProcessGroup) -> dict[str, Tensor | None]:
        module = modules[group.rank()]
        runner = _Runner(module, partial(subject.run, module))
        wrapped = DistributedDataParallel(runner, process_group=group)
        # Twice: only the next forward notices what a backward left unfinished.
        for _ in range(2):
            wrapped.zero_grad()
            backward(wrapped())
        return gradients_of(module)

    for rank, gradients in enumerate(on_two_ranks(work)):
        for name, expected in gradients_of(alone).items():
            actual = gradients.get(name)
            require(
                expected is None or (actual is not None and close(actual, expected, 1e-3)),
                f"under DistributedDataParallel the gradient of {name} on rank {rank} differs from "
                "that of a single process; make parameters in __init__, use them by name, and do "
                "not let the result depend on a counter or the rank",
            )
