"""Image-text contrastive learning: find each text's image among all images, and vice versa.

Radford et al., "CLIP", ICML 2021; several positives per sample as in Li et al., "ALBEF", NeurIPS
2021.
"""

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import attrs
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import (
    BatchBuilder,
    Features,
    KeyedSample,
    Modality,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Tokens,
    accuracy,
    initialize_linear,
    option,
    positive,
    summarize,
)

if TYPE_CHECKING:
    from torchmetrics import Metric

ACCURACIES = ("text_to_image_accuracy", "image_to_text_accuracy")
CONTRAST = "contrast"
INITIAL_SCALE, MAX_SCALE = 1 / 0.07, 100.0


class ITC(Objective):
    """Image-text contrastive learning, before fusion.

    In training, each sample is compared with the samples of its micro-batch on all ranks; in
    evaluation, with 1,000 consecutive samples of the split, whatever the micro-batches are.
    """

    requires = frozenset({"text", "image"})
    unimodal = frozenset({"text", "image"})
    compares_with = "all ranks"

    @attrs.frozen
    class Options:
        """Options of `itc`."""

        projection_size: int = option(256, help="Size of the compared vectors.", validator=positive)

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        sizes, size = context.sizes, options.projection_size
        self.text_summary, self.image_summary = context.text_summary, context.image_summary
        self.text_projection = nn.Linear(sizes.text, size, bias=False)
        self.image_projection = nn.Linear(sizes.image, size, bias=False)
        self.apply(initialize_linear)
        # The logarithm is learned, so that the scale stays positive.
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Collect each sample's rows, a key of its image, and its index."""
        rows = {
            "text_rows": [builder.text(sample) for sample in samples],
            "image_rows": [builder.image(sample) for sample in samples],
            "image_keys": [_key(sample.image_ids[0]) for sample in samples],
            "indices": [sample.index for sample in samples],
        }
        return ObjectiveBatch(
            num_targets=len(samples),
            tensors={name: torch.tensor(values) for name, values in rows.items()},
        )

    def embed(self, tokens: Tokens, modality: Modality) -> Tensor:
        """Return each text's or image's unit vector, (rows, projection), float32, detached."""
        # Detached, because a view made while gradients are off still requires a gradient, which
        # module hooks (such as those that count operations) cannot handle.
        vectors = self._text_vectors if modality == "text" else self._image_vectors
        return vectors(Tokens(tokens.hidden_states.detach(), tokens.attention_mask))

    def similarity(self, text: Tokens, image: Tokens) -> Tensor:
        """Return the cosine of every text and every image, (texts, images), float32, detached."""
        texts = self.embed(text, "text")
        with _full_precision(texts):
            return texts @ self.embed(image, "image").transpose(0, 1)

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Compare this rank's texts with all images, and its images with all texts.

        In evaluation, where ranks may have different numbers of micro-batches, this compares only
        those of the micro-batch; `metrics` then has the figures that count.
        """
        tensors = batch.tensors
        # (samples, projection)
        text = self._text_vectors(features.text)[tensors["text_rows"]]
        image = self._image_vectors(features.image)[tensors["image_rows"]]
        keys = tensors["image_keys"]
        all_text, all_image, all_keys = text, image, keys
        if self.training and dist.is_available() and dist.is_initialized():
            all_text, all_image, all_keys = _gather_samples(text, image, keys)
        with torch.no_grad():
            # CLIP's limit. It is applied to the parameter itself: if only the value in use were
            # clamped, a parameter beyond the limit would get no gradient and stay there.
            self.log_scale.clamp_(max=math.log(MAX_SCALE))
        scale = self.log_scale.exp()
        # All samples with the same image count as positives.
        positives = keys[:, None] == all_keys
        with _full_precision(text):
            to_image = scale * text @ all_image.transpose(0, 1)
            to_text = scale * image @ all_text.transpose(0, 1)
        figures = compare(to_image, to_text, positives)
        vectors = {"text": text.detach(), "image": image.detach(), "scale": scale.detach()}
        predictions = {name: figure.detach() for name, figure in figures.items()}
        return ObjectiveOutput(
            figures["loss"].sum(), {**predictions, **({} if self.training else vectors)}
        )

    def metrics(self) -> "dict[str, Metric]":
        """Return the accuracy of the nearest neighbour in both directions; in evaluation, the loss.

        In evaluation all are measured over blocks of the split, so that they do not depend on its
        micro-batches.
        """
        if self.training:
            return {name: accuracy() for name in ACCURACIES}
        from renaissance.builtin.objectives.contrast import Contrast

        return {CONTRAST: Contrast(self.text_projection.out_features)}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch."""
        given = output.predictions
        if CONTRAST in metrics:
            keys, indices = batch.tensors["image_keys"], batch.tensors["indices"]
            metrics[CONTRAST].update(indices, keys, given["text"], given["image"], given["scale"])
            return
        for name in ACCURACIES:
            metrics[name].update(given[name].float())

    def _text_vectors(self, text: Tokens) -> Tensor:
        return _project(self.text_projection, summarize(text, self.text_summary))

    def _image_vectors(self, image: Tokens) -> Tensor:
        return _project(self.image_projection, summarize(image, self.image_summary))


def _project(projection: nn.Linear, summaries: Tensor) -> Tensor:
    """Project the summary of each row to a unit vector, (rows, projection)."""
    with _full_precision(summaries):
        return F.normalize(projection(summaries.float()), dim=-1)


def _full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast, since a scale of 100 magnifies rounding errors."""
    device_type = tensor.device.type
    # The meta device, on which `renaissance check` computes shapes, has no autocast.
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def _key(image_id: Hashable) -> int:
    """Return a 63-bit hash of an image identifier, the same in every process."""
    digest = hashlib.blake2b(repr(image_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def compare(to_image: Tensor, to_text: Tensor, positives: Tensor) -> dict[str, Tensor]:
    """Return each sample's loss, and whether its nearest neighbours are right, (samples,) each.

    Args:
        to_image: Logits of each sample's text with all images, (samples, candidates).
        to_text: Logits of each sample's image with all texts, (samples, candidates).
        positives: Whether a candidate has the sample's image, (samples, candidates), bool.
    """
    return {
        "loss": (_cross_entropy(to_image, positives) + _cross_entropy(to_text, positives)) / 2,
        "text_to_image_accuracy": _is_right(to_image, positives),
        "image_to_text_accuracy": _is_right(to_text, positives),
    }


def _cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Return the cross-entropy with targets spread evenly over the positives, by row."""
    targets = positives / positives.sum(1, keepdim=True)
    return F.cross_entropy(logits, targets, reduction="none")


def _is_right(logits: Tensor, positives: Tensor) -> Tensor:
    """Return whether each row's largest logit is a positive's: (rows,), bool."""
    return positives.gather(1, logits.detach().argmax(1, keepdim=True))[:, 0]


def _gather_samples(text: Tensor, image: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors and keys of all ranks' samples, with gradient to all ranks."""
    # Sizes may differ between ranks, since unreadable records are left out.
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(keys)]))
    counts = [int(size) for size in sizes]
    missing = max(counts) - len(keys)
    # (ranks, longest, 2 * projection): one exchange for texts and images.
    padded = F.pad(torch.cat([text, image], dim=1), (0, 0, 0, missing))
    vectors: Tensor = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    padded_keys = F.pad(keys, (0, missing))
    gathered_keys = [torch.empty_like(padded_keys) for _ in counts]
    dist.all_gather(gathered_keys, padded_keys)
    all_vectors = torch.cat([part[:count] for part, count in zip(vectors, counts, strict=True)])
    all_keys = torch.cat([part[:count] for part, count in zip(gathered_keys, counts, strict=True)])
    all_text, all_image = all_vectors.chunk(2, dim=1)
    return all_text, all_image, all_keys


class _AllGather(torch.autograd.Function):
    """Stack the tensors of all ranks: (...) to (ranks, ...), the same shape on every rank.

    Every rank's loss depends on every rank's tensor, so the backward pass adds up their gradients.
    """

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        """Gather all ranks' tensors."""
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """Add up the gradients of all ranks, and return this rank's part."""
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
