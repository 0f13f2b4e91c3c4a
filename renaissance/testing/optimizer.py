"""The contract of optimizers."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from renaissance.contracts.optimizer import Optimizer
from renaissance.engine.optimizer_state import load_optimizer, save_optimizer
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.randomness import global_state

LEARNING_RATE = 0.01
NUM_STEPS = 20
KEYS = ("name", "role", "multiplier", "is_embedding")


def check_optimizer(component: type[Optimizer], options: object = None) -> None:
    """Check an optimizer against its contract, on a network of three small layers.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("optimizer", component)
    check.declaration()
    options = check.options(options)
    subject = _Subject(lambda: check.make(options))
    with check.part("making"):
        _check_making(subject)
    check.stop_if_broken()
    with check.part("steps"):
        _check_steps(subject)
    with check.part("learning rate"):
        _check_learning_rate(subject)
    with check.part("weight decay"):
        _check_weight_decay(subject)
    with check.part("checkpoint"):
        _check_checkpoint(subject)
    check.stop_if_broken()


class _Subject:
    def __init__(self, make: Callable[[], Optimizer]) -> None:
        self._make = make

    def make(
        self, weight_decay: float = 0.0, learning_rate: float = LEARNING_RATE
    ) -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
        """Make a small network and its optimizer, as the engine would."""
        with global_state(0):
            network = nn.ModuleDict(
                {
                    "embedding": nn.Embedding(12, 8),
                    "encoder": nn.Linear(8, 8),
                    "head": nn.Linear(8, 3),
                }
            )
        groups = [
            _group(
                "encoder", [network["embedding"].weight, network["encoder"].weight], weight_decay
            ),
            _group("encoder-no-decay", [network["encoder"].bias], 0.0),
            _group("head", [network["head"].weight], weight_decay),
            _group("head-no-decay", [network["head"].bias], 0.0),
        ]
        groups[0]["is_embedding"] = [True, False]
        return network, self._make().make(groups, learning_rate)


def _group(name: str, parameters: list[object], weight_decay: float) -> dict[str, Any]:
    return {
        "params": parameters,
        "name": name,
        "role": name.removesuffix("-no-decay"),
        "multiplier": 1.0,
        "weight_decay": weight_decay,
        "is_embedding": [False] * len(parameters),
    }


def _step(network: nn.ModuleDict, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> float:
    """Take one step towards fixed targets; return the loss before it."""
    inputs = torch.arange(12)
    targets = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    hidden = network["encoder"](network["embedding"](inputs)).tanh()
    loss: Tensor = scale * (network["head"](hidden) - targets).square().mean()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def _check_making(subject: _Subject) -> None:
    network, optimizer = subject.make()
    require(
        isinstance(optimizer, torch.optim.Optimizer),
        f"make returned {type(optimizer).__name__}, expected a torch.optim.Optimizer",
    )
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    given = [id(parameter) for parameter in network.parameters()]
    require(
        sorted(held) == sorted(given),
        f"its groups hold {len(held)} parameters, expected each of the {len(given)} that it is "
        "given once",
    )
    for group in optimizer.param_groups:
        missing = [key for key in (*KEYS, "lr", "weight_decay") if key not in group]
        require(
            not missing,
            f"a group lacks {', '.join(missing)}; keep the keys that groups come with: the engine "
            "sets 'lr' from 'multiplier' before every step and logs it by 'name'",
        )


def _check_steps(subject: _Subject) -> None:
    network, optimizer = subject.make()
    losses = [_step(network, optimizer) for _ in range(NUM_STEPS)]
    require(
        losses[-1] < losses[0],
        f"after {NUM_STEPS} steps on three small layers the loss is {losses[-1]:.4f}, expected "
        f"less than {losses[0]:.4f}, the loss before them; a step must go down the gradient",
    )
    bad = [name for name, value in network.named_parameters() if not value.isfinite().all()]
    require(not bad, f"after {NUM_STEPS} steps {', '.join(bad)} is not finite")


def _check_learning_rate(subject: _Subject) -> None:
    network, optimizer = subject.make(weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if group["role"] == "encoder" else LEARNING_RATE
    before = _copy(network)
    _step(network, optimizer)
    after = _copy(network)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    require(
        moved == [name for name in before if name.startswith("head")],
        f"with 'lr' set to 0 in the groups of the encoder, a step moved "
        f"{', '.join(moved) or 'nothing'}, expected only the parameters of the head; read "
        "group['lr'] at every step",
    )


def _check_weight_decay(subject: _Subject) -> None:
    with_decay, without = subject.make(weight_decay=0.5), subject.make(weight_decay=0.0)
    for network, optimizer in (with_decay, without):
        _step(network, optimizer)
    one, other = _copy(with_decay[0]), _copy(without[0])
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    expected = {name for name in one if name.endswith("weight")}
    require(
        differing == expected,
        f"a weight decay of 0.5 in the groups that decay affected "
        f"{', '.join(sorted(differing)) or 'nothing'}, expected it to affect "
        f"{', '.join(sorted(expected))}; read group['weight_decay']",
    )


def _check_checkpoint(subject: _Subject) -> None:
    network, optimizer = subject.make()
    for _ in range(3):
        _step(network, optimizer)
    restored, resumed = subject.make()
    restored.load_state_dict({name: value.clone() for name, value in network.state_dict().items()})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimizer.safetensors"
        save_optimizer(path, network, optimizer)
        load_optimizer(path, restored, resumed)
    _step(network, optimizer)
    _step(restored, resumed)
    one, other = _copy(network), _copy(restored)
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    require(
        not differing,
        f"after resuming from its saved state, the next step gives another "
        f"{', '.join(differing)}; keep everything that a step depends on in "
        "optimizer.state[parameter], as tensors or numbers",
    )
