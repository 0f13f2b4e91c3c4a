"""A Hugging Face text model as a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from renaissance import Encoder, EncoderContext, Packing, Tokens, compute_dtype, own_precision
from renaissance.builtin.encoders.huggingface.attention import mask_argument
from renaissance.builtin.encoders.huggingface.packing import PACKING_FAMILIES, first_position
from renaissance.builtin.encoders.huggingface.positions import resized_text_table
from renaissance.builtin.encoders.huggingface.precision import FOLLOWING_FAMILIES, first_weight
from renaissance.builtin.encoders.huggingface.pretrained import (
    PretrainedOptions,
    enable_checkpointing,
    load_text_model,
    save_config,
)
from renaissance.builtin.encoders.huggingface.segments import segment_argument

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFTextEncoder(Encoder):
    """BERT, ELECTRA, RoBERTa, DistilBERT and other bidirectional text models.

    Of SigLIP, FLAVA and other models of several modalities, the text part; of T5, the encoder.
    CLIP's text part, too, whose tokens do not see those after them: masked language modelling on it
    is pointless.

    Args:
        options: Which model.
        context: What to know about the run.

    Raises:
        RenaissanceError: If the model cannot be loaded, or does not support the run's texts.

    Attributes:
        weights_source: Where the weights come from, in words.
    """

    modalities = frozenset({"text"})

    @attrs.frozen
    class Options(PretrainedOptions):
        """Options of hf-text."""

    @classmethod
    def checkpoint_of(cls, options: Options) -> str | None:
        """Return the checkpoint, which also determines tokenizer and normalization."""
        return options.checkpoint

    @classmethod
    def save_config(cls, options: Options, folder: Path) -> None:
        """Write the model's config.json, as it is before keys are overridden."""
        save_config("hf-text", options, folder)

    def __init__(self, options: Options, context: EncoderContext) -> None:
        super().__init__()
        loaded = load_text_model("hf-text", options, context, may_be_causal=True)
        self.model = loaded.model
        self.hidden_size = loaded.hidden_size
        self.contrast = loaded.contrast
        self.mask_form = loaded.mask_form
        self.text_summary = "first" if context.starts_with_class else "mean"
        if loaded.is_causal:
            self.text_summary = "eos"
        self.weights_source = options.weights_source
        self.follows_dtype = self.model.config.model_type in FOLLOWING_FAMILIES
        self._options = options
        self.separator_id = context.separator_id

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        """Encode texts, (texts, tokens) int64 to (texts, tokens, hidden)."""
        weight = first_weight(self.model)
        mask = mask_argument(attention_mask, self.mask_form, compute_dtype(weight))
        segments = segment_argument(self.model.config, input_ids, attention_mask, self.separator_id)
        with own_precision(weight):
            output = self.model(input_ids=input_ids, attention_mask=mask, **segments)
        return Tokens(output.last_hidden_state, attention_mask)

    def encode_packed(self, input_ids: Tensor, attention_mask: Tensor, packing: Packing) -> Tokens:
        """Encode texts, several in one row, where the family allows it."""
        config = self.model.config
        if config.model_type not in PACKING_FAMILIES or self.mask_form != "bias":
            return self.encode_text(input_ids, attention_mask)
        weight = first_weight(self.model)
        segments = segment_argument(config, input_ids, attention_mask, self.separator_id)
        with own_precision(weight):
            output = self.model(
                input_ids=packing.pack(input_ids, config.pad_token_id),
                attention_mask=packing.bias(compute_dtype(weight)),
                position_ids=packing.position_ids + first_position(config),
                **{name: packing.pack(values, 0) for name, values in segments.items()},
            )
        states = packing.unpack(output.last_hidden_state, *input_ids.shape)
        return Tokens(states, attention_mask)

    def fit_tensor(self, name: str, tensor: Tensor) -> Tensor | None:
        """Truncate a position table, or extend it by this model's; None for any other tensor."""
        return resized_text_table(name, tensor, self.state_dict()[name])

    def transformers_model(self) -> PreTrainedModel | None:
        """Return the wrapped model, if its class is a public one of transformers."""
        import transformers

        return self.model if hasattr(transformers, type(self.model).__name__) else None

    def check_weights(self) -> None:
        """Check the checkpoint's weight files by their headers and sizes."""
        self._options.check_weights("hf-text")

    def enable_gradient_checkpointing(self, every_n_layers: int = 1) -> None:
        """Recompute activations of layers in the backward pass."""
        enable_checkpointing(self.model, every_n_layers)
