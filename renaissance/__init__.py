"""Vision-language encoders put together from plugins, pretrained and evaluated from one TOML file.

Everything a plugin needs is importable from here.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from renaissance.errors import (
    CheckpointError,
    DataError,
    PluginError,
    RenaissanceError,
    RunError,
    SpecError,
)
from renaissance.hookspecs import hookimpl
from renaissance.options import fraction, non_negative, option, positive
from renaissance.randomness import keyed_generator

if TYPE_CHECKING:
    from renaissance.contracts import (
        BatchBuilder,
        Dataset,
        DatasetContext,
        EncodedSamples,
        Encoder,
        EncoderContext,
        Features,
        Fused,
        Fusion,
        Head,
        KeyedSample,
        ModelSizes,
        Objective,
        ObjectiveBatch,
        ObjectiveContext,
        ObjectiveOutput,
        Pairs,
        PanelEntry,
        Pooler,
        Reads,
        Sample,
        SplitEvaluator,
        Tokens,
    )
    from renaissance.initialization import initialize_linear

__version__ = version("renaissance")

__all__ = [
    "BatchBuilder",
    "CheckpointError",
    "DataError",
    "Dataset",
    "DatasetContext",
    "EncodedSamples",
    "Encoder",
    "EncoderContext",
    "Features",
    "Fused",
    "Fusion",
    "Head",
    "KeyedSample",
    "ModelSizes",
    "Objective",
    "ObjectiveBatch",
    "ObjectiveContext",
    "ObjectiveOutput",
    "Pairs",
    "PanelEntry",
    "PluginError",
    "Pooler",
    "Reads",
    "RenaissanceError",
    "RunError",
    "Sample",
    "SpecError",
    "SplitEvaluator",
    "Tokens",
    "fraction",
    "hookimpl",
    "initialize_linear",
    "keyed_generator",
    "non_negative",
    "option",
    "positive",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        # These import torch: three seconds and 200 MiB that preparing data does without.
        from renaissance import contracts, initialization

        return getattr(initialization if hasattr(initialization, name) else contracts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
