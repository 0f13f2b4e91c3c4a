"""The run spec: one frozen attrs class a TOML section.

TOML keys, their types, defaults, help and limits all come from here.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
from attrs.validators import deep_iterable, optional

from renaissance.options import fraction, non_negative, option, positive
from renaissance.plugins.kinds import Kind
from renaissance.spec.validators import (
    at_most_30,
    folder_name,
    log_name,
    needs_init_from,
    steps_or_fraction,
)


@attrs.frozen
class ComponentSpec:
    """A component chosen by `type`, with the options that it declares.

    In TOML, `type`, the options and the keys of the place (the further fields of a subclass, such
    as `frozen` or `weight`, which hold whichever component is chosen) stand in one table.

    Attributes:
        kind: Which kind of component.
        type: Its registered name.
        options: An instance of the component's `Options`.
    """

    kind: ClassVar[Kind]
    type: str
    options: Any


@attrs.frozen
class EncoderSpec(ComponentSpec):
    """An encoder."""

    kind = "encoder"
    frozen: bool = option(False, help="Keep its weights as they are: evaluation mode, no gradient.")


@attrs.frozen
class FusionSpec(ComponentSpec):
    """The fusion module of a two-tower model."""

    kind = "fusion"
    frozen: bool = option(False, help="Keep its weights as they are: evaluation mode, no gradient.")


@attrs.frozen
class PoolerSpec(ComponentSpec):
    """The pooler."""

    kind = "pooler"


@attrs.frozen
class HeadSpec(ComponentSpec):
    """A head that replaces an objective's own choice."""

    kind = "head"


@attrs.frozen
class DatasetSpec(ComponentSpec):
    """One dataset; several are concatenated."""

    kind = "dataset"
    weight: float | None = option(
        None,
        help="How often training draws from it, relative to the others, which then need a weight "
        "too. Where absent, all are shuffled together.",
        validator=positive,
    )
    objectives: tuple[str, ...] = option(
        (), help="Names of the objectives that its samples are for; all where absent."
    )


@attrs.frozen
class ObjectiveSpec(ComponentSpec):
    """One objective."""

    kind = "objective"
    weight: float = option(1.0, help="Factor of its loss in the sum.", validator=non_negative)
    name: str | None = option(None, help="Name in logs; the type where absent.", validator=log_name)
    head: HeadSpec | None = option(None, help="Head instead of the objective's own choice.")


@attrs.frozen
class RunSection:
    """What the run is called, and where it lives."""

    name: str = option(
        "run", help="Name of the run, and of its folder in output_dir.", validator=folder_name
    )
    seed: int = option(
        0, help="Everything random in the run is a function of it.", validator=non_negative
    )
    output_dir: str = option("runs", help="Folder that holds the run folders.")
    resume: Literal["auto", "never"] = option(
        "auto",
        help="auto: continue from the run folder's last checkpoint; never: refuse a used folder.",
    )
    plugins: tuple[str, ...] = option(
        (),
        help="Python files that register components, relative to the file that names them (on the "
        "command line: to the working directory).",
    )


@attrs.frozen
class ModelSection:
    """The model: two towers and a fusion, or one joint encoder."""

    type: Literal["two-tower", "one-tower"] = option("two-tower", help="Architecture.")
    text_encoder: EncoderSpec | None = option(None, help="Text tower of a two-tower model.")
    image_encoder: EncoderSpec | None = option(None, help="Image tower of a two-tower model.")
    encoder: EncoderSpec | None = option(None, help="Joint encoder of a one-tower model.")
    fusion: FusionSpec | None = option(
        None, help="Fusion of a two-tower model; co-attention where absent."
    )
    pooler: PoolerSpec | None = option(None, help="Pooler; double where absent.")
    init_from: str | None = option(
        None, help="Start from the weights of this checkpoint or run folder (a new run, step 0)."
    )
    init_allow: tuple[str, ...] = option(
        (),
        help="Modules that may differ from those in init_from, such as 'pooler', 'fusion.layers.5' "
        "or 'objectives.vqa'; one that does is newly initialized as a whole.",
        validator=needs_init_from,
    )


@attrs.frozen
class TransformSection:
    """How an image becomes a square of pixels."""

    name: Literal["imagenet", "vit", "clip", "pixelbert"] = option(
        "imagenet", help="Resize rule and normalization."
    )
    randaugment: bool = option(False, help="RandAugment in training (Cubuk et al., 2020).")
    randaugment_num_ops: int = option(2, help="Operations an image.", validator=positive)
    randaugment_magnitude: int = option(
        9, help="Strength, 0 to 30.", validator=[non_negative, at_most_30]
    )
    mean: tuple[float, float, float] | None = option(
        None, help="Mean of each channel, in [0, 1], instead of the named transform's."
    )
    std: tuple[float, float, float] | None = option(
        None,
        help="Standard deviation of each channel instead of the named transform's.",
        validator=optional(deep_iterable(positive)),
    )


@attrs.frozen
class DataSection:
    """Datasets, and how samples become tensors."""

    root: str = option(".", help="Folder that relative data paths start from.")
    image_size: int = option(224, help="Side of the square images, pixels.", validator=positive)
    max_text_length: int = option(
        40, help="Longest text, tokens, special ones included.", validator=positive
    )
    tokenizer: str | None = option(
        None,
        help="Tokenizer: a hub id, a local folder, or 'dataset' (the words of a dataset that "
        "states its vocabulary); the text encoder's own where absent.",
    )
    num_workers: int = option(
        2, help="Loader processes a rank; 0 loads in the main process.", validator=non_negative
    )
    max_bad_samples: int = option(
        0,
        help="Unreadable records to skip, reported and counted, before the run stops.",
        validator=non_negative,
    )
    max_image_pixels: int = option(
        100_000_000,
        help="Images with more pixels are refused before they are decoded.",
        validator=positive,
    )
    transform: TransformSection = option(factory=TransformSection, help="Image transform.")
    train: tuple[DatasetSpec, ...] = option((), help="Training datasets, concatenated.")
    validate: tuple[DatasetSpec, ...] = option((), help="Validation datasets, concatenated.")


@attrs.frozen
class MultipliersSection:
    """Learning rate factors by the role that the model declares for each module."""

    encoder: float = option(1.0, help="Encoders.", validator=non_negative)
    fusion: float = option(5.0, help="Fusion, projections and pooler.", validator=non_negative)
    head: float = option(5.0, help="Heads of the objectives.", validator=non_negative)


@attrs.frozen
class OptimizerSection:
    """The optimizer."""

    type: Literal["adamw", "adam", "sgd"] = option("adamw", help="Algorithm.")
    learning_rate: float = option(1e-5, help="Peak learning rate.", validator=positive)
    weight_decay: float = option(
        0.01, help="Weight decay; none on biases and norms.", validator=non_negative
    )
    betas: tuple[float, float] = option(
        (0.9, 0.98), help="Adam's decay rates.", validator=deep_iterable(fraction)
    )
    eps: float = option(1e-8, help="Adam's epsilon.", validator=positive)
    momentum: float = option(0.9, help="SGD's momentum.", validator=fraction)
    multipliers: MultipliersSection = option(
        factory=MultipliersSection, help="Learning rate factors by module role."
    )


@attrs.frozen
class ScheduleSection:
    """Learning rate over the steps: linear warm-up, then decay."""

    decay: Literal["polynomial", "cosine", "constant"] = option(
        "polynomial", help="Shape of the decay."
    )
    power: float = option(1.0, help="Power of the polynomial; 1 is linear.", validator=positive)
    warmup_steps: int | float = option(
        10_000,
        help="Warm-up: steps (an integer), or a fraction of all steps (0.1).",
        validator=[non_negative, steps_or_fraction],
    )
    end_learning_rate: float = option(
        0.0, help="Learning rate at the last step, before multipliers.", validator=non_negative
    )


@attrs.frozen
class TrainSection:
    """The loop: its length, its batch, its arithmetic."""

    max_steps: int | None = option(
        None, help="Optimizer steps; 100,000 where max_epochs is absent too.", validator=positive
    )
    max_epochs: int | None = option(
        None, help="Passes over the training data; the earlier limit holds.", validator=positive
    )
    global_batch_size: int = option(256, help="Samples an optimizer step.", validator=positive)
    micro_batch_size: int | None = option(
        None,
        help="Samples that one rank sends through the model at once; its whole share where absent.",
        validator=positive,
    )
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", help="Arithmetic of forward and backward."
    )
    gradient_clip: float | None = option(
        None, help="Largest norm of the gradient.", validator=positive
    )
    gradient_checkpointing: bool = option(
        False, help="Recompute activations in backward: less memory, more time."
    )
    compile: bool = option(False, help="Compile encoders and fusion with torch.compile.")
    device: Literal["auto", "cpu", "cuda"] = option("auto", help="auto: CUDA where there is one.")
    log_every: int = option(10, help="Steps between log lines.", validator=positive)


@attrs.frozen
class EvaluateSection:
    """Evaluation on `[[data.validate]]`."""

    every_steps: int | None = option(
        None,
        help="Steps between evaluations; the last step is always evaluated.",
        validator=positive,
    )
    every_epochs: float | None = option(
        None,
        help="Epochs between evaluations; 1 where every_steps is absent too.",
        validator=positive,
    )
    micro_batch_size: int = option(
        32, help="Samples a rank sends through at once.", validator=positive
    )
    num_panel_images: int = option(
        8, help="Images in the TensorBoard panel; 0 for none.", validator=non_negative
    )


@attrs.frozen
class CheckpointSection:
    """What is kept."""

    every_steps: int | None = option(
        None, help="Steps between checkpoints; at each evaluation where absent.", validator=positive
    )
    keep_last: int = option(2, help="Checkpoints to keep, beside the best.", validator=positive)
    best_metric: str = option(
        "loss", help="Validation metric that chooses the best, such as 'itm/accuracy'."
    )
    best_mode: Literal["min", "max"] = option("min", help="Whether small or large values are good.")


@attrs.frozen
class TensorBoardSection:
    """TensorBoard event files in the run folder."""

    enabled: bool = option(True, help="Write event files.")


@attrs.frozen
class RunSpec:
    """A whole run."""

    run: RunSection = option(factory=RunSection, help="The run.")
    model: ModelSection = option(factory=ModelSection, help="The model.")
    data: DataSection = option(factory=DataSection, help="The data.")
    objectives: tuple[ObjectiveSpec, ...] = option((), help="The objectives.")
    optimizer: OptimizerSection = option(factory=OptimizerSection, help="The optimizer.")
    schedule: ScheduleSection = option(factory=ScheduleSection, help="The schedule.")
    train: TrainSection = option(factory=TrainSection, help="Training.")
    evaluate: EvaluateSection = option(factory=EvaluateSection, help="Evaluation.")
    checkpoint: CheckpointSection = option(factory=CheckpointSection, help="Checkpoints.")
    tensorboard: TensorBoardSection = option(factory=TensorBoardSection, help="TensorBoard.")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run.output_dir) / self.run.name
