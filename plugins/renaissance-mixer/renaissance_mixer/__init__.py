"""A vision model that is not from Hugging Face, as an image encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renaissance import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from renaissance import Encoder

# The version of the plugin interface for which this package is written.
renaissance_api = 1


@hookimpl
def register_encoders(register: Callable[[str, type[Encoder]], None]) -> None:
    """Register the encoder."""
    # Imported here: listing sources does without torch.
    from renaissance_mixer.encoder import MixerEncoder

    register("mixer", MixerEncoder)
