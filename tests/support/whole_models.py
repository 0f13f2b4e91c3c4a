"""Tiny models of texts and images, and what the library encodes with their parts."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, CLIPTokenizer, PreTrainedModel

from support.tiny_models import IMAGE, LAYERS, TEXT, save

SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
TEXT_PART = {"hidden_size": 16, **LAYERS, **TEXT, **SPECIAL}
IMAGE_PART = {"hidden_size": 16, **LAYERS, **IMAGE}


@attrs.frozen
class WholeModel:
    """A family of models of texts and images.

    Attributes:
        title: What it is called in papers.
        text: Config keys of the text part besides the usual ones.
        image: Config keys of the image part besides the usual ones.
        other: Config keys of the whole.
        image_part: Name of the image part.
    """

    title: str
    text: Mapping[str, object] = {}
    image: Mapping[str, object] = {}
    other: Mapping[str, object] = {}
    image_part: str = "vision"


# By model_type.
WHOLE_MODELS = {
    "aimv2": WholeModel("AIMv2"),
    "align": WholeModel(
        "ALIGN",
        image={
            "width_coefficient": 0.1,
            "depth_coefficient": 0.1,
            "hidden_dim": 8,
            "in_channels": [8, 8],
            "out_channels": [8, 8],
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "num_block_repeats": [1, 1],
            "expand_ratios": [1, 2],
            "depthwise_padding": [],
        },
        # As wide as its images, which it does not project.
        other={"projection_dim": 8},
    ),
    "altclip": WholeModel("AltCLIP", text={"project_dim": 16}),
    "blip": WholeModel("BLIP"),
    # Its heads are 64 wide.
    "bridgetower": WholeModel(
        "BridgeTower",
        text={"hidden_size": 64},
        image={"hidden_size": 64},
        other={"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1},
    ),
    "chinese_clip": WholeModel("Chinese-CLIP"),
    "clip": WholeModel("CLIP, MetaCLIP, OpenCLIP"),
    "clipseg": WholeModel("CLIPSeg"),
    "flava": WholeModel(
        "FLAVA",
        other={
            "hidden_size": 16,
            "projection_dim": 8,
            "multimodal_config": {"hidden_size": 16, **LAYERS},
            "image_codebook_config": {"hidden_size": 4, "num_groups": 1, "vocab_size": 8},
        },
        image_part="image",
    ),
    "groupvit": WholeModel(
        "GroupViT",
        image={
            "depths": [1, 1, 1],
            "num_group_tokens": [6, 3, 0],
            "num_output_groups": [6, 3, 0],
        },
    ),
    "metaclip_2": WholeModel("MetaCLIP 2"),
    "owlv2": WholeModel("OWLv2"),
    "owlvit": WholeModel("OWL-ViT"),
    "siglip": WholeModel("SigLIP, SigLIP 2 of fixed size", text={"projection_size": 16}),
    "siglip2": WholeModel(
        "SigLIP 2 NaFlex", text={"projection_size": 16}, image={"num_patches": 16}
    ),
    "vision-text-dual-encoder": WholeModel("LiT, any two towers"),
    "xclip": WholeModel("X-CLIP", other={"projection_dim": 16}),
}


def make_whole(family: str) -> PreTrainedModel:
    """Return a tiny model with the library's own initial weights."""
    made = WHOLE_MODELS[family]
    parts: dict[str, object] = {
        "text_config": {**TEXT_PART, **made.text},
        f"{made.image_part}_config": {**IMAGE_PART, **made.image},
    }
    if family == "vision-text-dual-encoder":
        parts["text_config"] = {"model_type": "bert", **TEXT_PART}
        parts["vision_config"] = {"model_type": "vit", **IMAGE_PART}
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIG_MAPPING[family](**parts, **made.other))


def dual_encoder_of_a_clip(folder: Path) -> list[str]:
    """Write a tiny CLIP with a tokenizer, and return settings of a run with both its towers."""
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"{letter}</w>" for letter in words[2:]]
    vocabulary = {word: index for index, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    save(folder, make_whole("clip"))
    checkpoint = f'checkpoint = "{folder}"'
    return [
        f'model.text_encoder={{type = "hf-text", {checkpoint}}}',
        f'model.image_encoder={{type = "hf-image", {checkpoint}}}',
        'model.fusion={type = "none"}',
        'objectives=[{type = "itc"}]',
        f'data.tokenizer="{folder}"',
        "data.image_size=32",
    ]


def text_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return what the library encodes with the text part."""
    states: Tensor = model.text_model(
        input_ids=input_ids, attention_mask=attention_mask.long()
    ).last_hidden_state
    return states


def image_states(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Return what the library encodes with the image part, (images, tokens, hidden)."""
    part = getattr(model, f"{WHOLE_MODELS[model.config.model_type].image_part}_model")
    states: Tensor
    if isinstance(model, transformers.BridgeTowerModel):
        # The last of all layers.
        states = part(pixel_values)[-1]
    elif isinstance(model, transformers.Siglip2Model):
        size = model.config.vision_config.patch_size
        # Their values are in the order rows, columns, channels.
        patches = torch.nn.functional.unfold(pixel_values, size, stride=size).transpose(1, 2)
        patches = patches.unflatten(2, (3, size * size)).transpose(2, 3).flatten(2)
        grid = torch.tensor([[side // size for side in image.shape[1:]] for image in pixel_values])
        mask = torch.ones(patches.shape[:2], dtype=torch.int64)
        states = part(
            pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=grid
        ).last_hidden_state
    else:
        states = part(pixel_values=pixel_values).last_hidden_state
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
