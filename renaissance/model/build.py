"""From a run spec to a model and its objectives."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import attrs
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.encoder import EncoderContext
from renaissance.contracts.features import NotFusedError
from renaissance.contracts.head import Head
from renaissance.contracts.objective import ObjectiveContext
from renaissance.contracts.training_data import TrainingData
from renaissance.errors import PluginError, SpecError
from renaissance.model.base import VisionLanguageModel
from renaissance.model.lora import adapt
from renaissance.randomness import keyed_seed
from renaissance.spec.architectures import ARCHITECTURES, DUAL_ENCODER
from renaissance.spec.choice import EncoderChoice, FusionChoice, ObjectiveChoice
from renaissance.spec.sections import ModelSection, RunSpec


def build_model(spec: RunSpec, context: EncoderContext) -> VisionLanguageModel:
    """Build the model; new parameters depend on the run's seed alone.

    Args:
        spec: The run spec.
        context: Its `saved` holds one folder for each encoder, named after its table.

    Raises:
        RenaissanceError: If a component rejects its options.
    """
    architecture = ARCHITECTURES[spec.model.type]
    module, name = architecture.model if spec.model.fuses else DUAL_ENCODER
    make: type[VisionLanguageModel] = getattr(import_module(module), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(spec.run.seed, "model"))
        parts: dict[str, nn.Module] = {}
        if spec.model.fusion is not None and spec.model.fuses:
            parts["fusion"] = spec.model.fusion.build()
        for table, encoder in encoders_of(spec.model).items():
            parts[table] = encoder.build(_at(context, table))
        if spec.model.pooler is not None:
            # It reads the output of the fusion, or of the joint encoder: the first part.
            fused = next(iter(parts.values()))
            hidden_size = int(fused.hidden_size)  # type: ignore[arg-type]
            parts["pooler"] = spec.model.pooler.build(hidden_size)
        model = make(**parts)
        for part in architecture.tables:
            if part in parts:
                _adapt_or_freeze(model, part, parts[part], getattr(spec.model, part))
    return model


def _adapt_or_freeze(
    model: VisionLanguageModel, name: str, part: nn.Module, choice: EncoderChoice | FusionChoice
) -> None:
    if isinstance(choice, EncoderChoice) and choice.adapt is not None:
        adapt(name, part, choice.adapt)
        return
    num_trained = choice.num_trained_layers if isinstance(choice, EncoderChoice) else None
    if num_trained is None:
        if choice.frozen:
            model.freeze(part)
        return
    try:
        model.freeze_all_but(part, num_trained)
    except ValueError as error:
        raise SpecError(f"model.{name}.frozen: got {choice.frozen!r}, but {error}") from error


def _at(context: EncoderContext, table: str) -> EncoderContext:
    """Return the context with the folder of one encoder in place of that of all."""
    saved = None if context.saved is None else context.saved / table
    return attrs.evolve(context, saved=saved if saved and saved.is_dir() else None)


def encoders_of(section: ModelSection) -> dict[str, EncoderChoice]:
    """Return the model's encoders, by their tables in the spec."""
    return {table: getattr(section, table) for table in ARCHITECTURES[section.type].encoders}


def build_objectives(
    spec: RunSpec,
    model: VisionLanguageModel,
    tokenizer: PreTrainedTokenizerFast,
    data_of: Callable[[str], TrainingData],
) -> nn.ModuleDict:
    """Build the objectives with their heads, by name; `data_of` gives what each may know.

    Raises:
        NotFusedError: If the model fuses no pairs, naming the objectives that read them.
    """
    objectives = nn.ModuleDict()
    not_fused = []
    with torch.random.fork_rng(devices=[]):
        for objective in spec.objectives:
            # Seeded by name, so that adding an objective does not change the others' parameters.
            torch.manual_seed(keyed_seed(spec.run.seed, "objective", objective.name))
            context = ObjectiveContext(
                sizes=model.sizes,
                tokenizer=tokenizer,
                make_head=_Heads(objective),
                root=Path(spec.data.root),
                data=data_of(objective.name),
                text_summary=model.text_summary,
                image_summary=model.image_summary,
                text_contrast=model.text_contrast,
                image_contrast=model.image_contrast,
            )
            try:
                objectives[objective.name] = objective.build(context)
            except NotFusedError:
                not_fused.append(objective.name)
    if not_fused:
        raise NotFusedError(*not_fused)
    return objectives


class _Heads:
    """Makes the heads of one objective."""

    def __init__(self, objective: ObjectiveChoice) -> None:
        self._objective = objective

    def __call__(self, input_size: int, output_size: int) -> Head:
        if self._objective.head is None:
            raise PluginError(
                f"objective '{self._objective.type}' makes a head, but names none; set the "
                "class attribute default_head"
            )
        return self._objective.head.build(input_size, output_size)
