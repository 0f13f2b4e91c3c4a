"""Vision-language encoders put together from plugins, pretrained and evaluated from one TOML file.

Everything that a plugin needs is importable from here; the Arrow base classes of datasets are in
`renaissance.arrow`, the conformance kit in `renaissance.testing`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from renaissance.errors import (
    CheckpointError,
    DataError,
    PluginError,
    RenaissanceError,
    RunError,
    SpecError,
    did_you_mean,
    quoted,
    shortened,
)
from renaissance.options import fraction, non_negative, option, positive
from renaissance.plugins.hookspecs import hookimpl
from renaissance.randomness import keyed_generator

if TYPE_CHECKING:
    from renaissance.contracts.batches import BatchBuilder as BatchBuilder
    from renaissance.contracts.batches import ObjectiveBatch as ObjectiveBatch
    from renaissance.contracts.batches import Pairs as Pairs
    from renaissance.contracts.batches import WholeBatch as WholeBatch
    from renaissance.contracts.classification import Classification as Classification
    from renaissance.contracts.classification import accuracy as accuracy
    from renaissance.contracts.dataset import Dataset as Dataset
    from renaissance.contracts.dataset import DatasetContext as DatasetContext
    from renaissance.contracts.dropout import Dropout as Dropout
    from renaissance.contracts.encoder import Encoder as Encoder
    from renaissance.contracts.encoder import EncoderContext as EncoderContext
    from renaissance.contracts.encoder import PretrainedContrast as PretrainedContrast
    from renaissance.contracts.features import Features as Features
    from renaissance.contracts.features import Fused as Fused
    from renaissance.contracts.features import ModelSizes as ModelSizes
    from renaissance.contracts.fusion import FusedUse as FusedUse
    from renaissance.contracts.fusion import Fusion as Fusion
    from renaissance.contracts.head import Head as Head
    from renaissance.contracts.labels import class_names as class_names
    from renaissance.contracts.labels import number as number
    from renaissance.contracts.monitor import Evaluation as Evaluation
    from renaissance.contracts.monitor import Guess as Guess
    from renaissance.contracts.monitor import Monitor as Monitor
    from renaissance.contracts.monitor import PanelImage as PanelImage
    from renaissance.contracts.monitor import RunInfo as RunInfo
    from renaissance.contracts.monitor import StepReport as StepReport
    from renaissance.contracts.objective import Objective as Objective
    from renaissance.contracts.objective import ObjectiveContext as ObjectiveContext
    from renaissance.contracts.objective import ObjectiveOutput as ObjectiveOutput
    from renaissance.contracts.objective import PanelEntry as PanelEntry
    from renaissance.contracts.objective import overrides as overrides
    from renaissance.contracts.optimizer import Optimizer as Optimizer
    from renaissance.contracts.packing import Packing as Packing
    from renaissance.contracts.pooler import Pooler as Pooler
    from renaissance.contracts.samples import KeyedSample as KeyedSample
    from renaissance.contracts.samples import Sample as Sample
    from renaissance.contracts.source import ImageFile as ImageFile
    from renaissance.contracts.source import LeftOut as LeftOut
    from renaissance.contracts.source import Record as Record
    from renaissance.contracts.source import Source as Source
    from renaissance.contracts.source import SourceContext as SourceContext
    from renaissance.contracts.splits import EncodedRows as EncodedRows
    from renaissance.contracts.splits import SplitEvaluator as SplitEvaluator
    from renaissance.contracts.submission import Answer as Answer
    from renaissance.contracts.submission import Submission as Submission
    from renaissance.contracts.tokens import Modality as Modality
    from renaissance.contracts.tokens import Role as Role
    from renaissance.contracts.tokens import Summary as Summary
    from renaissance.contracts.tokens import Tokens as Tokens
    from renaissance.contracts.tokens import TokenUse as TokenUse
    from renaissance.contracts.tokens import attention_bias as attention_bias
    from renaissance.contracts.tokens import compute_dtype as compute_dtype
    from renaissance.contracts.tokens import own_precision as own_precision
    from renaissance.contracts.tokens import summarize as summarize
    from renaissance.contracts.tokens import take_rows as take_rows
    from renaissance.contracts.training_data import Classes as Classes
    from renaissance.contracts.training_data import Distribution as Distribution
    from renaissance.contracts.training_data import TrainingData as TrainingData
    from renaissance.contracts.transform import Channels as Channels
    from renaissance.contracts.transform import Transform as Transform
    from renaissance.contracts.transform import TransformContext as TransformContext
    from renaissance.data.images import to_rgb as to_rgb
    from renaissance.data.images import upright as upright
    from renaissance.inference.loading import load as load
    from renaissance.inference.model import Model as Model
    from renaissance.inference.pairs import Match as Match
    from renaissance.initialization import initialize_linear as initialize_linear
    from renaissance.panel import draw_panel as draw_panel
    from renaissance.progress import ProgressBar as ProgressBar

__version__ = version("renaissance")

# Imported when they are asked for: most import torch, which takes seconds and 200 MiB that
# preparing data, or `--help`, does without.
_LAZY = {
    "renaissance.contracts.batches": ("BatchBuilder", "ObjectiveBatch", "Pairs", "WholeBatch"),
    "renaissance.contracts.classification": ("Classification", "accuracy"),
    "renaissance.contracts.dataset": ("Dataset", "DatasetContext"),
    "renaissance.contracts.dropout": ("Dropout",),
    "renaissance.contracts.encoder": ("Encoder", "EncoderContext", "PretrainedContrast"),
    "renaissance.contracts.features": ("Features", "Fused", "ModelSizes"),
    "renaissance.contracts.fusion": ("FusedUse", "Fusion"),
    "renaissance.contracts.head": ("Head",),
    "renaissance.contracts.labels": ("class_names", "number"),
    "renaissance.contracts.monitor": (
        "Evaluation",
        "Guess",
        "Monitor",
        "PanelImage",
        "RunInfo",
        "StepReport",
    ),
    "renaissance.contracts.objective": (
        "Objective",
        "ObjectiveContext",
        "ObjectiveOutput",
        "PanelEntry",
        "overrides",
    ),
    "renaissance.contracts.optimizer": ("Optimizer",),
    "renaissance.contracts.packing": ("Packing",),
    "renaissance.contracts.pooler": ("Pooler",),
    "renaissance.contracts.samples": ("KeyedSample", "Sample"),
    "renaissance.contracts.source": ("ImageFile", "LeftOut", "Record", "Source", "SourceContext"),
    "renaissance.contracts.splits": ("EncodedRows", "SplitEvaluator"),
    "renaissance.contracts.submission": ("Answer", "Submission"),
    "renaissance.contracts.training_data": ("Classes", "Distribution", "TrainingData"),
    "renaissance.contracts.tokens": (
        "Modality",
        "Role",
        "Summary",
        "Tokens",
        "TokenUse",
        "attention_bias",
        "compute_dtype",
        "own_precision",
        "summarize",
        "take_rows",
    ),
    "renaissance.contracts.transform": ("Channels", "Transform", "TransformContext"),
    "renaissance.data.images": ("to_rgb", "upright"),
    "renaissance.inference.loading": ("load",),
    "renaissance.inference.model": ("Model",),
    "renaissance.inference.pairs": ("Match",),
    "renaissance.initialization": ("initialize_linear",),
    "renaissance.panel": ("draw_panel",),
    "renaissance.progress": ("ProgressBar",),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "CheckpointError",
    "DataError",
    "PluginError",
    "RenaissanceError",
    "RunError",
    "SpecError",
    "did_you_mean",
    "quoted",
    "shortened",
    "fraction",
    "hookimpl",
    "keyed_generator",
    "non_negative",
    "option",
    "positive",
    *_MODULE_OF,
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
