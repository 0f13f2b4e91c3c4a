"""A dual encoder: a text encoder and an image encoder, without fusion."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from renaissance.contracts.batches import Pairs
from renaissance.contracts.encoder import Encoder
from renaissance.contracts.features import Fused, ModelSizes, NotFusedError
from renaissance.contracts.packing import Packing
from renaissance.contracts.tokens import Role, Tokens
from renaissance.model.base import VisionLanguageModel, pixel_dtype_of


class DualEncoder(VisionLanguageModel):
    """Two encoders, whose texts and images meet only in what objectives compute of them."""

    def __init__(self, text_encoder: Encoder, image_encoder: Encoder) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.text_summary = text_encoder.text_summary
        self.image_summary = image_encoder.image_summary
        self.text_contrast = text_encoder.contrast
        self.image_contrast = image_encoder.contrast
        self.sizes = ModelSizes(text=text_encoder.hidden_size, image=image_encoder.hidden_size)

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor, packing: Packing | None = None
    ) -> Tokens:
        """Encode texts, without gradient if the text encoder is frozen."""
        with torch.set_grad_enabled(self._needs_gradient(self.text_encoder)):
            if packing is not None:
                return self.text_encoder.encode_packed(input_ids, attention_mask, packing)
            return self.text_encoder.encode_text(input_ids, attention_mask)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Encode images, without gradient if the image encoder is frozen."""
        with torch.set_grad_enabled(self._needs_gradient(self.image_encoder)):
            return self.image_encoder.encode_image(pixel_values)

    @property
    def pixel_dtype(self) -> torch.dtype:
        """The dtype in which the image encoder takes pixels."""
        return pixel_dtype_of(self.image_encoder)

    def fuse(self, text: Tokens, image: Tokens, requests: Sequence[Pairs]) -> list[Fused]:
        """Refuse.

        Raises:
            NotFusedError: Always.
        """
        raise NotFusedError

    def roles(self) -> Mapping[Role, Sequence[nn.Module]]:
        """Count the two encoders as such; there is nothing else."""
        return {"encoder": [self.text_encoder, self.image_encoder]}

    def parts(self) -> Mapping[str, nn.Module]:
        """Return the modules by name."""
        return dict(self.named_children())

    def _needs_gradient(self, encoder: nn.Module) -> bool:
        return torch.is_grad_enabled() and not self.is_frozen(encoder)
