"""Token states of a micro-batch's images, of which a cache holds some."""

from torch import Tensor

from renaissance.contracts.tokens import Tokens
from renaissance.data.cache.batch_images import KnownStates
from renaissance.data.cache.rows import RowCache


def completed(known: KnownStates, encoded: Tokens | None, cache: RowCache) -> Tokens:
    """Return the token states of all images, and keep those that were not known.

    Args:
        known: Which states are known.
        encoded: The others, as the image encoder returned them; None if all are known.
        cache: Where states are kept.
    """
    states = known.hidden_states
    if encoded is not None:
        states = states.new_empty((len(known.origins), *states.shape[1:]))
        states[known.rows] = known.hidden_states
        states[known.other_rows] = encoded.hidden_states.detach()
        _keep(known.keys, encoded.hidden_states, cache)
    return Tokens(states)


def _keep(keys: Tensor, hidden_states: Tensor, cache: RowCache) -> None:
    # The host waits for the device here, once per image of the whole data.
    rows = hidden_states.detach().cpu()
    cache.put({bytes(key): row for key, row in zip(keys.cpu().numpy(), rows, strict=True)})
