"""`renaissance convert --from meter`: checkpoints of METER with an image encoder of CLIP."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.collating import word_pieces
from support.command_line import renaissance
from support.tiny_models import images, save_model
from torch import Tensor, nn
from transformers import BridgeTowerTextConfig
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

from renaissance import Pairs, load

# Heads of CLIP's image encoder are 64 wide.
WIDTH, HIDDEN, HEADS, LAYERS, PATCH, SIZE = 128, 8, 2, 2, 8, 32


class Block(nn.Module):
    """A layer of CLIP's image encoder (Radford et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, states: Tensor) -> Tensor:
        normed = self.ln_1(states)
        states = states + self.attn(normed, normed, normed, need_weights=False)[0]
        hidden = self.mlp.c_fc(self.ln_2(states))
        output: Tensor = states + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        return output


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([Block() for _ in range(LAYERS)])

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        states = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            states = block(states)
        output: Tensor = self.ln_post(states)
        return output


class Meter(nn.Module):
    """What its code has around its text encoder, by its names."""

    def __init__(self) -> None:
        super().__init__()
        config = BridgeTowerTextConfig(
            hidden_size=HIDDEN,
            num_attention_heads=HEADS,
            intermediate_size=3 * HIDDEN,
            layer_norm_eps=1e-12,
        )
        config._attn_implementation = "eager"
        self.vit_model = nn.Module()
        self.vit_model.visual = Visual()
        self.cross_modal_text_transform = nn.Linear(16, HIDDEN)
        self.cross_modal_image_transform = nn.Linear(WIDTH, HIDDEN)
        self.token_type_embeddings = nn.Embedding(2, HIDDEN)
        self.cross_modal_text_layers, self.cross_modal_image_layers = (
            nn.ModuleList([BridgeTowerBertCrossLayer(config) for _ in range(LAYERS)])
            for _ in range(2)
        )
        self.cross_modal_text_pooler = nn.Sequential()
        self.cross_modal_text_pooler.add_module("dense", nn.Linear(HIDDEN, HIDDEN))
        self.cross_modal_image_pooler = nn.Sequential()
        self.cross_modal_image_pooler.add_module("dense", nn.Linear(HIDDEN, HIDDEN))
        self.nlvr2_classifier = nn.Sequential(
            nn.Linear(4 * HIDDEN, 2 * HIDDEN),
            nn.LayerNorm(2 * HIDDEN),
            nn.GELU(),
            nn.Linear(2 * HIDDEN, 2),
        )

    def forward(self, text: Tensor, mask: Tensor, pixels: Tensor) -> Tensor:
        types = self.token_type_embeddings.weight
        text = self.cross_modal_text_transform(text) + types[0]
        image = self.cross_modal_image_transform(self.vit_model.visual(pixels)) + types[1]
        text_bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]
        image_bias = torch.zeros(len(image), 1, 1, image.shape[1])
        layers = zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True)
        for text_layer, image_layer in layers:
            text, image = (
                text_layer(text, image, text_bias, image_bias)[0],
                image_layer(image, text, image_bias, text_bias)[0],
            )
        pooled = [
            self.cross_modal_text_pooler(text[:, 0]).tanh(),
            self.cross_modal_image_pooler(image[:, 0]).tanh(),
        ]
        return torch.cat(pooled, dim=1)


def checkpoint(folder: Path) -> tuple[Any, Meter]:
    """Write a checkpoint as its code does, and return the modules in it."""
    torch.manual_seed(0)
    tokenizer = word_pieces()
    text = save_model(folder / "bert", "bert", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder / "bert")
    meter = Meter().eval()
    for parameter in meter.parameters():
        nn.init.normal_(parameter, std=0.1)
    state = {
        f"text_transformer.{name}": tensor
        for name, tensor in load_file(folder / "bert" / "model.safetensors").items()
    }
    state |= meter.state_dict()
    state["vit_model.ln_final.weight"] = torch.ones(4)
    config = {
        "tokenizer": str(folder / "bert"),
        "num_heads": HEADS,
        "max_text_len": 12,
        "val_transform_keys": ["clip"],
    }
    content = {"state_dict": state, "hyper_parameters": {"config": config}}
    torch.save(content, folder / "meter.ckpt")
    return text, meter


@torch.no_grad()
def test_it_gives_what_its_modules_give(tmp_path: Path) -> None:
    text, meter = checkpoint(tmp_path)
    arguments = ("--from", "meter", "--output", str(tmp_path / "run"))
    finished = renaissance("convert", str(tmp_path / "meter.ckpt"), *arguments)
    assert (finished.code, finished.err) == (0, "")
    tokens = word_pieces()(["two elephants", "a photo of one umbrella", "a"], padding=True)
    input_ids, mask = torch.tensor(tokens["input_ids"]), torch.tensor(tokens["attention_mask"])
    states = text(input_ids=input_ids, attention_mask=mask).last_hidden_state
    expected = meter(states, mask.bool(), images())
    network = load(tmp_path / "run", "cpu").network
    model, rows = network.model, torch.arange(3)
    encoded = model.encode_text(input_ids, mask.bool()), model.encode_image(images())
    (fused,) = model.fuse(*encoded, [Pairs(rows, rows)])
    torch.testing.assert_close(fused.pooled, expected, atol=1e-5, rtol=0)
    both = torch.cat([expected, expected.flip(0)], dim=1)
    logits = network.named_objectives()["nlvr2"].head(both)
    torch.testing.assert_close(logits, meter.nlvr2_classifier(both), atol=1e-5, rtol=0)
    left = {line.split()[0] for line in finished.out.splitlines() if "left behind" in line}
    assert left == {"text_transformer.pooler.dense", "vit_model.ln_final"}


@pytest.mark.parametrize("name", ["vit_model.visual.conv1.weight", "token_type_embeddings.weight"])
def test_what_is_no_meter_of_clip_is_refused(name: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    content = torch.load(tmp_path / "meter.ckpt", weights_only=True)
    del content["state_dict"][name]
    torch.save(content, tmp_path / "meter.ckpt")
    arguments = ("--from", "meter", "--output", str(tmp_path / "run"))
    finished = renaissance("convert", str(tmp_path / "meter.ckpt"), *arguments)
    assert finished.code == 2
    assert f"no METER with an image encoder of CLIP: it has no {name};" in finished.err
