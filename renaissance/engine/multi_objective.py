"""The model and its objectives as one module: encode once, fuse once, one loss an objective.

Nothing here knows which architecture or which objectives these are.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from renaissance.contracts.batches import Pairs
from renaissance.contracts.features import Features, Fused
from renaissance.contracts.objective import Objective, ObjectiveOutput
from renaissance.contracts.tokens import Tokens
from renaissance.data.collate import MicroBatch
from renaissance.model.base import VisionLanguageModel


class MultiObjective(nn.Module):
    """What DistributedDataParallel wraps.

    Args:
        model: The vision-language model.
        objectives: The objectives, by name.
        mean: Mean of each colour channel, in [0, 1].
        std: Standard deviation of each colour channel.
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
        scale = 255.0
        self.register_buffer(
            "pixel_mean", torch.tensor(mean).view(3, 1, 1) * scale, persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(std).view(3, 1, 1) * scale, persistent=False)

    def named_objectives(self) -> dict[str, Objective]:
        """Return the objectives with their type."""
        return {n: o for n, o in self.objectives.items() if isinstance(o, Objective)}

    def forward(self, batch: MicroBatch) -> dict[str, ObjectiveOutput]:
        """Return each objective's output for a micro-batch on this module's device."""
        text = image = None
        if batch.input_ids is not None and batch.attention_mask is not None:
            text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        if batch.pixel_values is not None:
            image = self.model.encode_image(self.normalize(batch.pixel_values))
        present = {n: o for n, o in self.named_objectives().items() if n in batch.objectives}
        alone = self.features_alone(present, text, image)
        fused = self._fuse(batch, present, text, image, alone)
        return {
            name: objective(
                batch.objectives[name],
                Features(
                    text=alone["text"] if "text" in objective.unimodal else None,
                    image=alone["image"] if "image" in objective.unimodal else None,
                    fused=fused.get(name),
                ),
            )
            for name, objective in present.items()
        }

    def features_alone(
        self, objectives: Mapping[str, Objective], text: Tokens | None, image: Tokens | None
    ) -> dict[str, Tokens | None]:
        """Return texts and images encoded by themselves, where an objective reads them."""
        wanted = {modality for o in objectives.values() for modality in o.unimodal}
        return {
            "text": self.model.text_features(text) if text and "text" in wanted else None,
            "image": self.model.image_features(image) if image and "image" in wanted else None,
        }

    def similarity(self, text: Tokens | None, image: Tokens | None) -> Tensor | None:
        """Return the similarity that an objective learns, (texts, images), without gradient."""
        if text is None or image is None:
            return None
        text, image = (
            Tokens(tokens.hidden_states.detach(), tokens.attention_mask) for tokens in (text, image)
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
        text: Tokens | None,
        image: Tokens | None,
        alone: Mapping[str, Tokens | None],
    ) -> dict[str, Fused]:
        chooses = any(type(o).pairs is not Objective.pairs for o in objectives.values())
        similarity = self.similarity(alone["text"], alone["image"]) if chooses else None
        requests: dict[str, Pairs] = {}
        for name, objective in objectives.items():
            pairs = objective.pairs(batch.objectives[name], similarity)
            if pairs is not None:
                requests[name] = pairs
        if not requests:
            return {}
        assert text is not None
        assert image is not None
        fused = self.model.fuse(text, image, list(requests.values()))
        return dict(zip(requests, fused, strict=True))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return pixels, uint8, as the image encoder takes them: (images, 3, height, width)."""
        # Images travel as uint8, a quarter of the bytes, and become floats here.
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        return (pixels.to(mean.dtype) - mean) / std
