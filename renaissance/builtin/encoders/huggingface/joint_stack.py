"""The layers of a Hugging Face model, taken out to run over tokens of both modalities."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from inspect import signature
from typing import TYPE_CHECKING

import attrs
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from renaissance import PluginError, Tokens, compute_dtype
from renaissance.builtin.encoders.huggingface.image_bias import ImageBias

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

REMEDY = (
    "use one of BERT, RoBERTa, ELECTRA, DistilBERT, ViT, DeiT, BEiT and CLIP, or this one in a "
    "two-tower model"
)


class JointStack(nn.Module):
    """Layers, and the final norm of a pre-norm model.

    Args:
        layers: Each takes states, (rows, tokens, hidden), and an `attention_mask` that is added to
            its scores, or None.
        final_norm: Applied after the last layer.
        image_bias: Relative position bias between image tokens, if the model has one.
    """

    def __init__(
        self, layers: nn.ModuleList, final_norm: nn.Module, image_bias: ImageBias | None
    ) -> None:
        super().__init__()
        self.layers = layers
        self.final_norm = final_norm
        self.image_bias = image_bias
        self.gradient_checkpointing = False

    def forward(self, tokens: Tokens) -> Tokens:
        """Run the stack; every layer gets the mask, if there is one."""
        states = tokens.hidden_states
        mask: Tensor | None
        if self.image_bias is None:
            mask = tokens.bias(compute_dtype(states))
        else:
            # Without padding, one row of biases serves all.
            mask = (tokens if tokens.has_mask else tokens.map(lambda part: part[:1])).attention_mask
            mask = mask[:, None, None, :]
        for index in range(len(self.layers)):
            if self.gradient_checkpointing and self.training:
                states = checkpoint(self._run_layer, index, states, mask, use_reentrant=False)
            else:
                states = self._run_layer(index, states, mask)
        return tokens.with_states(self.final_norm(states))

    def _run_layer(self, index: int, states: Tensor, mask: Tensor | None) -> Tensor:
        if self.image_bias is not None:
            mask = self.image_bias(index, mask)
        output: Tensor = self.layers[index](states, attention_mask=mask)
        return output


def take_stack(
    where: str, model: PreTrainedModel, run: Callable[[], Tensor]
) -> tuple[JointStack, Tensor]:
    """Take the layers out of a model, which then only embeds its own modality.

    Modules are found by structure, not by name, because the library renames attributes between
    releases: the layers are the list of `num_hidden_layers` modules of one class, and the final
    norm is the module that turns the last layer's output into the model's.

    Args:
        where: Name of the encoder, with which messages begin.
        model: The model; without its layers and final norm, it returns its embeddings.
        run: Runs the model on an example and returns its last hidden states.

    Returns:
        The stack, and the output of the whole model for the example.

    Raises:
        PluginError: If the model is built differently.
    """
    layers_name, layers = _find_layers(where, model)
    _check_layer(where, model, layers[0])
    norm_name, output = _find_final_norm(where, model, layers[-1], run)
    final_norm = model.get_submodule(norm_name) if norm_name else nn.Identity()
    model.set_submodule(layers_name, nn.ModuleList())
    if norm_name:
        model.set_submodule(norm_name, nn.Identity())
    return JointStack(layers, final_norm, ImageBias.take_from(model, layers)), output.detach()


def _find_layers(where: str, model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    family = model.config.model_type
    if hasattr(model.config, "depths"):
        raise PluginError(
            f"{where}: {family!r} works in stages, which change the width and the number of its "
            f"tokens, so text cannot run through it; {REMEDY}"
        )
    num_layers = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == num_layers
            and len({type(layer) for layer in module}) == 1
        ):
            return name, module
    raise PluginError(
        f"{where}: {family!r} is not a stack of {num_layers} layers of one class; {REMEDY}"
    )


def _check_layer(where: str, model: PreTrainedModel, layer: nn.Module) -> None:
    # Without a mask in every layer, tokens would attend to padding.
    lacking = []
    if "attention_mask" not in signature(layer.forward).parameters:
        lacking.append("take no attention mask")
    if not model._supports_sdpa:
        lacking.append("have no SDPA attention")
    if lacking:
        raise PluginError(
            f"{where}: the layers of {model.config.model_type!r} {' and '.join(lacking)} in "
            f"transformers {version('transformers')}; {REMEDY}"
        )


@attrs.frozen
class _Call:
    argument: object
    output: object


def _find_final_norm(
    where: str, model: PreTrainedModel, last_layer: nn.Module, run: Callable[[], Tensor]
) -> tuple[str | None, Tensor]:
    calls: dict[str, _Call] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def record(module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
            calls[name] = _Call(arguments[0] if arguments else None, output)

        return record

    names = {module: name for name, module in model.named_modules()}
    hooks = [module.register_forward_hook(recorder(name)) for module, name in names.items()]
    try:
        output = run()
    finally:
        for hook in hooks:
            hook.remove()
    last_states = calls[names[last_layer]].output
    if output is last_states:
        return None, output
    for name, call in calls.items():
        if call.argument is last_states and call.output is output:
            return name, output
    raise PluginError(
        f"{where}: {model.config.model_type!r} does more than one thing between its last layer "
        f"and its output; {REMEDY}"
    )
