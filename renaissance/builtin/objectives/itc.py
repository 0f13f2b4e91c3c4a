"""Image-text contrastive learning: find each text's image among all images, and vice versa."""

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

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
    PretrainedContrast,
    SpecError,
    SplitEvaluator,
    Tokens,
    accuracy,
    initialize_linear,
    option,
    positive,
    summarize,
    take_rows,
)
from renaissance.builtin.objectives.all_ranks import gather_samples
from renaissance.builtin.objectives.contrastive_loss import (
    LOSSES,
    ContrastiveLoss,
    LossName,
    losses_and_accuracies,
)
from renaissance.builtin.objectives.recall import cosines_of, recall

if TYPE_CHECKING:
    from torchmetrics import Metric

ACCURACIES = ("text_to_image_accuracy", "image_to_text_accuracy")
CONTRAST = "contrast"
DEFAULT_SIZE = 256


class ITC(Objective):
    """Image-text contrastive learning, before fusion.

    In training, each sample is compared with the samples of its micro-batch on all ranks, or with
    the whole global batch; in evaluation, with 1,000 consecutive samples of the split, whatever
    the micro-batches are.
    """

    requires = frozenset({"text", "image"})
    unimodal = frozenset({"text", "image"})

    @attrs.frozen
    class Options:
        """Options of `itc`."""

        projection_size: int | None = option(
            None,
            help=f"Size of the compared vectors; by default that of the pretrained model that the "
            f"encoders come from, such as CLIP, or else {DEFAULT_SIZE}.",
            validator=positive,
        )
        loss: LossName = option(
            "softmax",
            help="softmax: choose the right image among the candidates, and the right text, as "
            "CLIP does. sigmoid: say of each candidate whether it is right, as SigLIP does.",
        )
        candidates: Literal["micro", "global"] = option(
            "micro",
            help="What a sample is compared with in training. micro: the samples of its "
            "micro-batch, on all ranks. global: those of the whole global batch, however it is "
            "divided; with several micro-batches this takes a second pass through the encoders.",
        )
        recall_in_training: bool = option(
            False,
            help="Measure recall by similarity at each evaluation during training, too; "
            "`renaissance evaluate` always does.",
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        sizes, size = context.sizes, options.projection_size or _pretrained_size(context)
        self.text_summary, self.image_summary = context.text_summary, context.image_summary
        self.text_projection = nn.Linear(sizes.text, size, bias=False)
        self.image_projection = nn.Linear(sizes.image, size, bias=False)
        self.apply(initialize_linear)
        self.text_norm: nn.Module = nn.Identity()
        self.image_norm: nn.Module = nn.Identity()
        self._take(_comparison(context, size))
        self.recall_in_training = options.recall_in_training
        self.compares_with = "global batch" if options.candidates == "global" else "all ranks"
        self.loss = options.loss
        start = _start(options.loss, context)
        # The logarithm is learned, so that the scale stays positive.
        self.log_scale = nn.Parameter(torch.tensor(math.log(start.scale)))
        self.bias = None if start.bias is None else nn.Parameter(torch.tensor(start.bias))

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
        return vectors(tokens.with_states(tokens.hidden_states.detach()))

    def embedding_layer(self, modality: Modality) -> nn.Linear:
        """Return the projection of texts or images."""
        return self.text_projection if modality == "text" else self.image_projection

    def embedding_norm(self, modality: Modality) -> nn.LayerNorm | None:
        """Return the pretrained norm before the projection of texts or images, if there is one."""
        norm = self.text_norm if modality == "text" else self.image_norm
        return norm if isinstance(norm, nn.LayerNorm) else None

    def similarity(self, text: Tokens, image: Tokens) -> Tensor:
        """Return the cosine of every text and every image, (texts, images), float32, detached."""
        texts = self.embed(text, "text")
        with _full_precision(texts):
            return texts @ self.embed(image, "image").transpose(0, 1)

    def compared(self, batch: ObjectiveBatch, features: Features) -> dict[str, Tensor]:
        """Return the vectors and image keys of the samples, and the scale and bias for each."""
        rows = batch.tensors
        with torch.no_grad():
            # CLIP's limit. It is applied to the parameter itself: if only the value in use were
            # clamped, a parameter beyond the limit would get no gradient and stay there.
            self.log_scale.clamp_(max=math.log(LOSSES[self.loss].max_scale))
        scale = self.log_scale.exp()
        bias = torch.zeros_like(scale) if self.bias is None else self.bias
        num_samples = len(rows["image_keys"])
        return {
            # (samples, projection)
            "text": take_rows(self._text_vectors(features.text), rows["text_rows"]),
            "image": take_rows(self._image_vectors(features.image), rows["image_rows"]),
            "keys": rows["image_keys"],
            "scale": scale.expand(num_samples),
            "bias": bias.expand(num_samples),
        }

    def compare(self, compared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compare this rank's texts with all images, and its images with all texts.

        In evaluation ranks may have different numbers of micro-batches, so each is alone.
        """
        text, image, keys = compared["text"], compared["image"], compared["keys"]
        all_text, all_image, all_keys = text, image, keys
        if self.training and dist.is_available() and dist.is_initialized():
            all_text, all_image, all_keys = gather_samples(text, image, keys)
        # All samples with the same image count as positives.
        positives = keys[:, None] == all_keys
        scale, bias = compared["scale"][:, None], compared["bias"][:, None]
        with _full_precision(text):
            to_image = scale * text @ all_image.transpose(0, 1) + bias
            to_text = scale * image @ all_text.transpose(0, 1) + bias
        return losses_and_accuracies(to_image, to_text, positives, self.loss)

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Compare the samples, unless they were compared with the whole batch already.

        In evaluation, this compares only those of the micro-batch; `metrics` has the figures that
        count.
        """
        compared = self.compared(batch, features)
        if batch.whole is not None:
            return ObjectiveOutput(batch.whole.loss_sum(compared), batch.whole.figures)
        figures = self.compare(compared)
        predictions = figures if self.training else {**figures, **compared}
        return ObjectiveOutput(
            figures["loss"].sum(), {name: value.detach() for name, value in predictions.items()}
        )

    def metrics(self) -> "dict[str, Metric]":
        """Return the accuracy of the nearest neighbour in both directions; in evaluation, the loss.

        In evaluation all are measured over blocks of the split, so that they do not depend on its
        micro-batches.
        """
        if self.training:
            return {name: accuracy() for name in ACCURACIES}
        from renaissance.builtin.objectives.contrast import Contrast

        return {CONTRAST: Contrast(self.text_projection.out_features, self.loss)}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch."""
        given = output.predictions
        if CONTRAST in metrics:
            vectors = [given[name] for name in ("keys", "text", "image", "scale", "bias")]
            metrics[CONTRAST].update(batch.tensors["indices"], *vectors)
            return
        for name in ACCURACIES:
            metrics[name].update(given[name].float())

    def evaluate_split(self, split: SplitEvaluator) -> dict[str, float]:
        """Return recall at 1, 5 and 10 and the median rank in both directions, by similarity.

        As in `retrieval`, the candidates are the texts of all samples and their distinct images.
        """
        if not len(split) or not (split.is_final or self.recall_in_training):
            return {}
        return recall(cosines_of(split, self.embed, self.text_projection.out_features), split)

    def _text_vectors(self, text: Tokens) -> Tensor:
        summaries = summarize(text, self.text_summary)
        return _project(self.text_norm, self.text_projection, summaries)

    def _image_vectors(self, image: Tokens) -> Tensor:
        summaries = summarize(image, self.image_summary)
        return _project(self.image_norm, self.image_projection, summaries)

    def _take(self, comparison: Mapping[Modality, PretrainedContrast]) -> None:
        """Project as the pretrained model does, with its weights if those of both were read."""
        for modality, contrast in comparison.items():
            layer = self.embedding_layer(modality)
            if contrast.has_projection_bias:
                layer = nn.Linear(layer.in_features, layer.out_features)
                initialize_linear(layer)
                self.add_module(f"{modality}_projection", layer)
            if contrast.norm_eps is not None:
                norm = nn.LayerNorm(layer.in_features, eps=contrast.norm_eps)
                self.add_module(f"{modality}_norm", norm)
        weights = {
            f"{modality}_{name}": tensor
            for modality, contrast in comparison.items()
            for name, tensor in contrast.weights.items()
        }
        state = self.state_dict()
        # Nothing else has parameters yet.
        if all(n in weights and weights[n].shape == tensor.shape for n, tensor in state.items()):
            self.load_state_dict(weights)


def _pretrained_size(context: ObjectiveContext) -> int:
    """Return the size of the vectors that the pretrained models compare.

    Raises:
        SpecError: If the two encoders come from models of different sizes.
    """
    text, image = context.text_contrast, context.image_contrast
    sizes = {contrast.projection_size for contrast in (text, image) if contrast is not None}
    if text is not None and image is not None and len(sizes) > 1:
        raise SpecError(
            f"objective 'itc': the text encoder comes from a model that compares vectors of size "
            f"{text.projection_size}, the image encoder from one of size {image.projection_size}; "
            "set projection_size to one of them, or take both encoders from one model"
        )
    return sizes.pop() if sizes else DEFAULT_SIZE


def _start(loss: LossName, context: ObjectiveContext) -> ContrastiveLoss:
    """Return the loss, which starts where a pretrained model with the same kind of loss ended."""
    start, text = LOSSES[loss], context.text_contrast
    # Of two models, neither scale goes with the other's vectors.
    if text is None or text != context.image_contrast or text.scale is None:
        return start
    if (text.bias is None) != (start.bias is None):
        return start
    return attrs.evolve(start, scale=min(text.scale, start.max_scale), bias=text.bias)


def _comparison(context: ObjectiveContext, size: int) -> Mapping[Modality, PretrainedContrast]:
    """Return how the one pretrained model of both encoders compares vectors of a size, if so."""
    text, image = context.text_contrast, context.image_contrast
    if text is None or image is None or text.checkpoint is None:
        return {}
    is_one = text.checkpoint == image.checkpoint and text.projection_size == size
    return {"text": text, "image": image} if is_one else {}


def _project(norm: nn.Module, projection: nn.Linear, summaries: Tensor) -> Tensor:
    """Project the summary of each row to a unit vector, (rows, projection)."""
    with _full_precision(summaries):
        return F.normalize(projection(norm(summaries.float())), dim=-1)


def _full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast, since a scale of 100 magnifies rounding errors."""
    device_type = tensor.device.type
    # The meta device, on which `renaissance check` computes shapes, has no autocast.
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def _key(image_id: Hashable) -> int:
    """Return a 63-bit hash of an image identifier, the same in every process."""
    digest = hashlib.blake2b(repr(image_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
