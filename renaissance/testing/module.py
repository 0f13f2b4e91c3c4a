"""What every component that is a module promises: gradients, state, precision, ranks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.inputs import close
from renaissance.testing.randomness import global_state
from renaissance.testing.ranks import on_two_ranks

SEED = 5
# bfloat16 has 8 significant bits; a few layers add up their roundings.
BF16_TOLERANCE = 0.15


@attrs.frozen
class Subject:
    """A component as a module.

    Attributes:
        make: Makes it, with weights drawn from torch's global generator.
        run: Runs it on tiny inputs and returns what a loss would read, padding left out.
    """

    make: Callable[[], nn.Module]
    run: Callable[[nn.Module], Sequence[Tensor]]

    def build(self, seed: int = SEED, numpy_seed: int = 0) -> nn.Module:
        """Make it in evaluation mode."""
        with global_state(numpy_seed, torch_seed=seed):
            return self.make().eval()

    def outputs(self, module: nn.Module, seed: int = 0) -> list[Tensor]:
        """Run it, with the global random state set."""
        with global_state(seed):
            return list(self.run(module))


def check_module(check: ContractCheck, subject: Subject, can_be_frozen: bool) -> None:
    """Examine what all modules promise.

    Args:
        check: Takes what is found.
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


def _check_randomness(subject: Subject) -> None:
    module, again = subject.build(numpy_seed=0), subject.build(numpy_seed=1)
    differing = [
        name
        for name, value in module.state_dict().items()
        if not torch.equal(value, again.state_dict()[name])
    ]
    require(
        not differing,
        f"made twice under one torch seed, it differs in {', '.join(differing)}; draw initial "
        "weights from torch's generator, which the engine seeds, and from no other",
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
    # Running statistics may move from one to the next, but they are not read in training.
    require(
        all(map(close, *results)),
        "in training mode its result depends on Python's or numpy's global generator; draw from "
        "torch's, which the engine seeds at every step",
    )


def backward(outputs: Sequence[Tensor]) -> None:
    """Go backward from a weighted sum: a plain one has no gradient where states are normalized."""
    generator = torch.Generator().manual_seed(4)
    terms = [
        (output.float() * torch.randn(output.shape, generator=generator)).sum()
        for output in outputs
    ]
    torch.autograd.backward(torch.stack(terms).sum())


def gradients_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the gradient of each trainable parameter, by name."""
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


def _check_gradients(subject: Subject) -> None:
    module = subject.build()
    backward(subject.outputs(module))
    without = [name for name, gradient in gradients_of(module).items() if gradient is None]
    require(
        not without,
        f"no gradient reaches {', '.join(without)}; every trainable parameter must count in the "
        "result: leave out those that do not, or call requires_grad_(False) on them",
    )
    infinite = [
        n for n, g in gradients_of(module).items() if g is not None and not g.isfinite().all()
    ]
    require(not infinite, f"the gradient of {', '.join(infinite)} is not finite on plain inputs")


def _check_frozen(subject: Subject) -> None:
    module = subject.build()
    module.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    one = subject.outputs(module, seed=0)
    other = subject.outputs(module, seed=1)
    require(
        not any(output.requires_grad for output in (*one, *other)),
        "frozen (requires_grad_(False)), its result still asks for a gradient; keep every weight "
        "in a parameter of the module, and call requires_grad_ on none in forward",
    )
    require(
        all(map(torch.equal, one, other)),
        "frozen (evaluation mode), it gives another result each time; draw nothing random there",
    )
    changed = [n for n, v in module.state_dict().items() if not torch.equal(v, before[n])]
    require(
        not changed,
        f"frozen (evaluation mode), a forward changes {', '.join(changed)}; move running "
        "statistics in training mode only",
    )
    awake = [name or "itself" for name, part in module.named_modules() if part.training]
    require(not awake, f"frozen, it puts {', '.join(awake)} into training mode; leave modes alone")


def _check_checkpoint(subject: Subject) -> None:
    module = subject.build(seed=SEED).train()
    parameters = [p for p in module.parameters() if p.requires_grad]
    if parameters:
        backward(subject.outputs(module))
        torch.optim.SGD(parameters, lr=0.01).step()
    module.eval()
    restored = subject.build(seed=SEED + 1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        # Copies: the format holds no two names of one tensor.
        save_file({name: value.clone() for name, value in module.state_dict().items()}, path)
        restored.load_state_dict(load_file(path))
    with torch.no_grad():
        same = all(map(close, subject.outputs(module), subject.outputs(restored)))
    require(
        same,
        "saved after a step and loaded into a new one, it gives another result; keep all that the "
        "result depends on in parameters or persistent buffers",
    )


def _check_bf16(subject: Subject) -> None:
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
    """Makes `run` the forward of a module: that is what DistributedDataParallel wraps."""

    def __init__(self, module: nn.Module, subject: Subject) -> None:
        super().__init__()
        self.module = module
        self.subject = subject

    def forward(self) -> list[Tensor]:
        return list(self.subject.run(self.module))


def _check_two_ranks(subject: Subject) -> None:
    alone = subject.build()
    backward(list(subject.run(alone)))
    # Different weights at the start: rank 0's must reach the other.
    modules = [subject.build(), subject.build(seed=SEED + 1)]

    def work(group: object) -> dict[str, Tensor | None]:
        module = modules[group.rank()]  # type: ignore[attr-defined]
        wrapped = DistributedDataParallel(_Runner(module, subject), process_group=group)
        # Twice: what one backward leaves undone only the next forward finds out.
        for _ in range(2):
            wrapped.zero_grad()
            backward(wrapped())
        return gradients_of(module)

    for rank, gradients in enumerate(on_two_ranks(work)):
        for name, expected in gradients_of(alone).items():
            found = gradients.get(name)
            require(
                expected is None or (found is not None and close(found, expected, 1e-3)),
                f"under DistributedDataParallel the gradient of {name} on rank {rank} is not that "
                "of one process; keep weights in parameters made in __init__, use them by name, "
                "and let the result depend on no counter or rank",
            )
