"""The model and its objectives as one module: encode once, fuse once, one loss per objective.

Nothing here knows which architecture or which objectives these are.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from renaissance.contracts.batches import Pairs
from renaissance.contracts.features import Features, Fused, join_fused
from renaissance.contracts.objective import Objective, ObjectiveOutput, overrides
from renaissance.contracts.tokens import Modality, Tokens
from renaissance.data.cache.rows import RowCache
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.average import PREFIX, Average
from renaissance.engine.known_states import completed
from renaissance.errors import PluginError, SpecError
from renaissance.model.base import VisionLanguageModel
from renaissance.model.lora import merge_adapters


class MultiObjective(nn.Module):
    """What DistributedDataParallel wraps.

    Args:
        model: The vision-language model.
        objectives: The objectives, by name.
        mean: Mean of each colour channel, in [0, 1].
        std: Standard deviation of each colour channel.

    Attributes:
        state_caches: Where the token states of images are kept, if they are: by whether it is
            training, which may have another transform.
        average: The moving average of the parameters, with `train.ema`.
        is_sharded: Whether each rank has only some rows of the parameters.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        objectives: nn.ModuleDict,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives
        self.state_caches: dict[bool, RowCache] = {}
        self.average: Average | None = None
        self.is_sharded = False
        scale = 255.0
        self.register_buffer(
            "pixel_mean", torch.tensor(mean).view(3, 1, 1) * scale, persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(std).view(3, 1, 1) * scale, persistent=False)

    def keep_average(self, decay: float) -> None:
        """Average the parameters from now on, as they are after each `average.update`.

        Raises:
            SpecError: If there are batch norms, whose statistics are not those of an average.
        """
        for name, part in self.model.parts().items():
            has_norms = any(isinstance(module, _BatchNorm) for module in part.modules())
            if has_norms and not self.model.is_frozen(part):
                raise SpecError(
                    f"train.ema: model.{name} has batch norms, whose running statistics belong to "
                    "the parameters of the moment, not to their average; freeze it, choose an "
                    "encoder without, or remove this key"
                )
        self.average = Average(self, decay)

    def finish(self) -> None:
        """Make it ready for use, after training.

        It takes the average for its parameters, if one is kept, and adds what adapters have learned
        to the layers that they adapt.
        """
        if self.average is not None:
            self.average.apply_to(self)
            self.average = None
        merge_adapters(self.model)

    def running_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that a forward pass may change, by name: not those of the average."""
        return {n: b for n, b in self.named_buffers() if not n.startswith(PREFIX)}

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the parameters are the average, if one is kept."""
        return nullcontext() if self.average is None else self.average.applied(self)

    def named_objectives(self) -> dict[str, Objective]:
        """Return the objectives by name, typed as such."""
        return {n: o for n, o in self.objectives.items() if isinstance(o, Objective)}

    def learning_objectives(self) -> dict[str, Objective]:
        """Return those that have a loss, by name; the others only evaluate whole splits."""
        return {n: o for n, o in self.named_objectives().items() if o.learns}

    def overriding(self, method: str) -> dict[str, Objective]:
        """Return the objectives that override a method of the contract, by name."""
        return {n: o for n, o in self.named_objectives().items() if overrides(o, method)}

    def forward(self, batch: MicroBatch) -> dict[str, ObjectiveOutput]:
        """Return each objective's output for a micro-batch on this module's device."""
        encoded = self.encode(batch)
        present = {n: o for n, o in self.named_objectives().items() if n in batch.objectives}
        alone = self.encode_alone(present, encoded)
        fused = self._fuse(batch, present, encoded, alone)
        return {
            name: objective(
                batch.objectives[name],
                Features(
                    text=alone.get("text") if "text" in objective.unimodal else None,
                    image=alone.get("image") if "image" in objective.unimodal else None,
                    fused=fused.get(name),
                ),
            )
            for name, objective in present.items()
        }

    def encode(self, batch: MicroBatch) -> dict[Modality, Tokens]:
        """Encode a micro-batch's texts and images; a modality that it lacks is left out."""
        encoded: dict[Modality, Tokens] = {}
        if batch.input_ids is not None and batch.attention_mask is not None:
            encoded["text"] = self.model.encode_text(
                batch.input_ids, batch.attention_mask, batch.packing
            )
        if batch.pixel_values is not None:
            encoded["image"] = self.model.encode_image(self.normalize(batch.pixel_values))
        if batch.known_states is not None:
            cache = self.state_caches[self.training]
            encoded["image"] = completed(batch.known_states, encoded.get("image"), cache)
        return encoded

    def encode_alone(
        self, objectives: Mapping[str, Objective], encoded: Mapping[Modality, Tokens]
    ) -> dict[Modality, Tokens]:
        """Return the features of each modality by itself, where an objective reads them."""
        features = {"text": self.model.text_features, "image": self.model.image_features}
        read = {modality for objective in objectives.values() for modality in objective.unimodal}
        return {
            modality: features[modality](tokens)
            for modality, tokens in encoded.items()
            if modality in read
        }

    def similarity(self, text: Tokens | None, image: Tokens | None) -> Tensor | None:
        """Return the similarity that an objective learns, (texts, images), without gradient."""
        if text is None or image is None:
            return None
        text, image = (
            tokens.with_states(tokens.hidden_states.detach()) for tokens in (text, image)
        )
        with torch.no_grad():
            for objective in self.named_objectives().values():
                similarity = objective.similarity(text, image)
                if similarity is not None:
                    return similarity
        return None

    def _fuse(
        self,
        batch: MicroBatch,
        objectives: Mapping[str, Objective],
        encoded: Mapping[Modality, Tokens],
        alone: Mapping[Modality, Tokens],
    ) -> dict[str, Fused]:
        # Similarity is only for objectives that choose their pairs by it, such as hard negatives.
        chooses = any(overrides(objective, "pairs") for objective in objectives.values())
        similarity = self.similarity(alone.get("text"), alone.get("image")) if chooses else None
        pairs_of: dict[str, Pairs] = {}
        for name, objective in objectives.items():
            pairs = objective.pairs(batch.objectives[name], similarity)
            if pairs is not None:
                pairs_of[name] = pairs
        if not pairs_of:
            return {}
        if encoded.keys() != {"text", "image"}:
            raise PluginError(
                f"objective '{next(iter(pairs_of))}' asks for pairs, but no "
                f"{'image' if 'text' in encoded else 'text'} was collated; call builder.text and "
                "builder.image in collate"
            )
        text, image, shared = encoded["text"], encoded["image"], batch.shared_pairs
        # Those that an objective has chosen just now were not compared, nor their tokens counted.
        chosen = {n: p for n, p in pairs_of.items() if p is not batch.objectives[n].pairs}
        if shared is None or chosen:
            known = {n: attrs.evolve(p, text_index=None) for n, p in chosen.items()}
            fused = self.model.fuse(text, image, list({**pairs_of, **known}.values()))
            return dict(zip(pairs_of, fused, strict=True))
        groups = shared.groups
        fused_groups = dict(
            zip(groups, self.model.fuse(text, image, list(groups.values())), strict=True)
        )
        return {
            name: join_fused(
                [fused_groups[index] for index in shared.groups_of[name]],
                shared.order[name],
                pairs.outputs,
            )
            for name, pairs in pairs_of.items()
        }

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize uint8 pixels for the image encoder: (images, 3, height, width)."""
        # Images are copied to the device as uint8, which is a quarter of the bytes.
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        shifted, dtype = pixels - mean, self.model.pixel_dtype
        if dtype == torch.float32:
            # Or fp64, in a network of that.
            return shifted / std
        # Computed as fp32, and rounded as it is written.
        return torch.div(shifted, std, out=torch.empty_like(shifted, dtype=dtype))
