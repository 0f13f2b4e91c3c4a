"""Vision-language encoders put together from plugins, pretrained and evaluated from one TOML file.

Everything a plugin needs is importable from here.
"""

from importlib.metadata import version

from renaissance.contracts import (
    BatchBuilder,
    Dataset,
    DatasetContext,
    Encoder,
    EncoderContext,
    Features,
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
    Tokens,
)
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

__version__ = version("renaissance")

__all__ = [
    "BatchBuilder",
    "CheckpointError",
    "DataError",
    "Dataset",
    "DatasetContext",
    "Encoder",
    "EncoderContext",
    "Features",
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
    "Tokens",
    "fraction",
    "hookimpl",
    "keyed_generator",
    "non_negative",
    "option",
    "positive",
]
