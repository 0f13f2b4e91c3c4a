"""For every promise of a contract: a component that breaks it fails the kit, in the right words."""

import random
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchmetrics import MeanMetric

from renaissance import (
    Dataset,
    Encoder,
    Fusion,
    Head,
    Objective,
    ObjectiveBatch,
    ObjectiveOutput,
    Pairs,
    PanelEntry,
    Pooler,
    Sample,
    Tokens,
    option,
)
from renaissance.testing import (
    ContractError,
    check_dataset,
    check_encoder,
    check_fusion,
    check_head,
    check_objective,
    check_pooler,
)


@attrs.frozen
class NoOptions:
    """Nothing to set."""


# --- sound components, which the broken ones derive from ------------------------------------------


class SoundHead(Head):
    """A linear layer."""

    Options = NoOptions

    def __init__(self, options: Any, input_size: int, output_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, output_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear(hidden_states)


class SoundText(Encoder):
    """Embeds tokens and adds their mean."""

    Options = NoOptions
    modalities = frozenset({"text"})

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.hidden_size = 8
        self.embedding = nn.Embedding(context.vocab_size, 8)
        self.linear = nn.Linear(8, 8)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        states = self.embedding(input_ids)
        weights = attention_mask[:, :, None].float()
        mean = (states * weights).sum(1) / weights.sum(1)
        return Tokens(self.linear(states + mean[:, None]), attention_mask)


class SoundImage(Encoder):
    """Embeds patches."""

    Options = NoOptions
    modalities = frozenset({"image"})

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.hidden_size = 8
        self.patches = nn.Conv2d(3, 8, 16, 16)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        states = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool))


class SoundJoint(SoundText):
    """Embeds both, then one layer and the mean token."""

    modalities = frozenset({"text", "image"})

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        self.patches = nn.Conv2d(3, 8, 16, 16)

    encode_image = SoundImage.encode_image

    def encode_joint(self, tokens: Tokens) -> Tokens:
        weights = tokens.attention_mask[:, :, None].float()
        mean = (tokens.hidden_states * weights).sum(1) / weights.sum(1)
        return Tokens(tokens.hidden_states + mean[:, None], tokens.attention_mask)


class SoundFusion(Fusion):
    """Adds the other modality's mean token."""

    Options = NoOptions

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.hidden_size = 8
        self.linear = nn.Linear(8, 8)

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        return (
            Tokens(text.hidden_states + self.mean(image)[:, None], text.attention_mask),
            Tokens(image.hidden_states + self.mean(text)[:, None], image.attention_mask),
        )

    def mean(self, tokens: Tokens) -> Tensor:
        weights = tokens.attention_mask[:, :, None].float()
        return self.linear((tokens.hidden_states * weights).sum(1) / weights.sum(1))


class SoundPooler(Pooler):
    """The mean text token."""

    Options = NoOptions
    image_read = "none"

    def __init__(self, options: Any, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        assert text is not None
        assert image is None
        weights = text.attention_mask[:, :, None].float()
        return (text.hidden_states * weights).sum(1) / weights.sum(1)


class SoundDataset(Dataset):
    """Noise with a word and a number."""

    Options = NoOptions
    offers = frozenset({"text", "image", "number"})
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "noise")

    def __init__(self, options: Any, context: Any) -> None:
        self.options = options

    def __len__(self) -> int:
        return 4

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        image = Image.new("RGB", (8, 8), (index, 0, 0))
        return Sample("noise", None, (image,), (index,), {"number": index}, f"noise: {index}")


class SoundObjective(Objective):
    """Tells true pairs from false ones."""

    Options = NoOptions
    requires = frozenset({"text", "image"})

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.head = context.make_head(context.sizes.pooled, 2, "linear")

    def collate(self, samples: Any, builder: Any) -> ObjectiveBatch:
        labels = [int(sample.generator("sound").integers(2)) for sample in samples]
        shown = [
            s if label else builder.other_sample(s, "sound/other")
            for s, label in zip(samples, labels, strict=True)
        ]
        return ObjectiveBatch(
            len(samples),
            Pairs(
                torch.tensor([builder.text(sample) for sample in samples]),
                torch.tensor([builder.image(sample) for sample in shown]),
            ),
            {"labels": torch.tensor(labels)},
        )

    def forward(self, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
        logits = self.head(features.fused.pooled)
        loss_sum = F.cross_entropy(logits.float(), batch.tensors["labels"], reduction="sum")
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Any]:
        return {"accuracy": MeanMetric()}

    def update_metrics(self, metrics: Any, batch: Any, output: Any) -> None:
        right = output.predictions["logits"].argmax(-1) == batch.tensors["labels"]
        metrics["accuracy"].update(right.float())

    def panel(self, batch: Any, output: Any, input_ids: Any) -> list[PanelEntry]:
        return [PanelEntry(0, ("a line",))]


CHECKS: dict[type, Callable[..., None]] = {
    Head: check_head,
    Encoder: check_encoder,
    Fusion: check_fusion,
    Pooler: check_pooler,
    Dataset: check_dataset,
    Objective: check_objective,
}


def check(component: type) -> None:
    (examine,) = [check for kind, check in CHECKS.items() if issubclass(component, kind)]
    examine(component)


def breaking(sound: type, **attributes: Any) -> type:
    """Return a class that differs from a sound one in what is given."""
    return type("Broken", (sound,), {"__doc__": "Broken.", **attributes})


@pytest.mark.parametrize(
    "sound",
    [
        SoundHead,
        SoundText,
        SoundImage,
        SoundJoint,
        SoundFusion,
        SoundPooler,
        SoundDataset,
        SoundObjective,
    ],
)
def test_sound_components_pass(sound: type) -> None:
    check(sound)


# --- what breaks them -----------------------------------------------------------------------------


def after_init(change: Callable[[Any], None]) -> Callable[..., None]:
    """Return an __init__ that changes what the sound one of the same class has made."""

    def __init__(self: Any, options: Any, *rest: Any) -> None:  # noqa: N807
        super(type(self), self).__init__(options, *rest)
        change(self)

    return __init__


def forward_of(function: Callable[[Any, Tensor], Any]) -> Callable[..., Any]:
    def forward(self: Any, hidden_states: Tensor) -> Any:
        return function(self, hidden_states)

    return forward


def unused(self: Any) -> None:
    self.unused = nn.Linear(2, 2)


def numpy_weights(self: Any) -> None:
    with torch.no_grad():
        self.linear.weight.copy_(torch.from_numpy(np.random.rand(*self.linear.weight.shape)))


def lost_state(self: Any) -> None:
    self.scale = torch.rand(())


def second_call(self: Any) -> None:
    self.calls = 0


def every_other(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    return self.linear(x) if self.calls % 2 else self.linear(x).detach() + 0 * x.sum()


def counting(self: Any) -> None:
    self.register_buffer("count", torch.zeros(()))


def count(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    return self.linear(x)


class CountingFusion(SoundFusion):
    """Counts its calls."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        self.count += 1
        return super().forward(text, image)


class HalfHead(SoundHead):
    """Adds up where types must be equal."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        zeros = torch.zeros(*hidden_states.shape[:-1], 5)
        rows = torch.arange(len(hidden_states))
        return zeros.index_add_(0, rows, self.linear(hidden_states))


class OverflowHead(SoundHead):
    """Overflows where rounding is coarse."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        logits = self.linear(hidden_states)
        return logits if logits.dtype == torch.float32 else logits * torch.inf


class CoarseHead(SoundHead):
    """A small difference of large numbers."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return (self.linear(hidden_states) + 1000) - 1000


class RankHead(SoundHead):
    """Goes backward another way at each call."""

    calls = 0

    def forward(self, hidden_states: Tensor) -> Tensor:
        RankHead.calls += 1
        logits = self.linear(hidden_states)
        # The same number, another gradient.
        return logits + (logits - logits.detach()) * RankHead.calls


class LazyHead(Head):
    """Makes its weights when it is first used."""

    Options = NoOptions

    def __init__(self, options: Any, input_size: int, output_size: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(output_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear(hidden_states)


HEADS = [
    ({"__doc__": ""}, "declaration: .* Broken has no docstring"),
    ({"Options": attrs.make_class("O", {"size": attrs.field(default=1)}, frozen=True)}, "no help"),
    (
        {"Options": attrs.make_class("O", {"size": option(help="A size.")}, frozen=True)},
        "options: it raised TypeError: .* missing 1 required",
    ),
    ({"__init__": lambda self, options: None}, "__init__.* does not take the arguments"),
    ({"forward": forward_of(lambda s, x: s.linear(x).sum(0))}, "shapes: forward returned .* any"),
    ({"forward": forward_of(lambda s, x: s.linear(x).argmax(-1))}, r"shapes: .* \(2, 3\) int64"),
    ({"forward": forward_of(lambda s, x: s.linear(x - x.mean(-2, keepdim=True)))}, "rows: a vec"),
    ({"forward": forward_of(lambda s, x: x.nothing)}, "shapes: it raised AttributeError"),
    (
        {"__init__": after_init(unused)},
        "gradients: no gradient reaches unused.weight, unused.bias",
    ),
    (
        {"__init__": after_init(numpy_weights)},
        "randomness: made twice .* differs in linear.weight",
    ),
    (
        {"forward": forward_of(lambda s, x: F.dropout(s.linear(x)))},
        "in evaluation mode its result",
    ),
    (
        {"forward": forward_of(lambda s, x: s.linear(x) * (random.random() if s.training else 1))},
        "in training mode its result depends on Python's",
    ),
    (
        {
            "__init__": after_init(lost_state),
            "forward": forward_of(lambda s, x: s.linear(x) * s.scale),
        },
        "checkpoint: saved after a step and loaded into a new one, it gives another result",
    ),
]


@pytest.mark.parametrize(("attributes", "text"), HEADS)
def test_broken_heads(attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(breaking(SoundHead, **attributes))


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (HalfHead, "bf16: it raised RuntimeError"),
        (OverflowHead, "under bf16 autocast its result is not finite"),
        (CoarseHead, "under bf16 autocast its result is off by"),
        (RankHead, "two ranks: under DistributedDataParallel the gradient of linear.weight"),
        (LazyHead, "two ranks: .*uninitialized"),
    ],
)
def test_heads_that_fail_in_precision_or_on_ranks(head: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(head)


def text_of(function: Callable[[Any, Tensor, Tensor], Any]) -> Callable[..., Any]:
    def encode_text(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return function(self, input_ids, attention_mask)

    return encode_text


class Wakeful(SoundText):
    """Wakes up in forward."""

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        self.linear.train()
        return super().encode_text(input_ids, attention_mask)


class Thawing(SoundText):
    """Asks for a gradient in forward."""

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        self.linear.requires_grad_(True)
        return super().encode_text(input_ids, attention_mask)


class WrongCheckpointing(SoundText):
    """Gradient checkpointing that changes the numbers."""

    factor = 1.0

    def enable_gradient_checkpointing(self) -> None:
        self.factor = 2.0

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        tokens = super().encode_text(input_ids, attention_mask)
        return Tokens(self.factor * tokens.hidden_states, attention_mask)


class OtherWithoutWeights(SoundText):
    """Has a layer less when weights are not wanted."""

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        if not context.load_weights:
            self.linear = nn.Identity()


class JointPadding(SoundJoint):
    """Attends to padding in the joint stack."""

    def encode_joint(self, tokens: Tokens) -> Tokens:
        mean = tokens.hidden_states.mean(1, keepdim=True)
        return Tokens(tokens.hidden_states + mean, tokens.attention_mask)


class JointMask(SoundJoint):
    """Changes the mask in the joint stack."""

    def encode_joint(self, tokens: Tokens) -> Tokens:
        return Tokens(super().encode_joint(tokens).hidden_states, ~tokens.attention_mask)


class BatchMeanImage(SoundImage):
    """Takes the mean of the micro-batch off."""

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        return super().encode_image(pixel_values - pixel_values.mean(0))


class NoRealToken(SoundImage):
    """An empty mask."""

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        tokens = super().encode_image(pixel_values)
        return Tokens(tokens.hidden_states, ~tokens.attention_mask)


ENCODERS = [
    (breaking(SoundText, modalities=frozenset({"sound"})), "modalities is .* expected"),
    (breaking(SoundText, __init__=after_init(lambda s: delattr(s, "hidden_size"))), "hidden_size"),
    (breaking(SoundText, encode_text=text_of(lambda s, i, m: s.embedding(i))), "expected Tokens"),
    (
        breaking(
            SoundText, encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i)[:, :, :4], m))
        ),
        r"hidden_states of encode_text are \(3, 9, 4\) float32, expected .*hidden_size = 8",
    ),
    (
        breaking(SoundText, encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i), m.long()))),
        r"attention_mask of encode_text is \(3, 9\) int64, expected \(3, 9\) bool",
    ),
    (
        breaking(SoundText, encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i), ~m))),
        "encode_text changed the mask",
    ),
    (
        breaking(
            SoundText,
            encode_text=text_of(lambda s, i, m: Tokens((e := s.embedding(i)) + e.mean(1, True), m)),
        ),
        "padding: other token ids in the padding change",
    ),
    (
        breaking(
            SoundText,
            encode_text=text_of(lambda s, i, m: Tokens(s.embedding(i) * i.shape[1], m)),
        ),
        "a text of 6 tokens has other states alone than padded",
    ),
    (BatchMeanImage, "padding: an image has other states alone"),
    (NoRealToken, "attention_mask of encode_image has no real token"),
    (JointPadding, "other states in the padding change what encode_joint makes"),
    (JointMask, "encode_joint changed the mask"),
    (Wakeful, "frozen, it puts linear into training mode"),
    (Thawing, "its result still asks for a gradient"),
    (WrongCheckpointing, "gradient checkpointing: with gradient checkpointing results"),
    (OtherWithoutWeights, "with load_weights = False its parameters have other names"),
]


@pytest.mark.parametrize(("encoder", "text"), ENCODERS)
def test_broken_encoders(encoder: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(encoder)


def fusion_of(function: Callable[[Any, Tokens, Tokens], Any]) -> type:
    def forward(self: Any, text: Tokens, image: Tokens) -> Any:
        return function(self, text, image)

    return breaking(SoundFusion, forward=forward)


class WrongReads(SoundFusion):
    """Leaves out too much."""

    def fuse(self, text: Any, image: Any, reads: Any) -> Any:
        results = super().fuse(text, image, reads)
        if reads[0].image != "none":
            return results
        return [(Tokens(-t.hidden_states, t.attention_mask) if t else t, i) for t, i in results]


class EverythingRead(SoundFusion):
    """Returns what nobody reads."""

    def fuse(self, text: Any, image: Any, reads: Any) -> Any:
        return [self(text, image) for _ in reads]


class RandomWhenFrozen(SoundFusion):
    """Draws in evaluation mode."""

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        noise = torch.rand(()) if not self.linear.weight.requires_grad else 0.0
        fused = super().forward(text, image)
        return Tokens(fused[0].hidden_states + noise, fused[0].attention_mask), fused[1]


FUSIONS = [
    (
        breaking(SoundFusion, __init__=after_init(lambda s: setattr(s, "hidden_size", 0))),
        "hidden_s",
    ),
    (fusion_of(lambda s, t, i: [t, i]), "forward returned list, expected"),
    (fusion_of(lambda s, t, i: (i, t)), "hidden_states of|changed the mask of the text"),
    (
        fusion_of(lambda s, t, i: (Tokens(t.hidden_states[..., :3], t.attention_mask), i)),
        r"hidden_states of forward \(text\) are \(3, 9, 3\)",
    ),
    (
        fusion_of(
            lambda s, t, i: (
                Tokens(t.hidden_states + i.hidden_states.mean(1, True), t.attention_mask),
                i,
            )
        ),
        "padding: other states in the padding change the real text tokens",
    ),
    (
        fusion_of(
            lambda s, t, i: (
                t,
                Tokens(i.hidden_states * t.hidden_states.shape[1], i.attention_mask),
            )
        ),
        "a pair's image tokens are others alone than padded",
    ),
    (WrongReads, "reads: fuse with text read as 'all' differs from forward"),
    (EverythingRead, "fuse returned text tokens read as 'none', expected None|fuse with text read"),
    (CountingFusion, "frozen .* a forward changes count"),
    (RandomWhenFrozen, "frozen .* gives another result each time"),
]


@pytest.mark.parametrize(("fusion", "text"), FUSIONS)
def test_broken_fusions(fusion: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(fusion)


def pooler_of(function: Callable[[Any, Tokens], Any]) -> type:
    def forward(self: Any, text: Tokens, image: Any) -> Any:
        return function(self, text)

    return breaking(SoundPooler, forward=forward)


POOLERS = [
    (
        breaking(SoundPooler, __init__=after_init(lambda s: setattr(s, "output_size", None))),
        "output",
    ),
    (breaking(SoundPooler, text_read="last"), "text_read is 'last', expected one of all, first"),
    (breaking(SoundPooler, image_read="all"), "shapes: it raised AssertionError"),
    (pooler_of(lambda s, t: t.hidden_states), r"expected floating-point \(3, 16\)"),
    (pooler_of(lambda s, t: t.hidden_states.mean(1)), "padding: other states in the padding"),
    (
        pooler_of(lambda s, t: t.hidden_states[:, 0] * t.attention_mask.shape[1]),
        "a pair has another vector alone",
    ),
]


@pytest.mark.parametrize(("pooler", "text"), POOLERS)
def test_broken_poolers(pooler: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(pooler)


def dataset_of(**changes: Callable[[int, Any], Any]) -> type:
    """Return a dataset whose samples have other values."""

    def sample(self: Any, index: int, generator: np.random.Generator) -> Sample:
        sound = SoundDataset.sample(self, index, generator)
        return attrs.evolve(sound, **{n: value(index, self) for n, value in changes.items()})

    return breaking(SoundDataset, sample=sample)


def remember(index: int, dataset: Any) -> dict[str, int]:
    dataset.last = getattr(dataset, "last", 0) + index
    return {"number": dataset.last}


DATASETS = [
    (breaking(SoundDataset, offers={"text"}), "offers is .* expected a frozenset"),
    (breaking(SoundDataset, __len__=lambda s: 0), "it is empty"),
    (
        breaking(SoundDataset, sample=lambda s, index, generator: "noise"),
        "returned str, expected a S",
    ),
    (dataset_of(text=lambda i, d: None), r"sample\(0\): text is NoneType, expected str"),
    (dataset_of(text_pair=lambda i, d: "x"), "text_pair is str, expected NoneType"),
    (dataset_of(images=lambda i, d: ()), "images is .* expected a tuple of PIL images"),
    (dataset_of(image_ids=lambda i, d: ()), "image_ids is .* expected one hashable identifier"),
    (dataset_of(labels=lambda i, d: {}), r"labels are \[\], expected .*\['number'\]"),
    (dataset_of(source=lambda i, d: ""), "source is empty"),
    (dataset_of(labels=lambda i, d: {"number": random.random()}), "is not the same twice"),
    (dataset_of(labels=remember), "not on which samples were read before"),
    (dataset_of(image_ids=lambda i, d: (0,)), "the identifier 0 is that of another image"),
    (dataset_of(text=lambda i, d: "noise unknown"), "no word of the vocabulary for unknown"),
]


@pytest.mark.parametrize(("dataset", "text"), DATASETS)
def test_broken_datasets(dataset: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(dataset)


def collating(change: Callable[[ObjectiveBatch, Any], Any]) -> type:
    def collate(self: Any, samples: Any, builder: Any) -> Any:
        return change(SoundObjective.collate(self, samples, builder), samples)

    return breaking(SoundObjective, collate=collate)


def losing(change: Callable[[ObjectiveOutput, Any, Any], Any]) -> type:
    def forward(self: Any, batch: Any, features: Any) -> Any:
        return change(SoundObjective.forward(self, batch, features), batch, features)

    return breaking(SoundObjective, forward=forward)


def pairs_of(**changes: Callable[[Pairs], Any]) -> type:
    return collating(
        lambda batch, _: attrs.evolve(
            batch,
            pairs=attrs.evolve(batch.pairs, **{n: f(batch.pairs) for n, f in changes.items()}),
        )
    )


def evolve_loss(function: Callable[[Tensor], Any]) -> type:
    return losing(lambda output, *_: attrs.evolve(output, loss_sum=function(output.loss_sum)))


def batch_accuracy(self: Any, metrics: Any, batch: Any, output: Any) -> None:
    metrics["accuracy"].update(float(len(batch.tensors["labels"])))


SHARED_METRIC = MeanMetric()
OBJECTIVES = [
    (
        breaking(SoundObjective, requires=frozenset({"answer"})),
        "requires answer, which the kit can",
    ),
    (breaking(SoundObjective, unimodal=frozenset({"sound"})), "unimodal is .* expected some of"),
    (collating(lambda batch, _: {"loss": 1}), "collate returned dict, expected an ObjectiveBatch"),
    (collating(lambda b, _: attrs.evolve(b, num_targets=1.5)), "num_targets is 1.5, expected"),
    (collating(lambda b, _: attrs.evolve(b, tensors={"labels": [1]})), "tensors.'labels'. is list"),
    (
        collating(
            lambda b, _: attrs.evolve(
                b, tensors={"labels": torch.tensor(np.random.randint(2, size=8))}
            )
        ),
        "collate to something else each time",
    ),
    (pairs_of(text_rows=lambda p: p.text_rows.float()), r"pairs.text_rows is \(8,\) float32"),
    (pairs_of(image_rows=lambda p: p.image_rows + 99), "pairs.image_rows names rows that the"),
    (pairs_of(image_rows=lambda p: p.image_rows[:-1]), "8 text rows and 7 image rows"),
    (pairs_of(reads=lambda p: frozenset({"everything"})), "pairs.reads is .* expected some of"),
    (losing(lambda output, *_: output.loss_sum), "forward returned Tensor, expected an Objective"),
    (evolve_loss(lambda loss: loss[None]), r"loss_sum is \(1,\) float32.* expected one finite"),
    (evolve_loss(lambda loss: loss * torch.nan), "nan, expected one finite number"),
    (evolve_loss(lambda loss: loss.detach()), "the loss has no gradient"),
    (
        losing(lambda o, b, f: attrs.evolve(o, predictions={"logits": o.loss_sum.expand(8, 2)})),
        "predictions logits hold the graph",
    ),
    (
        losing(lambda o, b, f: attrs.evolve(o, loss_sum=o.loss_sum / b.num_targets)),
        "batch splits: in evaluation the loss is .* expected the same sum: sum over the targets",
    ),
    (collating(lambda b, s: attrs.evolve(b, num_targets=len(s) ** 2)), r"\[64, 32, 8\] targets"),
    (
        breaking(SoundObjective, metrics=lambda s: {"accuracy": 1.0}),
        "expected a torchmetrics.Metric",
    ),
    (
        breaking(SoundObjective, update_metrics=batch_accuracy),
        "accuracy is 8.0000 over one micro-b",
    ),
    (
        breaking(SoundObjective, metrics=lambda s: {"accuracy": SHARED_METRIC}),
        "returns the same accuracy every time",
    ),
    (
        breaking(SoundObjective, panel=lambda s, b, o, i: ["line"]),
        "panel returned str, expected Pan",
    ),
    (
        breaking(SoundObjective, panel=lambda s, b, o, i: [PanelEntry(99, ("line",))]),
        "expected an image row below 5",
    ),
]


@pytest.mark.parametrize(("objective", "text"), OBJECTIVES)
def test_broken_objectives(objective: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(objective)


class NoGradientToModel(SoundObjective):
    """Learns its head alone."""

    def forward(self, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
        detached = attrs.evolve(
            features, fused=attrs.evolve(features.fused, pooled=features.fused.pooled.detach())
        )
        return super().forward(batch, detached)


class Contrastive(SoundObjective):
    """Compares the pairs of a micro-batch with each other."""

    def forward(self, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
        pooled = self.head(features.fused.pooled)
        return ObjectiveOutput((pooled @ pooled.T).sum(), {"logits": pooled.detach()})


def test_a_loss_that_does_not_reach_the_model() -> None:
    with pytest.raises(ContractError, match="no gradient of the loss reaches the model"):
        check_objective(NoGradientToModel)


def test_an_objective_that_compares_samples_says_so() -> None:
    with pytest.raises(ContractError, match=r"batch splits: .*compares_samples=True"):
        check_objective(Contrastive)
    check_objective(Contrastive, compares_samples=True)


class Labelled(SoundObjective):
    """Needs a label."""

    requires = frozenset({"text", "image", "answer"})

    def collate(self, samples: Any, builder: Any) -> ObjectiveBatch:
        assert [sample.sample.labels["answer"] for sample in samples]
        return super().collate(samples, builder)


def test_samples_with_labels_are_passed_in() -> None:
    images = [Image.new("RGB", (32, 32), (60 * index, 0, 0)) for index in range(4)]
    samples = [
        Sample("a text", None, (image,), (index,), {"answer": 1}, "here")
        for index, image in enumerate(images)
    ]
    check_objective(Labelled, samples=samples)
    with pytest.raises(ContractError, match="got 3 samples, expected at least 4"):
        check_objective(Labelled, samples=samples[:3])


def test_all_breaches_are_reported_at_once() -> None:
    broken = breaking(
        SoundHead,
        __init__=after_init(unused),
        forward=forward_of(lambda s, x: F.dropout(s.linear(x))),
    )
    with pytest.raises(ContractError) as caught:
        check(broken)
    lines = str(caught.value).splitlines()
    assert lines[0] == "head Broken breaks its contract:"
    assert {line.split(":")[0] for line in lines[1:]} >= {"- randomness", "- gradients"}


def test_the_global_random_state_is_left_as_it_was() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = (random.random(), np.random.rand(), torch.rand(()).item())
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    check(SoundHead)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == before
