"""The two architectures and the parts of each, as read by checks, layers and the model builder."""

from collections.abc import Mapping

import attrs

Modalities = frozenset[str]


@attrs.frozen
class Architecture:
    """One value of `model.type`.

    Attributes:
        encoders: The encoder tables under `[model]`, each with the modalities that its encoder
            must take.
        has_fusion: Whether there is a table `[model.fusion]`.
        model: Module and class of the model, made with one keyword argument per table.
    """

    encoders: Mapping[str, Modalities]
    has_fusion: bool
    model: tuple[str, str]

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables under `[model]` that only this architecture has."""
        return (*self.encoders, *(("fusion",) if self.has_fusion else ()))

    def encoder_for(self, modality: str) -> str:
        """Return the table of the encoder that takes a modality."""
        return next(name for name, takes in self.encoders.items() if modality in takes)


# `model.fusion.type` of a two-tower model without fusion, and the module and class of that model.
NO_FUSION = "none"
DUAL_ENCODER = ("renaissance.model.dual_encoder", "DualEncoder")

ARCHITECTURES: Mapping[str, Architecture] = {
    "two-tower": Architecture(
        encoders={"text_encoder": frozenset({"text"}), "image_encoder": frozenset({"image"})},
        has_fusion=True,
        model=("renaissance.model.two_tower", "TwoTower"),
    ),
    "one-tower": Architecture(
        encoders={"encoder": frozenset({"text", "image"})},
        has_fusion=False,
        model=("renaissance.model.one_tower", "OneTower"),
    ),
}
