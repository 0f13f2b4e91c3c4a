"""Two passes over the micro-batches of a step are one pass over the whole global batch."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.collating import Given, collator, epoch_of, texts, word_pieces
from torch import nn

from renaissance import Encoder, ObjectiveContext, Tokens
from renaissance.builtin.objectives.itc import ITC
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.bf16_copies import Bf16Copies
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.whole_batch import compare_whole_batch
from renaissance.model.dual_encoder import DualEncoder
from renaissance.testing.tiny_model import TinyText

CPU = torch.device("cpu")
NUM_SAMPLES = 24
NUM_IMAGES = 17


class Patches(Encoder):
    """Embeds patches of 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 12
        self.patches = nn.Conv2d(3, self.hidden_size, 4, 4)

    def encode_image(self, pixel_values: torch.Tensor) -> Tokens:
        states = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return Tokens(states, states.new_ones(states.shape[:2], dtype=torch.bool))


class Noisy(Encoder):
    """An encoder with dropout and a batch norm after it."""

    def __init__(self, encoder: Encoder, dropout: float, normed: bool = False) -> None:
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(encoder.hidden_size) if normed else nn.Identity()
        self.hidden_size = encoder.hidden_size
        self.text_summary = self.image_summary = "mean"

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Tokens:
        states, mask = self.encoder.encode_text(input_ids, attention_mask)
        return Tokens(self.dropout(states), mask)

    def encode_image(self, pixel_values: torch.Tensor) -> Tokens:
        states, mask = self.encoder.encode_image(pixel_values)
        return Tokens(self.norm(states.transpose(1, 2)).transpose(1, 2), mask)


def network_of(dropout: float = 0.0, normed: bool = False, **options: Any) -> MultiObjective:
    torch.manual_seed(0)
    model = DualEncoder(
        Noisy(TinyText(len(word_pieces())), dropout), Noisy(Patches(), dropout, normed)
    )
    context: Any = ObjectiveContext(
        model.sizes,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        text_summary="mean",
        image_summary="mean",
    )
    itc = ITC(ITC.Options(projection_size=4, candidates="global", **options), context)
    return MultiObjective(model, nn.ModuleDict({"itc": itc}), (0.5,) * 3, (0.5,) * 3).train()


def batches_of(network: MultiObjective, size: int) -> list[MicroBatch]:
    tokenizer = word_pieces()
    dataset = Given([(text, n % NUM_IMAGES) for n, text in enumerate(texts(NUM_SAMPLES))])
    collate = collator(dataset, network.named_objectives(), tokenizer)
    keys = epoch_of(NUM_SAMPLES)
    return [collate[keys[start : start + size]] for start in range(0, NUM_SAMPLES, size)]


def learn(network: MultiObjective, size: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of all samples, and the gradients; in micro-batches of a size."""
    batches = batches_of(network, size)
    seeds = list(range(len(batches)))
    total = 0.0
    for batch, seed in zip(
        compare_whole_batch(network, batches, seeds, "fp32", CPU, Bf16Copies([])),
        seeds,
        strict=True,
    ):
        torch.manual_seed(seed)
        loss = network(batch)["itc"].loss_sum
        loss.backward()
        total += float(loss.detach())
    return total, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [8, 1])
def test_loss_and_gradients_are_those_of_the_whole_batch(
    loss: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the objective computes in single precision, for the scale's sake, would hide the rest.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    whole, expected = learn(network_of(loss=loss), NUM_SAMPLES)
    total, actual = learn(network_of(loss=loss), size)
    assert total == pytest.approx(whole, rel=1e-12)
    assert actual.keys() == expected.keys()
    assert {"objectives.itc.log_scale"} < actual.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(actual[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_both_passes_drop_the_same_and_move_the_statistics_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = network_of(dropout=0.5, normed=True)
    once = network_of(dropout=0.5, normed=True)
    seen = []
    compared = ITC.compared

    def note(self: ITC, *arguments: Any) -> dict[str, torch.Tensor]:
        found = compared(self, *arguments)
        seen.append(found["text"].detach())
        return found

    monkeypatch.setattr(ITC, "compared", note)
    learn(network, 8)
    assert len(seen) == 6
    assert all(torch.equal(first, second) for first, second in zip(seen, seen[3:], strict=False))
    assert not torch.equal(seen[0], seen[1])
    for batch in batches_of(once, 8):
        once.encode(batch)
    statistics, expected = (
        n.model.image_encoder.norm.running_mean  # type: ignore[union-attr]
        for n in (network, once)
    )
    torch.testing.assert_close(statistics, expected)


def test_without_parts_there_is_one_pass() -> None:
    network = network_of()
    [batch] = batches_of(network, NUM_SAMPLES)
    [unchanged] = compare_whole_batch(network, [batch], [0], "fp32", CPU, Bf16Copies([]))
    assert unchanged is batch


def test_no_more_is_kept_than_for_one_micro_batch_or_for_the_comparison() -> None:
    network = network_of()
    one = batches_of(network, 4)[0]
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, NUM_SAMPLES, 4, generator=generator, requires_grad=True)
    compared = {
        "text": vectors[0],
        "image": vectors[1],
        "keys": torch.arange(NUM_SAMPLES),
        "scale": torch.ones(NUM_SAMPLES, requires_grad=True),
        "bias": torch.zeros(NUM_SAMPLES, requires_grad=True),
    }
    [itc] = network.named_objectives().values()
    of_one = peak_bytes(lambda: network(one)["itc"].loss_sum.backward())
    of_comparison = peak_bytes(lambda: itc.compare(compared)["loss"].sum().backward())
    of_whole = peak_bytes(lambda: learn(network, NUM_SAMPLES))
    in_parts = peak_bytes(lambda: learn(network, 4))
    assert in_parts <= 1.2 * max(of_one, of_comparison)
    assert of_whole > 3 * in_parts


def peak_bytes(compute: Callable[[], object]) -> int:
    """Return how many bytes are saved for backward at once, at most."""
    held, peak = 0, 0

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal held, peak
            self.tensor = tensor
            held += tensor.nbytes
            peak = max(peak, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        compute()
    return peak
