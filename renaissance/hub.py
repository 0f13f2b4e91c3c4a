"""Whether the Hugging Face hub can be reached, asked once and briefly."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants, get_session

PROBE_SECONDS = 3.0


def use_cache_if_unreachable(checkpoints: Iterable[str]) -> None:
    """Go offline if a checkpoint may have to be downloaded and the hub does not answer.

    The library itself tries every file again and again, which takes more than a minute. Offline,
    it uses what is in its cache, and otherwise says at once what is missing.

    Args:
        checkpoints: Hub ids and local folders.
    """
    if constants.HF_HUB_OFFLINE or all(Path(name).is_dir() for name in checkpoints):
        return
    try:
        # Any answer will do, also from a proxy.
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    # Releases of the library have different clients, with errors of their own.
    except Exception:
        constants.HF_HUB_OFFLINE = True
