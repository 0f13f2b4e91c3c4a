"""From the run spec's `[model]` to a model."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from renaissance.contracts.encoder import EncoderContext
from renaissance.contracts.objective import ObjectiveContext
from renaissance.contracts.pooler import Pooler
from renaissance.model.base import VisionLanguageModel
from renaissance.model.one_tower import OneTower
from renaissance.model.two_tower import TwoTower
from renaissance.plugins.loading import Plugins
from renaissance.randomness import keyed_seed
from renaissance.spec.sections import EncoderSpec, ModelSection, ObjectiveSpec, RunSpec

DEFAULT_FUSION = "co-attention"
DEFAULT_POOLER = "double"


def build_model(spec: RunSpec, plugins: Plugins, context: EncoderContext) -> VisionLanguageModel:
    """Build the model; new weights are a function of the run's seed alone.

    Raises:
        PluginError: If a component is unknown.
        RenaissanceError: Whatever a component has to say of its options.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(spec.run.seed, "model"))
        return (
            _two_tower(spec.model, plugins, context)
            if (spec.model.type == "two-tower")
            else _one_tower(spec.model, plugins, context)
        )


def build_objectives(
    spec: RunSpec, plugins: Plugins, model: VisionLanguageModel, tokenizer: Any
) -> nn.ModuleDict:
    """Build the objectives with their heads, by name."""
    objectives = nn.ModuleDict()
    with torch.random.fork_rng(devices=[]):
        for objective in spec.objectives:
            # Each objective's weights depend on its name, not on the objectives before it.
            name = objective.name or objective.type
            torch.manual_seed(keyed_seed(spec.run.seed, "objective", name))
            registration = plugins.require("objective", objective.type)
            context = ObjectiveContext(
                sizes=model.sizes,
                tokenizer=tokenizer,
                make_head=_head_maker(objective, registration.component, plugins),
                root=Path(spec.data.root),
            )
            component: Any = registration.component
            objectives[name] = component(objective.options, context)
    return objectives


def _two_tower(
    section: ModelSection, plugins: Plugins, context: EncoderContext
) -> VisionLanguageModel:
    assert section.text_encoder is not None
    assert section.image_encoder is not None
    fusion = section.fusion
    fusion_class: Any = plugins.require(
        "fusion", fusion.type if fusion else DEFAULT_FUSION
    ).component
    fusion_module = fusion_class(fusion.options if fusion else fusion_class.Options())
    model = TwoTower(
        _encoder(section.text_encoder, plugins, context),
        _encoder(section.image_encoder, plugins, context),
        fusion_module,
        _pooler(section, plugins, fusion_module.hidden_size),
    )
    if section.text_encoder.frozen:
        model.freeze(model.text_encoder)
    if section.image_encoder.frozen:
        model.freeze(model.image_encoder)
    if fusion is not None and fusion.frozen:
        model.freeze(model.fusion)
    return model


def _one_tower(
    section: ModelSection, plugins: Plugins, context: EncoderContext
) -> VisionLanguageModel:
    assert section.encoder is not None
    encoder = _encoder(section.encoder, plugins, context)
    model = OneTower(encoder, _pooler(section, plugins, encoder.hidden_size))
    if section.encoder.frozen:
        model.freeze(model.encoder)
    return model


def _encoder(encoder: EncoderSpec, plugins: Plugins, context: EncoderContext) -> Any:
    component: Any = plugins.require("encoder", encoder.type).component
    return component(encoder.options, context)


def _pooler(section: ModelSection, plugins: Plugins, hidden_size: int) -> Pooler:
    name = section.pooler.type if section.pooler else DEFAULT_POOLER
    component: Any = plugins.require("pooler", name).component
    options = section.pooler.options if section.pooler else component.Options()
    pooler: Pooler = component(options, hidden_size)
    return pooler


def _head_maker(objective: ObjectiveSpec, owner: Any, plugins: Plugins) -> Any:
    def make_head(input_size: int, output_size: int) -> nn.Module:
        name = objective.head.type if objective.head else owner.default_head
        component: Any = plugins.require("head", name).component
        options = objective.head.options if objective.head else component.Options()
        head: nn.Module = component(options, input_size, output_size)
        return head

    return make_head
