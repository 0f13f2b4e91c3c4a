"""One small forward pass when a model is loaded, to learn what it does with its parameters."""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from renaissance import EncoderContext, PluginError
from renaissance.builtin.encoders.huggingface.attention import mask_argument
from renaissance.builtin.encoders.huggingface.segments import segment_argument

Modality = Literal["text", "image"]

NUM_EXAMPLE_TOKENS = 4


def example_text(context: EncoderContext, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the input ids, (1, tokens) int64, and attention mask, bool, of a short text."""
    num_tokens = min(NUM_EXAMPLE_TOKENS, context.max_text_length)
    input_ids = torch.arange(num_tokens, device=device).unsqueeze(0)
    return input_ids, torch.ones_like(input_ids, dtype=torch.bool)


def example_image(context: EncoderContext, device: torch.device) -> Tensor:
    """Return the pixel values of an image, (1, 3, height, width)."""
    size = context.image_size
    return torch.linspace(-1, 1, 3 * size * size, device=device).view(1, 3, size, size)


def dry_run(
    where: str, model: PreTrainedModel, modality: Modality, context: EncoderContext
) -> Tensor:
    """Return the model's last hidden states of an example, with the graph that made them.

    Works on the meta device too, where nothing is computed. Indices that a family keeps for later
    calls, as BEiT does, are real even then: left on the meta device, they would make later models
    of this process read arbitrary memory.

    Raises:
        PluginError: If the model cannot be called like its kin.
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
    # The library reports inputs that a family does not take by whatever error it runs into.
    except Exception as error:
        raise PluginError(
            f"{where}: {model.config.model_type!r} cannot encode a plain {modality} "
            f"({type(error).__name__}: {error}); mend the config keys that you override, or use "
            "another family"
        ) from error
    states: Tensor = output.last_hidden_state
    return states


def unused_parameters(model: nn.Module, output: Tensor) -> dict[str, nn.Parameter]:
    """Return the parameters that an output does not depend on, by name.

    Distributed training waits for a gradient of every parameter, so one that never gets any must
    not ask for it. Which those are is read off the graph that made the output.
    """
    used = set()
    seen = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Leaves of the graph, and they alone, hold the parameter that they accumulate into.
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        pending.extend(before for before, _ in node.next_functions)
    return {name: p for name, p in model.named_parameters() if id(p) not in used}
