"""`renaissance convert --from renaissance`: checkpoints of the earlier Renaissance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.collating import word_pieces
from support.command_line import renaissance
from support.tiny_models import images, save_model
from torch import Tensor, nn
from transformers import LxmertConfig
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from renaissance import Pairs, load

HIDDEN, HEADS, LAYERS = 8, 2, 2


class Earlier(nn.Module):
    """What its code has around its towers, by its names."""

    def __init__(self) -> None:
        super().__init__()
        config = LxmertConfig(
            hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=3 * HIDDEN
        )
        self.cross_modal_text_transform = nn.Linear(16, HIDDEN)
        self.cross_modal_image_transform = nn.Linear(16, HIDDEN)
        self.token_type_embeddings = nn.Embedding(2, HIDDEN)
        self.fusion_encoder = nn.Module()
        self.fusion_encoder.cross_modal_layers = nn.ModuleList(
            [LxmertXLayer(config) for _ in range(LAYERS)]
        )
        for modality in ("text", "image"):
            pooler = nn.Sequential()
            pooler.dense = nn.Linear(HIDDEN, HIDDEN)
            self.fusion_encoder.add_module(f"cross_modal_{modality}_pooler", pooler)

    def forward(self, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        types = self.token_type_embeddings.weight
        text = self.cross_modal_text_transform(text) + types[0]
        image = self.cross_modal_image_transform(image) + types[1]
        bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]
        for layer in self.fusion_encoder.cross_modal_layers:
            text, image = layer(text, bias, image, None)[:2]
        pooled = [
            self.fusion_encoder.cross_modal_text_pooler.dense(text[:, 0]).tanh(),
            self.fusion_encoder.cross_modal_image_pooler.dense(image[:, 0]).tanh(),
        ]
        return torch.cat(pooled, dim=1)


def checkpoint(folder: Path, **settings: Any) -> tuple[Any, Any, Earlier, dict[str, Tensor]]:
    """Write a checkpoint as its code does, and return the modules in it."""
    torch.manual_seed(0)
    tokenizer = word_pieces()
    text = save_model(folder / "bert", "bert", vocab_size=len(tokenizer))
    image = save_model(folder / "vit", "vit")
    tokenizer.save_pretrained(folder / "bert")
    around = Earlier().eval()
    for parameter in around.parameters():
        nn.init.normal_(parameter, std=0.3)
    # The library writes the old names of its models.
    state = {
        f"encoder.{tower}.{name}": tensor
        for tower, model in (("text_transformer", "bert"), ("image_encoder", "vit"))
        for name, tensor in load_file(folder / model / "model.safetensors").items()
    }
    state |= {f"encoder.{name}": tensor for name, tensor in around.state_dict().items()}
    classes = 4
    for name, shape in {
        "vqa_classifier.dense": (2 * HIDDEN, 2 * HIDDEN),
        "vqa_classifier.out_proj": (classes, 2 * HIDDEN),
        "itm_score.fc": (2, 2 * HIDDEN),
        "mrpc_classifier.dense": (16, 16),
    }.items():
        state[f"{name}.weight"] = torch.randn(shape)
        state[f"{name}.bias"] = torch.randn(shape[0])
    state["vqa_classifier.layer_norm.weight"] = torch.randn(2 * HIDDEN)
    state["vqa_classifier.layer_norm.bias"] = torch.randn(2 * HIDDEN)
    config = {
        "text_encoder": str(folder / "bert"),
        "image_encoder": str(folder / "vit"),
        "num_cross_layer_heads": HEADS,
        "max_text_len": 12,
        "image_size": 32,
        "vocab_size": len(tokenizer),
        "val_transform_keys": ["clip"],
        **settings,
    }
    content = {"state_dict": state, "hyper_parameters": {"config": config}}
    torch.save(content, folder / "old.ckpt")
    return text, image, around, state


def convert(folder: Path) -> Any:
    arguments = ("--from", "renaissance", "--output", str(folder / "run"))
    return renaissance("convert", str(folder / "old.ckpt"), *arguments)


@torch.no_grad()
def test_a_two_tower_model_gives_what_its_modules_give(tmp_path: Path) -> None:
    text, image, around, state = checkpoint(tmp_path)
    finished = convert(tmp_path)
    assert (finished.code, finished.err) == (0, "")
    tokens = word_pieces()(["two elephants", "a photo of one umbrella", "a"], padding=True)
    input_ids, mask = torch.tensor(tokens["input_ids"]), torch.tensor(tokens["attention_mask"])
    text_states = text(input_ids=input_ids, attention_mask=mask).last_hidden_state
    image_states = image(images()).last_hidden_state
    expected = around(text_states, mask.bool(), image_states)
    model = load(tmp_path / "run", "cpu")
    network, rows = model.network.model, torch.arange(3)
    encoded = network.encode_text(input_ids, mask.bool()), network.encode_image(images())
    (fused,) = network.fuse(*encoded, [Pairs(rows, rows)])
    torch.testing.assert_close(fused.pooled, expected, atol=1e-5, rtol=0)
    vqa = model.network.named_objectives()["vqa"]
    hidden = expected @ state["vqa_classifier.dense.weight"].T + state["vqa_classifier.dense.bias"]
    normalized = nn.functional.layer_norm(
        hidden,
        hidden.shape[1:],
        state["vqa_classifier.layer_norm.weight"],
        state["vqa_classifier.layer_norm.bias"],
    )
    logits = nn.functional.linear(
        nn.functional.gelu(normalized),
        state["vqa_classifier.out_proj.weight"],
        state["vqa_classifier.out_proj.bias"],
    )
    torch.testing.assert_close(vqa.head(fused.pooled), logits, atol=1e-4, rtol=0)
    assert model.spec.data.transform.type == "clip"
    left = {line.split()[0] for line in finished.out.splitlines() if "left behind" in line}
    assert left == {
        "encoder.text_transformer.pooler.dense",
        "encoder.image_encoder.pooler.dense",
        "mrpc_classifier.dense",
    }


def test_towers_with_dimensions_of_their_own(tmp_path: Path) -> None:
    own = {
        "random_init_text_encoder": True,
        "text_encoder_manual_configuration": True,
        "text_encoder_hidden_size": 16,
        "text_encoder_num_layers": 2,
        "text_encoder_num_heads": 2,
        "text_encoder_mlp_ratio": 2,
        "text_encoder_drop_rate": 0.0,
    }
    checkpoint(tmp_path, **own)
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    save_model(tmp_path / "other", "bert", intermediate_size=32, vocab_size=len(word_pieces()))
    for name, tensor in load_file(tmp_path / "other" / "model.safetensors").items():
        content["state_dict"][f"encoder.text_transformer.{name}"] = tensor
    torch.save(content, tmp_path / "old.ckpt")
    finished = convert(tmp_path)
    assert (finished.code, finished.err) == (0, "")
    encoder = load(tmp_path / "run", "cpu").network.model.text_encoder
    assert encoder.model.config.intermediate_size == 32


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda c: c["state_dict"].pop("encoder.token_type_embeddings.weight"),
            "no two-tower checkpoint of the earlier Renaissance: it has no encoder.token_type_",
        ),
        (
            lambda c: c["hyper_parameters"]["config"].pop("num_cross_layer_heads"),
            "hyper_parameters.config lacks num_cross_layer_heads (got None), which no tensor",
        ),
        (
            lambda c: c["state_dict"].pop("encoder.cross_modal_text_transform.bias"),
            "model.text_projection.bias: not in the checkpoint",
        ),
        (
            lambda c: c["state_dict"].pop(
                "encoder.fusion_encoder.cross_modal_layers.1.visn_inter.dense.bias"
            ),
            "model.fusion.layers.1.image_stream.feed_forward.intermediate.bias: not in the check",
        ),
    ],
)
def test_what_is_incomplete_is_named(spoil: Any, reason: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "old.ckpt")
    finished = convert(tmp_path)
    assert finished.code == 2
    assert reason in finished.err
    assert not (tmp_path / "run").exists()
