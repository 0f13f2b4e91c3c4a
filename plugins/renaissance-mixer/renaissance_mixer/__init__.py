"""A vision model that is not from Hugging Face, as an image encoder."""

from collections.abc import Callable

from renaissance import Encoder, hookimpl
from renaissance_mixer.encoder import MixerEncoder

# The version of the plugin interface for which this package is written.
renaissance_api = 1


@hookimpl
def register_encoders(register: Callable[[str, type[Encoder]], None]) -> None:
    """Register the encoder."""
    register("mixer", MixerEncoder)
