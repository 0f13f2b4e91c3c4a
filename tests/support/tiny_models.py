"""Tiny random checkpoints of real architectures, written by the library's own save_pretrained."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel, T5Tokenizer

from renaissance import Encoder, EncoderContext

VOCAB_SIZE = 60
IMAGE_SIZE = 32
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
TEXT = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 24}
IMAGE = {"image_size": IMAGE_SIZE, "patch_size": 8}

# Name of the test case: (model_type, config)
TEXT_MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "bert": ("bert", {"hidden_size": 16, **LAYERS, **TEXT}),
    "tinybert": (
        "bert",
        {
            "hidden_size": 36,
            "num_hidden_layers": 4,
            "num_attention_heads": 12,
            "intermediate_size": 40,
            **TEXT,
        },
    ),
    "electra": ("electra", {"hidden_size": 16, "embedding_size": 8, **LAYERS, **TEXT}),
    "roberta": ("roberta", {"hidden_size": 16, "pad_token_id": 1, **LAYERS, **TEXT}),
    "distilbert": (
        "distilbert",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 20, **TEXT},
    ),
}
_BEIT = {"hidden_size": 16, **LAYERS, **IMAGE}
TRANSFORMERS: dict[str, tuple[str, dict[str, object]]] = {
    "vit": ("vit", {"hidden_size": 16, **LAYERS, **IMAGE}),
    "deit": ("deit", {"hidden_size": 16, **LAYERS, **IMAGE}),
    "beit": ("beit", {**_BEIT, "use_relative_position_bias": True}),
    "beit-shared": ("beit", {**_BEIT, "use_shared_relative_position_bias": True}),
    "beit-absolute": (
        "beit",
        {**_BEIT, "use_absolute_position_embeddings": True, "use_mean_pooling": False},
    ),
    "dinov2": (
        "dinov2",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_ratio": 2,
            **IMAGE,
        },
    ),
    "clip": ("clip_vision_model", {"hidden_size": 16, **LAYERS, **IMAGE}),
}
STAGES: dict[str, tuple[str, dict[str, object]]] = {
    "swin": (
        "swin",
        {
            "image_size": IMAGE_SIZE,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 2,
        },
    ),
    "resnet": (
        "resnet",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 12],
            "depths": [1, 2],
            "layer_type": "basic",
            "out_features": ["stage2"],
        },
    ),
    "convnext": (
        "convnext",
        {
            "image_size": IMAGE_SIZE,
            "num_stages": 2,
            "hidden_sizes": [8, 12],
            "depths": [1, 2],
            "out_features": ["stage2"],
        },
    ),
}
IMAGE_MODELS = TRANSFORMERS | STAGES
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ROTARY_TEXT: dict[str, tuple[str, dict[str, object]]] = {
    "modernbert": (
        "modernbert",
        {
            "hidden_size": 16,
            **LAYERS,
            **TEXT,
            **_SPECIAL,
            "num_hidden_layers": 3,
            "cls_token_id": 2,
            "sep_token_id": 3,
        },
    ),
    "eurobert": ("eurobert", {"hidden_size": 16, **LAYERS, **TEXT, **_SPECIAL}),
    "nomic_bert": ("nomic_bert", {"hidden_size": 16, **LAYERS, **TEXT}),
    "gte": ("gte", {"hidden_size": 16, **LAYERS, **TEXT, **_NO_DROPOUT}),
}
ROTARY_IMAGE: dict[str, tuple[str, dict[str, object]]] = {
    "dinov3": ("dinov3_vit", {"hidden_size": 16, "num_register_tokens": 3, **LAYERS, **IMAGE}),
}


def save_model(folder: Path, name: str, **overrides: object) -> PreTrainedModel:
    """Write a checkpoint and return the model, in evaluation mode.

    Every weight is drawn anew: many of the library's own initial weights are zeros, which would
    hide a forgotten bias or position.
    """
    known = TEXT_MODELS | IMAGE_MODELS | ROTARY_TEXT | ROTARY_IMAGE
    model_type, config = known[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIG_MAPPING[model_type](**{**config, **overrides}))
    return save(folder, model)


def save(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Draw every weight of a model anew and write it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    model.save_pretrained(folder)
    return model.eval()


def sentence_pieces() -> T5Tokenizer:
    """Return a tokenizer of T5 with a few words and letters."""
    words = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "\u2581photo", "\u2581of"]
    words += "abcdefghijklmnopqrstuvwxyz"
    return T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)


def context(**overrides: object) -> EncoderContext:
    values = {"image_size": IMAGE_SIZE, "max_text_length": 12, "vocab_size": VOCAB_SIZE}
    return EncoderContext(**{**values, **overrides})


def texts() -> tuple[Tensor, Tensor]:
    """Three texts of 9, 6 and 3 tokens, padded to 9 with token 1."""
    generator = torch.Generator().manual_seed(2)
    input_ids = torch.randint(5, VOCAB_SIZE, (3, 9), generator=generator)
    attention_mask = torch.arange(9) < torch.tensor([[9], [6], [3]])
    return input_ids.masked_fill(~attention_mask, 1), attention_mask


def images(size: int = IMAGE_SIZE, number: int = 3) -> Tensor:
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(3))


def without_dropout(name: str) -> dict[str, float]:
    """Return the config keys that make training a function of the weights alone."""
    if name == "distilbert":
        return {"dropout": 0.0, "attention_dropout": 0.0}
    if name in TEXT_MODELS:
        return {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {"drop_path_rate": 0.0} if name.startswith(("beit", "swin")) else {}


def count_linear_calls(encoder: Encoder) -> list[nn.Module]:
    """Return a list that grows by one whenever a linear layer runs."""
    calls: list[nn.Module] = []
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda module, _: calls.append(module))
    return calls


def gradient_names(encoder: Encoder, states: Tensor) -> tuple[set[str], set[str]]:
    """Names of the parameters that ask for a gradient, and of those that get one."""
    # Squares, because the plain sum of normalized states has no gradient.
    states.square().sum().backward()
    asking = {name for name, p in encoder.named_parameters() if p.requires_grad}
    return asking, {name for name, p in encoder.named_parameters() if p.grad is not None}
