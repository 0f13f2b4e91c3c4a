"""A plugin whose pooler has the name of another plugin's."""

from collections.abc import Callable

import attrs
from torch import Tensor

from renaissance import Pooler, Tokens, hookimpl


class OtherMaxPooler(Pooler):
    """Takes a name that is taken."""

    @attrs.frozen
    class Options:
        pass

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        raise NotImplementedError


@hookimpl
def register_poolers(register: Callable[..., None]) -> None:
    register("max-text", OtherMaxPooler)
