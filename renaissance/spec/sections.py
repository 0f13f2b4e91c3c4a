"""The run spec: one frozen attrs class per TOML section.

TOML keys, their types, defaults, help and limits all come from here. `RunSpec` is what the user
wrote, with fixed defaults filled in. `ResolvedSpec` also has the defaults that depend on data,
encoders and ranks (`spec.resolve`); a run folder keeps it.
"""

from pathlib import Path
from typing import Literal, TypeAlias

import attrs

from renaissance.limits import DEFAULT_LIMITS, MOST_NESTING, MOST_RECORD_BYTES, ReadLimits
from renaissance.options import fraction, non_negative, option, positive
from renaissance.spec.architectures import ARCHITECTURES, NO_FUSION
from renaissance.spec.choice import (
    DatasetChoice,
    EncoderChoice,
    FusionChoice,
    MonitorChoice,
    ObjectiveChoice,
    OptimizerChoice,
    PoolerChoice,
    TransformChoice,
)
from renaissance.spec.derived import derived
from renaissance.spec.validators import (
    folder_name,
    needs_init_from,
    non_negative_or_auto,
    steps_or_fraction,
    up_to,
)

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Parallel: TypeAlias = Literal["ddp", "fsdp"]


@attrs.frozen
class RunSection:
    """The name of the run, and where its files are."""

    name: str = option(
        "run", help="Name of the run, and of its folder in output_dir.", validator=folder_name
    )
    seed: int = option(0, help="Seed of everything random in the run.", validator=non_negative)
    output_dir: str = option(
        "runs", help="Folder that holds the run folders, relative to the working directory."
    )
    resume: Literal["auto", "never"] = option(
        "auto",
        help="auto: continue from the last checkpoint in the run folder; never: refuse a folder "
        "that has checkpoints.",
    )
    plugins: tuple[str, ...] = option(
        (),
        help="Python files that register components, relative to the file that names them (on the "
        "command line: to the working directory).",
    )


def _fusion(model: "ModelSection") -> dict[str, object] | None:
    return {} if ARCHITECTURES[model.type].has_fusion else None


def _pooler(model: "ModelSection") -> dict[str, object] | None:
    return {} if model.fuses else None


@attrs.frozen
class ModelSection:
    """The model: two towers and a fusion, or one joint encoder."""

    type: Literal["two-tower", "one-tower"] = option("two-tower", help="Architecture.")
    text_encoder: EncoderChoice | None = option(None, help="Text tower of a two-tower model.")
    image_encoder: EncoderChoice | None = option(None, help="Image tower of a two-tower model.")
    encoder: EncoderChoice | None = option(None, help="Joint encoder of a one-tower model.")
    fusion: FusionChoice | None = derived(
        _fusion,
        help="Fusion of a two-tower model; none makes it a dual encoder.",
        default_text="co-attention",
    )
    pooler: PoolerChoice | None = derived(
        _pooler,
        help="Pooler; a dual encoder, whose fusion is none, has no pooler.",
        default_text="double",
    )
    init_from: str | None = option(
        None,
        help="Start a new run, from step 0, with the parameters of this checkpoint, run folder or "
        "exported folder, or of an exported model on the Hugging Face hub (ORGANIZATION/NAME).",
    )
    init_allow: tuple[str, ...] = option(
        (),
        help="Modules that may differ from those in init_from, such as 'pooler', 'fusion.layers.5' "
        "or 'objectives.vqa'; a module that differs is newly initialized as a whole.",
        validator=needs_init_from,
    )

    @property
    def fuses(self) -> bool:
        """Whether it can fuse pairs: it is not a dual encoder."""
        # A draft lacks a key whose value is wrong.
        fusion: FusionChoice | None = getattr(self, "fusion", None)
        return fusion is None or fusion.type != NO_FUSION


@attrs.frozen
class DataSection:
    """Datasets, and how samples become tensors."""

    root: str = option(
        ".", help="Folder that paths of datasets start from, relative to the working directory."
    )
    image_size: int = option(224, help="Side of the square images, in pixels.", validator=positive)
    max_text_length: int = option(
        40, help="Longest text, in tokens, special tokens included.", validator=positive
    )
    tokenizer: str | None = option(
        None,
        help="Tokenizer: a hub id, a local folder, or 'dataset' (the words of a dataset that "
        "states its vocabulary); if absent, that of the text encoder.",
    )
    num_workers: int | Literal["auto"] = option(
        "auto",
        help="Loader processes per rank; 0 loads in the main process; auto: the rank's share of "
        "the CPU cores less one, from 1 to 32.",
        validator=non_negative_or_auto,
    )
    max_bad_samples: int = option(
        0,
        help="Unreadable records to skip before the run stops; each counts, and is reported, once.",
        validator=non_negative,
    )
    max_image_pixels: int = option(
        100_000_000,
        help="Images with more pixels are rejected before they are decoded.",
        validator=positive,
    )
    max_image_bytes: int = option(
        100_000_000,
        help="Image files with more bytes are rejected before they are decoded.",
        validator=positive,
    )
    max_text_characters: int = option(
        100_000,
        help="Longer texts are rejected before they are split into tokens.",
        validator=positive,
    )
    max_record_bytes: int = option(
        DEFAULT_LIMITS.record_bytes,
        help="Tables with a longer line, cell of text, or text in a tar are rejected.",
        validator=up_to(MOST_RECORD_BYTES),
    )
    max_nesting: int = option(
        DEFAULT_LIMITS.nesting,
        help="Tables with JSON whose lists and objects are nested more deeply are rejected.",
        validator=up_to(MOST_NESTING),
    )
    max_tar_members: int = option(
        DEFAULT_LIMITS.tar_members,
        help="Tars with more files are rejected.",
        validator=positive,
    )
    verify: Literal["size", "sha256"] = option(
        "size",
        help="What is compared with the manifests of prepared data before the run starts: the "
        "sizes of files, or all of their content.",
    )
    transform: TransformChoice = derived(
        lambda _: {}, help="Image transform.", default_text="imagenet"
    )
    cache: Literal["none", "pixels", "tokens"] = option(
        "none",
        help="What is kept of each image after its first use, for transforms without augmentation: "
        "pixels: its decoded pixels; tokens: its token states, for a frozen image encoder.",
    )
    cache_folder: str | None = option(
        None,
        help="Folder for what is kept, on a disk of this machine; by default renaissance/images in "
        "$XDG_CACHE_HOME, or else in ~/.cache.",
    )
    cache_gib: float = option(
        64.0,
        help="Limit of each cache, GiB; images beyond it are not kept.",
        validator=positive,
    )
    train: tuple[DatasetChoice, ...] = option((), help="Training datasets, concatenated.")
    validate: tuple[DatasetChoice, ...] = option((), help="Validation datasets, concatenated.")

    def read_limits(self) -> ReadLimits:
        """Return the limits of what is read from tables."""
        return ReadLimits(
            record_bytes=self.max_record_bytes,
            text_characters=self.max_text_characters,
            nesting=self.max_nesting,
            tar_members=self.max_tar_members,
        )


@attrs.frozen
class ScheduleSection:
    """Learning rate over the steps: linear warm-up, then decay."""

    decay: Literal["polynomial", "cosine", "constant"] = option(
        "polynomial", help="Shape of the decay."
    )
    power: float = option(1.0, help="Power of the polynomial; 1 is linear.", validator=positive)
    warmup_steps: int | float = option(
        0.1,
        help="Warm-up: steps (an integer), or a fraction of all steps (0.1).",
        validator=[non_negative, steps_or_fraction],
    )
    end_learning_rate: float = option(
        0.0, help="Learning rate at the last step, before multipliers.", validator=non_negative
    )


@attrs.frozen
class TrainSection:
    """The training loop: its length, batch size and precision."""

    max_steps: int | None = option(
        None, help="Optimizer steps; 100,000 if max_epochs is absent too.", validator=positive
    )
    max_epochs: int | None = option(
        None,
        help="Passes over the training data; if max_steps is set too, whichever ends first.",
        validator=positive,
    )
    global_batch_size: int = option(256, help="Samples per optimizer step.", validator=positive)
    micro_batch_size: int | None = option(
        None,
        help="Samples that one rank sends through the model at once; its whole share if absent.",
        validator=positive,
    )
    patience: int | None = option(
        None,
        help="Evaluations in a row without a better checkpoint.best_metric, after which training "
        "ends early.",
        validator=positive,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        help="Precision of forward and backward; auto: bf16 on a CUDA device that has units for "
        "it, else fp32.",
    )
    tf32: bool = option(
        True,
        help="Let matrix products and convolutions of fp32 on a CUDA device round their inputs to "
        "TF32, which is several times faster.",
    )
    residual: Literal["bf16", "fp32"] = option(
        "bf16",
        help="For precision bf16: the dtype of the states between layers in training, and of the "
        "copies of the parameters, which are made once per step. Losses, gradients and the "
        "optimizer are always fp32. fp32: as under autocast alone, slower.",
    )
    ema: float | None = option(
        None,
        help="Share that an exponential moving average of the parameters keeps at each step, such "
        "as 0.9998. The average is what is evaluated and used; training goes on from the "
        "parameters themselves.",
        validator=fraction,
    )
    gradient_clip: float | None = option(
        None, help="Norm that gradients are clipped to.", validator=positive
    )
    gradient_checkpointing: Literal["none", "half", "all"] = option(
        "none",
        help="Layers of encoders and fusion whose activations are recomputed in backward, for less "
        "memory and more time: none, every second one (half), or all.",
    )
    gradient_compression: Literal["none", "bf16"] = option(
        "none",
        help="How ranks exchange gradients. bf16: in half of the bytes, for a slow network; each "
        "rank's gradient, and the sum, are rounded to 8 bits.",
    )
    compile: bool = option(
        False, help="Compile the layers of encoders and fusion with torch.compile."
    )
    parallel: Literal["auto", "ddp", "fsdp"] = option(
        "auto",
        help="What each rank keeps: ddp: the whole network; fsdp: its rows of each parameter, "
        "gradient and optimizer state, so that larger networks fit; auto: fsdp if, as estimated, "
        "only that fits into the GPUs, else ddp.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", help="auto: CUDA if available, else the CPU. mps: Apple's GPU, for one process."
    )
    log_every: int = option(10, help="Steps between log lines.", validator=positive)
    step_timeout: float | None = option(
        None,
        help="Seconds that a step may take, from waiting for data to the update, before every rank "
        "ends and says what it waits for; if absent, 50 times the median of the last 100 steps, at "
        "least 600. The first step may take 30 minutes. A micro-batch of an evaluation may take as "
        "long as a step, but at least 600 seconds, and so may a checkpoint, and a second more for "
        "each 10 MB.",
        validator=positive,
    )


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
        help="Epochs between evaluations; 1 if every_steps is absent too.",
        validator=positive,
    )
    micro_batch_size: int = option(
        32, help="Samples that one rank sends through the model at once.", validator=positive
    )
    num_panel_images: int = option(
        8, help="Images in the TensorBoard panel; 0 for none.", validator=non_negative
    )


@attrs.frozen
class CheckpointSection:
    """When checkpoints are saved, and which are kept."""

    every_steps: int | None = option(
        None,
        help="Steps between checkpoints; there is always one before an evaluation.",
        validator=positive,
    )
    keep_last: int = option(
        2, help="Latest checkpoints to keep, in addition to the best.", validator=positive
    )
    best_metric: str = option(
        "loss", help="Validation metric that chooses the best, such as 'itm/accuracy'."
    )
    best_mode: Literal["min", "max"] | None = option(
        None,
        help="Whether the lowest or the highest value is the best; min for a loss, and needed for "
        "any other metric.",
    )

    @property
    def watches_loss(self) -> bool:
        """Whether the metric that chooses the best is a loss."""
        return self.best_metric.rpartition("/")[2] == "loss"


DEFAULT_MONITORS = ("console", "jsonl", "tensorboard")


@attrs.frozen
class RunSpec:
    """A whole run."""

    run: RunSection = option(factory=RunSection, help="The run.")
    model: ModelSection = option(factory=ModelSection, help="The model.")
    data: DataSection = option(factory=DataSection, help="The data.")
    objectives: tuple[ObjectiveChoice, ...] = option((), help="The objectives.")
    optimizer: OptimizerChoice = derived(lambda _: {}, help="The optimizer.", default_text="adamw")
    schedule: ScheduleSection = option(factory=ScheduleSection, help="The schedule.")
    train: TrainSection = option(factory=TrainSection, help="Training.")
    evaluate: EvaluateSection = option(factory=EvaluateSection, help="Evaluation.")
    checkpoint: CheckpointSection = option(factory=CheckpointSection, help="Checkpoints.")
    monitors: tuple[MonitorChoice, ...] = derived(
        lambda _: [{"type": name} for name in DEFAULT_MONITORS],
        help="Monitors that follow the run; `monitors = []` for none.",
        default_text=", ".join(DEFAULT_MONITORS),
    )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run.output_dir) / self.run.name

    @property
    def loss_weights(self) -> dict[str, float]:
        """The loss weight of each objective, by its name."""
        return {objective.name: objective.weight for objective in self.objectives}


@attrs.frozen(kw_only=True)
class ResolvedTransform(TransformChoice):
    """`[data.transform]`, resolved."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@attrs.frozen(kw_only=True)
class ResolvedData(DataSection):
    """`[data]`, resolved."""

    tokenizer: str
    transform: ResolvedTransform


@attrs.frozen(kw_only=True)
class ResolvedTrain(TrainSection):
    """`[train]`, resolved."""

    max_steps: int
    micro_batch_size: int
    precision: Precision


@attrs.frozen(kw_only=True)
class ResolvedEvaluate(EvaluateSection):
    """`[evaluate]`, resolved."""

    every_steps: int


@attrs.frozen(kw_only=True)
class ResolvedCheckpoint(CheckpointSection):
    """`[checkpoint]`, resolved."""

    every_steps: int
    best_mode: Literal["min", "max"]


@attrs.frozen(kw_only=True)
class ResolvedSpec(RunSpec):
    """A whole run, with every default filled in; see `spec.resolve`."""

    data: ResolvedData
    train: ResolvedTrain
    evaluate: ResolvedEvaluate
    checkpoint: ResolvedCheckpoint
