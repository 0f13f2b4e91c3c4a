"""bf16 copies of parameters in training."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import renaissance.engine.bf16_copies as bf16_copies_module
from renaissance.engine.bf16_copies import Bf16Copies, bf16_copies
from renaissance.spec.sections import TrainSection

BF16 = torch.bfloat16


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.first = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.second(self.norm(self.first(self.words(ids))))
        return output


class Calls(TorchDispatchMode):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.count = name, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += self.name in str(func)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def module() -> Tied:
    torch.manual_seed(0)
    return Tied()


def test_states_are_bf16_and_gradients_fp32(module: Tied) -> None:
    ids = torch.tensor([[0, 1], [1, 1]])
    copies = Bf16Copies([module])
    with copies.in_use():
        output = module(ids)
        output.float().square().sum().backward()
    assert output.dtype == BF16
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert {g.dtype for g in gradients.values() if g is not None} == {torch.float32}
    # The same in fp32, from a module whose parameters are rounded to bf16.
    exact = Tied()
    with torch.no_grad():
        for ours, theirs in zip(exact.parameters(), module.parameters(), strict=True):
            ours.copy_(theirs.to(BF16))
    exact(ids).square().sum().backward()
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0.05, atol=0.05)


def test_parameters_are_back_afterwards_even_after_an_error(module: Tied) -> None:
    before = dict(module.named_parameters())
    with pytest.raises(RuntimeError), Bf16Copies([module]).in_use():
        _fail(module)
    after = dict(module.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert module(torch.tensor([0])).dtype == torch.float32


def _fail(module: Tied) -> None:
    assert module.first.weight is module.second.weight
    assert {p.dtype for p in (module.first.weight, module.norm.bias)} == {BF16}
    # Its gradients add up over all places where a word stands.
    assert module.words.weight.dtype == torch.float32
    module.first(torch.zeros(3))  # Of another width.


def test_one_call_copies_what_is_trained_and_frozen_copies_stay(module: Tied) -> None:
    module.norm.requires_grad_(False)
    copies = Bf16Copies([module])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    with Calls("_foreach_copy_") as calls:
        copies.refresh()
    assert calls.count == 1
    with copies.in_use():
        assert torch.equal(module.norm.weight.float(), torch.ones(4))
    with torch.no_grad():
        module.norm.weight.sub_(1)
    with copies.in_use():
        for name in ("weight", "bias"):
            assert getattr(module.first, name).requires_grad
        first = module.first.weight.detach().clone()
    assert torch.equal(first, module.first.weight.detach().to(BF16))


def test_gradients_of_micro_batches_add_up_in_fp32(module: Tied) -> None:
    copies = Bf16Copies([module])
    parts = [torch.tensor([0, 1]), torch.tensor([2, 3])]

    def gradient(batches: list[Tensor]) -> Tensor:
        module.zero_grad()
        for batch in batches:
            with copies.in_use():
                module(batch).float().square().sum().backward()
        assert module.first.weight.grad is not None
        return module.first.weight.grad.clone()

    expected = gradient(parts[:1]) + gradient(parts[1:])
    assert torch.equal(gradient(parts), expected)


@pytest.mark.parametrize("largest", [0, 1024])
def test_gradients_of_frequent_words_are_exact(
    monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(bf16_copies_module, "MAX_TABLE_ROWS", largest)
    words = nn.Embedding(2, 1)
    with Bf16Copies([words]).in_use():
        words(torch.zeros(4096, dtype=torch.int64)).mul(0.01).sum().backward()
    assert words.weight.grad is not None
    # In bf16 the sum would stop at 2 or 4: adding 0.01 to it changes nothing.
    assert float(words.weight.grad[0]) == pytest.approx(4096 * 0.01, rel=0.01)


class Counted(nn.Module):
    """A small table that also projects to its rows, and a large one."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Embedding(8, 4, padding_idx=0)
        self.large = nn.Embedding(2000, 4)
        self.decoder = nn.Linear(4, 8, bias=False)
        self.decoder.weight = self.small.weight

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.decoder(self.small(ids) + self.large(ids))
        return output


def test_small_tables_are_read_in_bf16_and_tied_ones_learn_from_both_uses() -> None:
    torch.manual_seed(0)
    module = Counted()
    ids = torch.tensor([0, 3, 3, 7])
    with Bf16Copies([module]).in_use(), Calls("_to_copy") as casts:
        assert module.small(ids).dtype == BF16
        assert casts.count == 0
        assert module.large(ids).dtype == BF16
        assert casts.count == 1
        module(ids).float().square().sum().backward()
    assert "forward" not in vars(module.small)
    assert module.small(ids).dtype == torch.float32
    assert module.small.weight.grad is not None
    ours, module.small.weight.grad = module.small.weight.grad, None
    module(ids).square().sum().backward()
    torch.testing.assert_close(ours, module.small.weight.grad, rtol=0.05, atol=0.05)


def test_unused_parameters_get_no_gradient(module: Tied) -> None:
    with Bf16Copies([module]).in_use():
        module.first(torch.zeros(1, 4, dtype=BF16)).sum().backward()
    assert module.norm.weight.grad is None
    assert module.first.weight.grad is not None


def test_only_bf16_runs_with_bf16_residual_have_copies(module: Tied) -> None:
    network: Any = module
    for settings in ({"precision": "bf16", "residual": "fp32"}, {"precision": "fp32"}):
        section = attrs.evolve(TrainSection(), **settings)
        with bf16_copies(network, section).in_use():
            assert module.first.weight.dtype == torch.float32
