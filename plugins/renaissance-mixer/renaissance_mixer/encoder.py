"""The encoder around the model: options in, token states out."""

import attrs
import torch
from torch import Tensor

from renaissance import Encoder, EncoderContext, SpecError, Tokens, fraction, option, positive
from renaissance_mixer.model import Mixer


class MixerEncoder(Encoder):
    """MLP-Mixer (Tolstikhin et al., 2021) with random weights."""

    modalities = frozenset({"image"})
    # No patch stands for the whole image.
    image_summary = "mean"

    @attrs.frozen
    class Options:
        """Options of `mixer`."""

        hidden_size: int = option(256, help="Width of the patch states.", validator=positive)
        num_layers: int = option(8, help="Number of layers.", validator=positive)
        patch_size: int = option(16, help="Side of a patch, pixels.", validator=positive)
        dropout: float = option(0.0, help="Dropout after each mixing step.", validator=fraction)

    def __init__(self, options: Options, context: EncoderContext) -> None:
        super().__init__()
        if context.image_size % options.patch_size:
            raise SpecError(
                f"model.image_encoder.patch_size: got {options.patch_size}, which does not "
                f"divide data.image_size = {context.image_size}; choose a divisor"
            )
        self.hidden_size = options.hidden_size
        self.model = Mixer(
            num_patches=(context.image_size // options.patch_size) ** 2,
            patch_size=options.patch_size,
            hidden_size=options.hidden_size,
            num_layers=options.num_layers,
            dropout=options.dropout,
        )

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Encode images; every patch is a real token."""
        states = self.model(pixel_values)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return Tokens(states, mask)
