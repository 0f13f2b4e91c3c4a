"""Masking, matching, their losses and figures, against independent calculations."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.collating import (
    HIDDEN,
    Given,
    byte_pairs,
    collator,
    epoch_of,
    make,
    texts,
    word_pieces,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedTokenizerFast

from renaissance import (
    Features,
    Guess,
    ObjectiveBatch,
    ObjectiveOutput,
    Pairs,
    PluginError,
    Tokens,
    keyed_generator,
)
from renaissance.builtin.heads.mlm import MLMHead
from renaissance.builtin.objectives import mlm as mlm_module
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.contracts.features import Fused
from renaissance.data.collate import RowBuilder
from renaissance.engine.bf16_copies import Bf16Copies

MakeTokenizer = Callable[[], PreTrainedTokenizerFast]
TOKENIZERS: dict[str, MakeTokenizer] = {"word pieces": word_pieces, "byte pairs": byte_pairs}
# So many standard deviations are met once in two million.
SIGMAS = 5


def assert_share(found: int, total: int, share: float) -> None:
    """Check a count of independent events against their probability."""
    assert abs(found - share * total) < SIGMAS * math.sqrt(total * share * (1 - share))


def encoded(
    tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, int]]
) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return ids and words of each text."""
    reader = collator(Given(pairs), {}, tokenizer).reader
    builder = RowBuilder(reader)
    samples = [reader.sample(0, index) for index in range(len(pairs))]
    return [(builder.input_ids(sample), builder.word_ids(sample)) for sample in samples]


# --- masked language modelling: masks ---


def test_masked_shares() -> None:
    tokenizer = word_pieces(whole_words=True)
    # Enough words that a random one is rarely the right one; 20 tokens a text.
    tokenizer.add_tokens([f"word{i}" for i in range(1000)])
    objective = make(MLM, tokenizer)
    vocab_size, mask, probability, length = len(tokenizer), tokenizer.mask_token_id, 0.15, 20
    ids = np.array([tokenizer.cls_token_id, *range(20, 20 + length), tokenizer.sep_token_id])
    words = np.array([-1, *range(length), -1])
    num_texts, chosen, fates = 5000, [], []
    for index in range(num_texts):
        masked, targets = objective.mask(ids, words, keyed_generator(0, 0, index, "mlm"))
        chosen.append(len(targets))
        fates += zip(ids[targets], masked[targets], strict=True)
        others = np.setdiff1d(np.arange(len(ids)), targets)
        assert (masked[others] == ids[others]).all()
        assert set(targets) <= set(range(1, length + 1))
    # A text from which none was chosen has one all the same.
    assert min(chosen) == 1
    none = (1 - probability) ** length
    extra = sum(number == 1 for number in chosen) / num_texts
    once = length * probability * (1 - probability) ** (length - 1)
    assert extra == pytest.approx(none + once, abs=0.03)
    mean = length * probability + none
    deviation = math.sqrt(length * probability * (1 - probability) / num_texts)
    assert abs(np.mean(chosen) - mean) < SIGMAS * deviation
    # 80% [MASK], 10% random (now and then the token itself, never a special one), 10% as they are.
    total = len(fates)
    assert_share(sum(new == mask for _, new in fates), total, 0.8)
    assert_share(sum(new == old for old, new in fates), total, 0.1 + 0.1 / vocab_size)
    random = [new for old, new in fates if new not in (old, mask)]
    assert_share(len(random), total, 0.1 * (1 - 1 / vocab_size))
    assert not set(random) & set(tokenizer.all_special_ids)
    assert max(random) > vocab_size * 0.9
    assert min(random) < vocab_size * 0.1


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_whole_words_are_masked_together(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    objective = make(MLM, tokenizer, whole_word=True, probability=0.3)
    words_met, pieces_met, total = 0, 0, 0
    for index, (ids, words) in enumerate(encoded(tokenizer, [(t, 0) for t in texts(300)])):
        _, targets = objective.mask(ids, words, keyed_generator(0, 0, index, "mlm"))
        chosen = set(words[targets])
        assert -1 not in chosen
        # All tokens of the chosen words, and no others.
        assert targets.tolist() == np.flatnonzero(np.isin(words, list(chosen))).tolist()
        words_met += len(chosen)
        pieces_met += len(targets)
        total += words.max() + 1
    assert pieces_met > 1.2 * words_met
    # Texts of six words; one word where none was chosen.
    share = 0.3 + 0.7**6 / 6
    assert words_met / total == pytest.approx(share, abs=SIGMAS * math.sqrt(0.21 / total))


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_single_tokens_are_masked_alone(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    objective = make(MLM, tokenizer, whole_word=False)
    cut = 0
    for index, (ids, words) in enumerate(encoded(tokenizer, [(t, 0) for t in texts(100)])):
        _, targets = objective.mask(ids, words, keyed_generator(0, 0, index, "mlm"))
        assert (words[targets] >= 0).all()
        whole = np.flatnonzero(np.isin(words, words[targets]))
        cut += len(whole) > len(targets)
    assert cut > 20


def test_a_text_without_words_has_no_target() -> None:
    tokenizer = word_pieces()
    objective = make(MLM, tokenizer)
    batch = collator(Given([("", 0), ("a", 1)]), {"mlm": objective}, tokenizer)[epoch_of(2)]
    mlm = batch.objectives["mlm"]
    assert mlm.num_targets == 1
    assert mlm.tensors["pair_indices"].tolist() == [1]
    assert batch.input_ids[0, :2].tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]


def test_labels_are_the_tokens_that_were_there() -> None:
    tokenizer = word_pieces()
    pairs = [(text, 0) for text in texts(20)]
    batch = collator(Given(pairs), {"mlm": make(MLM, tokenizer)}, tokenizer)[epoch_of(20)]
    mlm = batch.objectives["mlm"]
    plain = [ids for ids, _ in encoded(tokenizer, pairs)]
    places = zip(
        *(mlm.tensors[name].tolist() for name in ("pair_indices", "positions", "labels")),
        strict=True,
    )
    for pair, position, label in places:
        assert plain[pair][position] == label


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = word_pieces()
    tokenizer.mask_token = None
    with pytest.raises(PluginError, match=r"objective 'mlm': the tokenizer has no mask token; use"):
        make(MLM, tokenizer)


# --- matching: negatives ---

NUM_SAMPLES, NUM_TEXTS = 400, 5


@attrs.frozen
class Matched:
    """One pair: whose sample it is, whose text and which image it holds."""

    sample: int
    text: int
    image: int
    label: int
    micro_batch: range


def matched(size: int, training: bool = True, **options: str) -> list[Matched]:
    """Collate some epochs of samples, five neighbours an image, and read the pairs off the rows."""
    words = [f"word{index}" for index in range(NUM_SAMPLES)]
    tokenizer = word_pieces()
    first = len(tokenizer)
    tokenizer.add_tokens(words)
    dataset = Given([(word, index // NUM_TEXTS) for index, word in enumerate(words)])
    one = collator(dataset, {"itm": make(ITM, tokenizer, **options)}, tokenizer, training)
    found = []
    for epoch in range(10):
        for start in range(0, NUM_SAMPLES, size):
            micro_batch = range(start, start + size)
            batch = one[[(epoch, index) for index in micro_batch]]
            itm = batch.objectives["itm"]
            texts = batch.input_ids[itm.pairs.text_rows, 1] - first
            images = batch.pixel_values[itm.pairs.image_rows, 0, 0, 0]
            columns = (texts, images, itm.tensors["labels"])
            rows = zip(micro_batch, *(column.tolist() for column in columns), strict=True)
            found += [Matched(*row, micro_batch) for row in rows]
    return found


@pytest.mark.parametrize("replace", ["image", "text", "either"])
@pytest.mark.parametrize("negatives", ["batch", "dataset"])
def test_false_pairs_are_false_and_about_half(negatives: str, replace: str) -> None:
    pairs = matched(size=20, negatives=negatives, replace=replace)
    # A text belongs to one image alone, whichever of its five texts.
    assert all((p.text // NUM_TEXTS == p.image) == bool(p.label) for p in pairs)
    assert_share(sum(p.label for p in pairs), len(pairs), 0.5)
    false = [p for p in pairs if not p.label]
    own_text = sum(p.text == p.sample for p in false)
    own_image = sum(p.image == p.sample // NUM_TEXTS for p in false)
    assert own_text + own_image == len(false)
    if replace == "either":
        assert_share(own_text, len(false), 0.5)
    else:
        assert {"image": own_image, "text": own_text}[replace] == 0
    within = [p.text in p.micro_batch and p.image * NUM_TEXTS in p.micro_batch for p in pairs]
    assert all(within) == (negatives == "batch")
    # Any other may be drawn: nobody's twice as often as would be likely.
    drawn = Counter(p.image if p.text == p.sample else p.text // NUM_TEXTS for p in false)
    mean = len(false) / (NUM_SAMPLES / NUM_TEXTS)
    assert max(drawn.values()) < mean + SIGMAS * math.sqrt(mean)


def test_a_micro_batch_of_one_image_has_true_pairs_only() -> None:
    pairs = matched(size=NUM_TEXTS, negatives="batch")
    assert all(p.label == 1 for p in pairs)


def test_evaluation_does_not_depend_on_micro_batches() -> None:
    by_batch = matched(size=20, training=False, negatives="batch")
    other = matched(size=50, training=False, negatives="dataset")
    assert [attrs.evolve(p, micro_batch=range(0)) for p in by_batch] == [
        attrs.evolve(p, micro_batch=range(0)) for p in other
    ]
    assert any(p.text not in p.micro_batch for p in matched(20, training=False, replace="text"))


# --- losses and figures ---


def test_the_loss_of_matching() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-3.0, 1.0]])
    labels = torch.tensor([0, 1, 0])
    tokenizer = word_pieces(whole_words=True)
    objective = make(ITM, tokenizer, head=nn.Identity())
    rows = torch.arange(3)
    batch = ObjectiveBatch(3, Pairs(rows, rows), {"labels": labels})
    output = objective(batch, Features(fused=Fused(pooled=logits)))
    # -log softmax of the right class, added up.
    by_hand = math.log(1 + math.exp(-3)) + math.log(2) + math.log(1 + math.exp(4))
    assert float(output.loss_sum) == pytest.approx(by_hand, rel=1e-6)
    metrics = objective.metrics()
    objective.update_metrics(metrics, batch, output)
    # Of equal logits the first is taken.
    assert float(metrics["accuracy"].compute()) == pytest.approx(1 / 3)
    entries = objective.panel(batch, output, ["a photo", "two elephants", "one umbrella"])
    assert [entry.image_row for entry in entries] == [0, 1, 2]
    assert [entry.lines for entry in entries] == [
        ("a photo", Guess("match 0.05 (false pair)", is_right=True)),
        ("two elephants", Guess("match 0.50 (true pair)", is_right=False)),
        ("one umbrella", Guess("match 0.98 (false pair)", is_right=False)),
    ]
    assert [entry.group for entry in entries] == ["false", "true", "false"]


class TargetsOfLosses(TorchFunctionMode):
    """Notes how many targets each loss is computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.cross_entropy:
            assert args[0].dtype == torch.float32
            self.counts.append(len(args[0]))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("bf16", [False, True])
def test_a_large_vocabulary_in_parts_gives_the_same_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    tokenizer = word_pieces()
    vocab_size, num_targets = len(tokenizer), 7
    objective = make(MLM, tokenizer, head=MLMHead(MLMHead.Options(), HIDDEN, vocab_size)).train()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 6, HIDDEN, generator=generator).requires_grad_()
    tensors = {
        "pair_indices": torch.randint(2, (num_targets,), generator=generator),
        "positions": torch.randint(6, (num_targets,), generator=generator),
        "labels": torch.randint(vocab_size, (num_targets,), generator=generator),
    }
    rows = torch.arange(2)
    batch = ObjectiveBatch(num_targets, Pairs(rows, rows, outputs=frozenset({"text"})), tensors)

    def run() -> tuple[Tensor, Tensor, dict[str, Tensor], list[int], int]:
        objective.zero_grad()
        states.grad = None
        copies = Bf16Copies([objective] if bf16 else [])
        text = Tokens(states.to(torch.bfloat16) if bf16 else states)
        kept: list[Tensor] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x)
        with TargetsOfLosses() as losses, copies.in_use():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16), hooks:
                output = objective(batch, Features(fused=Fused(text=text)))
            output.loss_sum.backward()
        num_logits = sum(x.numel() for x in kept if x.dim() == 2 and x.shape[1] == vocab_size)
        assert states.grad is not None
        gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        metrics = objective.metrics()
        objective.update_metrics(metrics, batch, output)
        figures = torch.stack([output.loss_sum.detach(), metrics["accuracy"].compute()])
        return figures, states.grad, gradients, losses.counts, num_logits

    whole = run()
    monkeypatch.setattr(mlm_module, "MAX_LOGITS", 3 * vocab_size + 1)
    parts = run()
    assert (whole[3], parts[3]) == ([7], [3, 3, 1])
    # Those of parts are not kept for the backward pass.
    assert whole[4] >= 7 * vocab_size
    assert parts[4] == 0
    tolerance = 2e-2 if bf16 else 1e-6
    for one, other in zip(parts[:3], whole[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_loss_of_masked_language_modelling() -> None:
    tokenizer = word_pieces()
    vocab_size = len(tokenizer)
    decoder = nn.Linear(HIDDEN, vocab_size)
    objective = make(MLM, tokenizer, head=decoder)
    # Two pairs of six tokens, three targets in them.
    states = torch.randn(2, 6, HIDDEN, generator=torch.Generator().manual_seed(0))
    pair_indices, positions = torch.tensor([0, 1, 1]), torch.tensor([2, 1, 4])
    labels = torch.tensor([6, 9, 11])
    tensors = {"pair_indices": pair_indices, "positions": positions, "labels": labels}
    rows = torch.arange(2)
    batch = ObjectiveBatch(3, Pairs(rows, rows, outputs=frozenset({"text"})), tensors)
    text = Tokens(states, torch.ones(2, 6, dtype=torch.bool))
    output = objective(batch, Features(fused=Fused(text=text)))
    # As usually written: logits of every position, and -100 where nothing is to be predicted.
    everywhere = decoder(states)
    wanted = torch.full((2, 6), -100)
    wanted[pair_indices, positions] = labels
    expected = F.cross_entropy(everywhere.flatten(0, 1), wanted.flatten(), reduction="sum")
    torch.testing.assert_close(output.loss_sum, expected)
    metrics = objective.metrics()
    objective.update_metrics(metrics, batch, output)
    right = (everywhere.argmax(-1) == wanted).sum() / 3
    assert float(metrics["accuracy"].compute()) == pytest.approx(float(right))


def test_the_panel_of_masked_language_modelling() -> None:
    tokenizer = word_pieces(whole_words=True)
    objective = make(MLM, tokenizer, head=nn.Identity())
    label, best, second, third = tokenizer.convert_tokens_to_ids(["of", "and", "of", "one"])
    logits = torch.zeros(1, len(tokenizer))
    for score, token in enumerate((third, second, best)):
        logits[0, token] = score + 1
    tensors = {"pair_indices": [0], "positions": [3], "labels": [label]}
    rows = torch.tensor([0])
    batch = ObjectiveBatch(
        1, Pairs(rows, rows), {name: torch.tensor(value) for name, value in tensors.items()}
    )
    output = ObjectiveOutput(torch.zeros(()), {"logits": logits})
    (entry,) = objective.panel(batch, output, ["a photo [MASK] two elephants"])
    total = sum(map(math.exp, (3, 2, 1))) + len(tokenizer) - 3
    three, two, one = (math.exp(score) / total for score in (3, 2, 1))
    assert entry.lines == (
        "a photo [MASK] two elephants",
        Guess(f"of: and {three:.2f}, of {two:.2f}, one {one:.2f}", is_right=False),
    )
