"""The layers of a Hugging Face model, taken out to run over tokens of both modalities."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from inspect import signature
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from renaissance import PluginError, Tokens, compute_dtype
from renaissance.builtin.encoders.huggingface.calls import Calls
from renaissance.builtin.encoders.huggingface.image_bias import ImageBias
from renaissance.builtin.encoders.huggingface.rotary import ANGLES, Angles, Rotary, Window

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
        rotary: Rotary positions, if the model has them.

    Attributes:
        window: Local attention of some layers between text tokens; None if there is none.
        recomputed: Indices of layers whose activations are recomputed in the backward pass.
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        final_norm: nn.Module,
        image_bias: ImageBias | None,
        rotary: Rotary | None,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.final_norm = final_norm
        self.image_bias = image_bias
        self.rotary = rotary
        self.window: Window | None = None
        self.recomputed = range(0)

    def forward(self, tokens: Tokens) -> Tokens:
        """Run the stack; every layer gets the mask, if there is one."""
        states = tokens.hidden_states
        masks, angles = self._masks(tokens), self._angles(tokens)
        for index in range(len(self.layers)):
            arguments = (index, states, masks[index], angles[index])
            if index in self.recomputed and self.training:
                states = checkpoint(self._run_layer, *arguments, use_reentrant=False)
            else:
                states = self._run_layer(*arguments)
        return tokens.with_states(self.final_norm(states))

    def _masks(self, tokens: Tokens) -> list[Tensor | None]:
        """Return the mask of each layer; `image_bias` makes its own of a plain one."""
        if self.image_bias is not None:
            # Without padding, one row of biases serves all.
            one = tokens if tokens.has_mask else tokens.map(lambda part: part[:1])
            return [one.attention_mask[:, None, None, :]] * len(self.layers)
        dtype = compute_dtype(tokens.hidden_states)
        mask = tokens.bias(dtype)
        local = None if self.window is None else self.window.bias(tokens, dtype)
        if self.window is None or local is None:
            return [mask] * len(self.layers)
        return [local if is_local else mask for is_local in self.window.is_local]

    def _angles(self, tokens: Tokens) -> list[Angles | None]:
        if self.rotary is None:
            return [None] * len(self.layers)
        angles: list[Angles] = self.rotary(tokens)
        return [angles[kind] for kind in self.rotary.kind_of]

    def _run_layer(
        self, index: int, states: Tensor, mask: Tensor | None, angles: Angles | None
    ) -> Tensor:
        if self.image_bias is not None:
            mask = self.image_bias(index, mask)
        more = {} if angles is None else {ANGLES: angles}
        output: Tensor = self.layers[index](states, attention_mask=mask, **more)
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
    calls = Calls(model, run)
    norm_name = _find_final_norm(where, model, layers[-1], calls)
    rotary = Rotary.take_from(model, layers, calls)
    final_norm = model.get_submodule(norm_name) if norm_name else nn.Identity()
    model.set_submodule(layers_name, nn.ModuleList())
    if norm_name:
        model.set_submodule(norm_name, nn.Identity())
    image_bias = ImageBias.take_from(model, layers)
    return JointStack(layers, final_norm, image_bias, rotary), calls.output.detach()


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


def _find_final_norm(
    where: str, model: PreTrainedModel, last_layer: nn.Module, calls: Calls
) -> str | None:
    """Return the name of the module that turns the last layer's output into the model's."""
    last_states, output = calls.of(last_layer)[-1].output, calls.output
    if output is last_states:
        return None
    name: str
    for name, module in model.named_modules():
        if any(call.first is last_states and call.output is output for call in calls.of(module)):
            return name
    raise PluginError(
        f"{where}: {model.config.model_type!r} does more than one thing between its last layer "
        f"and its output; {REMEDY}"
    )
