"""The pixel normalization in an image encoder's preprocessor_config.json."""

import json
from pathlib import Path

from transformers.utils import cached_file

from renaissance.contracts.transform import Channels

FILE = "preprocessor_config.json"


def normalization_of(checkpoint: str | None) -> tuple[Channels, Channels] | None:
    """Return the channel means and standard deviations with which an encoder was trained.

    Args:
        checkpoint: Hub id or local folder of the encoder; None if it has none.

    Returns:
        Means and standard deviations in [0, 1]; None if the checkpoint does not say.
    """
    if checkpoint is None:
        return None
    try:
        path = Path(str(cached_file(checkpoint, FILE)))
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    # Without the file there is a default. If the checkpoint itself is missing, the encoder that
    # loads it says so.
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or config.get("do_normalize") is False:
        return None
    mean, std = _channels(config.get("image_mean")), _channels(config.get("image_std"))
    return None if mean is None or std is None else (mean, std)


def _channels(value: object) -> Channels | None:
    if not (isinstance(value, list) and len(value) == 3):
        return None
    if not all(type(number) in (int, float) for number in value):
        return None
    red, green, blue = map(float, value)
    return red, green, blue
