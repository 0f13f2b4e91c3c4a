"""LXMERT (Tan and Bansal, 2019): a checkpoint of its authors' code or of transformers.

Its language layers are a BERT, and its cross-modality layers the fusion `lxmert`. Its images are
regions that a detector found, which no image encoder gives, so another image encoder takes their
place.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, LxmertConfig

from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.huggingface.configs import read_config
from renaissance.builtin.encoders.huggingface.families import image_config
from renaissance.builtin.encoders.huggingface.sizes import pair
from renaissance.contracts.encoder import EncoderContext
from renaissance.convert.fusion_layers import LXMERT, convert_layers, count_layers
from renaissance.convert.heads import Heads, take
from renaissance.convert.target import Target
from renaissance.convert.towers import load_tower
from renaissance.convert.weights import CONFIG, Weights
from renaissance.errors import CheckpointError
from renaissance.model.base import NUM_TOKEN_TYPES

# What names begin with: of data parallel training, of the authors' code, and of transformers.
PREFIXES = ("module.", "bert.", "lxmert.")
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
LAYERS, CROSS_LAYERS = "encoder.layer.", "encoder.x_layers."
INTERMEDIATE = f"{LAYERS}0.intermediate.dense.weight"
CROSS_INTERMEDIATE = f"{CROSS_LAYERS}0.lang_inter.dense.weight"
# Its heads by the names that `Heads` knows.
HEADS = {
    "cls.predictions.": "mlm_score.",
    "cls.seq_relationship.": "itm_score.fc.",
    "answer_head.logit_fc.0.": "vqa_classifier.0.",
    "answer_head.logit_fc.2.": "vqa_classifier.1.",
    "answer_head.logit_fc.3.": "vqa_classifier.3.",
}
DECODER = "mlm_score.decoder.weight"
HEAD_SIZE = 64
MAX_TEXT_LENGTH = 40
DEFAULT_IMAGE_SIZE = 224
# Keys of the config that BERT's has, too; the number of layers has another name.
SHARED_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
# The activation of our fusion layers.
ACTIVATION = "gelu"


def convert_lxmert(weights: Weights, image_encoder: str) -> Target:
    """Return the two-tower run that an LXMERT becomes with another image encoder.

    Args:
        weights: The checkpoint.
        image_encoder: Hub id or folder of the image encoder.

    Raises:
        CheckpointError: If it is no LXMERT, or lacks weights.
        RenaissanceError: If the image encoder cannot be loaded.
    """
    tensors = {_named(name): tensor for name, tensor in weights.tensors.items()}
    needed = (WORDS, POSITIONS, TYPES, INTERMEDIATE, CROSS_INTERMEDIATE)
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise CheckpointError(
            f"{weights.source}: no LXMERT: it has no {', '.join(missing)}; expected a checkpoint "
            "of the authors' code or of transformers' LxmertModel"
        )
    config = _config(weights, tensors)
    size = _image_size(image_encoder)
    length = min(MAX_TEXT_LENGTH, config.max_position_embeddings)
    context = EncoderContext(size, length, config.vocab_size)
    text_config = _text_config(config)
    text_names = ("embeddings.", LAYERS)
    text = {n: t for n, t in tensors.items() if n.startswith(text_names)}
    layers, used = convert_layers(tensors, CROSS_LAYERS, LXMERT)
    options = HFImageEncoder.Options(checkpoint=image_encoder)
    image = HFImageEncoder(options, context).state_dict()
    taken = {
        **load_tower("text_encoder", BertConfig(**text_config), text, context),
        **{f"model.image_encoder.{name}": tensor for name, tensor in image.items()},
        **_without_effect(config.hidden_size),
        **layers,
        **take(tensors, "pooler.dense", "model.pooler.text.dense"),
    }
    if "mlm_score.bias" in tensors:
        # transformers ties the projection to the words.
        tensors.setdefault(DECODER, tensors[WORDS])
    heads = Heads(tensors, _labels(config, tensors))
    used |= {n for n in tensors if n.startswith((*text_names, "pooler."))}
    rest = {n: t for n, t in tensors.items() if n not in {*used, *heads.names}}
    tables = {
        "model": {
            "type": "two-tower",
            "text_encoder": {"type": "hf-text", "architecture": "bert", "config": text_config},
            "image_encoder": {"type": "hf-image", "checkpoint": image_encoder},
            "fusion": {
                "type": "lxmert",
                "hidden_size": config.hidden_size,
                "num_layers": count_layers(tensors, CROSS_LAYERS),
                "num_heads": config.num_attention_heads,
                "mlp_ratio": len(tensors[CROSS_INTERMEDIATE]) / config.hidden_size,
            },
            "pooler": {"type": "single"},
        },
        "data": {"image_size": size, "max_text_length": length, **heads.datasets()},
        "objectives": _objectives(heads),
    }
    notes = {
        "model.image_encoder": f"from {image_encoder}",
        "model.text_projection": "LXMERT has none: it changes nothing at first",
        "model.token_type_embeddings": "LXMERT has none: they are 0 at first",
    }
    return Target(tables, {**taken, **heads.tensors}, rest, heads.answers, notes)


def _named(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for theirs, ours in HEADS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _config(weights: Weights, tensors: Mapping[str, Tensor]) -> LxmertConfig:
    """Return the config in the folder, or what shapes tell."""
    if weights.folder is None:
        vocab_size, hidden_size = tensors[WORDS].shape
        return LxmertConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_attention_heads=max(1, hidden_size // HEAD_SIZE),
            intermediate_size=len(tensors[INTERMEDIATE]),
            max_position_embeddings=len(tensors[POSITIONS]),
            type_vocab_size=len(tensors[TYPES]),
            l_layers=count_layers(tensors, LAYERS),
        )
    try:
        config = LxmertConfig.from_dict(dict(weights.settings))
    # The library rejects values with errors of many classes.
    except Exception as error:
        raise CheckpointError(
            f"{weights.folder / CONFIG}: no config of an LXMERT: {error}"
        ) from error
    if config.hidden_act != ACTIVATION:
        raise CheckpointError(
            f"{weights.folder / CONFIG}: hidden_act is {config.hidden_act!r}, but the fusion "
            f"'lxmert' computes with {ACTIVATION!r}; take a checkpoint with that"
        )
    return config


def _text_config(config: LxmertConfig) -> dict[str, Any]:
    shared = {key: getattr(config, key) for key in SHARED_KEYS}
    return {**shared, "num_hidden_layers": config.l_layers}


def _image_size(image_encoder: str) -> int:
    config = image_config(read_config("image_encoder", image_encoder, None))
    size = getattr(config, "image_size", None)
    return DEFAULT_IMAGE_SIZE if size is None else int(max(pair(size)))


def _without_effect(hidden_size: int) -> dict[str, Tensor]:
    """Return what stands before our fusion and LXMERT has not, so that texts pass unchanged."""
    return {
        "model.text_projection.weight": torch.eye(hidden_size),
        "model.text_projection.bias": torch.zeros(hidden_size),
        "model.token_type_embeddings.weight": torch.zeros(NUM_TOKEN_TYPES, hidden_size),
    }


def _labels(config: LxmertConfig, tensors: Mapping[str, Tensor]) -> Mapping[int, str]:
    """Return the names of the answers, if the config has one for each."""
    labels: dict[int, str] = config.id2label or {}
    num_answers = len(tensors.get("vqa_classifier.3.weight", ()))
    return labels if len(labels) == num_answers else {}


def _objectives(heads: Heads) -> list[dict[str, Any]]:
    tables = heads.tables()
    for table in tables:
        if table["type"] == "vqa":
            table["head"]["norm"] = "after"
    return tables or [{"type": "itm"}]
