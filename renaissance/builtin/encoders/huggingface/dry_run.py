"""A small forward pass after loading a model, to find out which parameters it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from renaissance import EncoderContext, PluginError
from renaissance.builtin.encoders.huggingface.attention import mask_argument
from renaissance.builtin.encoders.huggingface.segments import segment_argument

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

Modality = Literal["text", "image"]

NUM_EXAMPLE_TOKENS = 4


def example_text(context: EncoderContext, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the input ids, (1, tokens) int64, and attention mask, bool, of a short text."""
    num_tokens = min(NUM_EXAMPLE_TOKENS, context.max_text_length)
    input_ids = torch.arange(num_tokens, device=device).unsqueeze(0)
    return input_ids, torch.ones_like(input_ids, dtype=torch.bool)


def example_image(context: EncoderContext, device: torch.device) -> Tensor:
    """Return the pixel values of one image, (1, 3, height, width)."""
    size = context.image_size
    return torch.linspace(-1, 1, 3 * size * size, device=device).view(1, 3, size, size)


def dry_run(
    where: str, model: PreTrainedModel, modality: Modality, context: EncoderContext
) -> Tensor:
    """Return the model's last hidden states for an example, with their autograd graph.

    This works on the meta device too. New tensors are still made on the CPU: some families, such as
    BEiT, cache index tensors for later calls, and cached meta tensors would make later models in
    this process read arbitrary memory.

    Raises:
        PluginError: If the model cannot be called like other models of its modality.
    """
    try:
        with torch.enable_grad(), torch.device("cpu"):
            if modality == "text":
                input_ids, attention_mask = example_text(context, model.device)
                mask = mask_argument(model.config, attention_mask)
                segments = segment_argument(
                    model.config, input_ids, attention_mask, context.separator_id
                )
                output = model(input_ids=input_ids, attention_mask=mask, **segments)
            else:
                output = model(pixel_values=example_image(context, model.device))
    # A family that does not accept these inputs can raise any error.
    except Exception as error:
        raise PluginError(
            f"{where}: {model.config.model_type!r} cannot encode a plain {modality} "
            f"({type(error).__name__}: {error}); fix the config keys that you override, or use "
            "another family"
        ) from error
    states: Tensor = output.last_hidden_state
    return states


def unused_parameters(model: nn.Module, output: Tensor) -> dict[str, nn.Parameter]:
    """Return the parameters that an output does not depend on, by name.

    DDP waits for a gradient of every parameter that requires one, so parameters that never get any
    must not require one. They are those that do not occur in the output's autograd graph.
    """
    used = set()
    seen = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Only leaves of the graph have this attribute: the parameter whose gradient they add up.
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        pending.extend(before for before, _ in node.next_functions)
    return {name: p for name, p in model.named_parameters() if id(p) not in used}
