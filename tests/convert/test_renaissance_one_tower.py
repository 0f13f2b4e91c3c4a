"""`renaissance convert --from renaissance`: one-tower checkpoints of the earlier Renaissance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.collating import word_pieces
from support.command_line import renaissance
from support.tiny_models import images, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from renaissance import Pairs, load

HIDDEN, LENGTH, PATCH, SIZE, NUM_WORDS = 16, 12, 8, 32, len(word_pieces())


class Embeddings(nn.Module):
    """Its embeddings of both modalities, by its names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.text_embeddings = nn.Module()
        self.text_embeddings.word_embeddings = nn.Embedding(NUM_WORDS, width)
        self.text_embeddings.position_embeddings = nn.Embedding(LENGTH, width)
        self.text_embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.image_embeddings = nn.Module()
        self.image_embeddings.cls_token = nn.Parameter(torch.empty(1, 1, width))
        num_tokens = (SIZE // PATCH) ** 2 + 1
        self.image_embeddings.position_embeddings = nn.Parameter(torch.empty(1, num_tokens, width))
        patches = nn.Module()
        patches.projection = nn.Conv2d(3, width, PATCH, PATCH)
        self.image_embeddings.patch_embeddings = patches
        self.token_type_embeddings = nn.Embedding(2, width)
        if width != HIDDEN:
            self.text_embedding_projection = nn.Linear(width, HIDDEN)
            self.image_embedding_projection = nn.Linear(width, HIDDEN)
        for name in ("text_pooler", "image_pooler"):
            pooler = nn.Module()
            pooler.dense = nn.Linear(HIDDEN, HIDDEN)
            self.add_module(name, pooler)

    def forward(self, input_ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        parts, types = self.text_embeddings, self.token_type_embeddings.weight
        positions = parts.position_embeddings.weight[: input_ids.shape[1]]
        text = parts.LayerNorm(parts.word_embeddings(input_ids) + positions) + types[0]
        image = self.image_embeddings
        patches = image.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        first = image.cls_token.expand(len(pixels), -1, -1)
        pictures = torch.cat([first, patches], dim=1) + image.position_embeddings + types[1]
        if hasattr(self, "text_embedding_projection"):
            return self.text_embedding_projection(text), self.image_embedding_projection(pictures)
        return text, pictures


def checkpoint(folder: Path, family: str, **settings: Any) -> tuple[PreTrainedModel, Embeddings]:
    """Write a checkpoint as its code does, and return the modules in it."""
    torch.manual_seed(0)
    tokenizer = word_pieces()
    # Their layers come from a model with more words and positions.
    stack = save_model(folder / family, family)
    tokenizer.save_pretrained(folder / family)
    around = Embeddings(8 if family == "electra" else HIDDEN).eval()
    for parameter in around.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = {
        f"encoder.encoder.{name.removeprefix('encoder.')}": tensor
        for name, tensor in load_file(folder / family / "model.safetensors").items()
        if name.startswith("encoder.")
    }
    state |= {f"encoder.{name}": tensor for name, tensor in around.state_dict().items()}
    state["itm_score.fc.weight"] = torch.randn(2, 2 * HIDDEN)
    state["itm_score.fc.bias"] = torch.randn(2)
    state["mrpc_classifier.dense.weight"] = torch.randn(HIDDEN, HIDDEN)
    config = {
        "model_type": "one-tower",
        "encoder": str(folder / family),
        "text_encoder": str(folder / family),
        "tokenizer": "bert-base-uncased",
        "patch_size": PATCH,
        "val_transform_keys": ["pixelbert"],
        **settings,
    }
    content = {"state_dict": state, "hyper_parameters": {"config": config}}
    torch.save(content, folder / "old.ckpt")
    return stack, around


def convert(folder: Path) -> Any:
    arguments = ("--from", "renaissance", "--output", str(folder / "run"))
    return renaissance("convert", str(folder / "old.ckpt"), *arguments)


@pytest.mark.parametrize("family", ["bert", "electra"])
@torch.no_grad()
def test_it_gives_what_its_modules_give(family: str, tmp_path: Path) -> None:
    stack, around = checkpoint(tmp_path, family)
    finished = convert(tmp_path)
    assert (finished.code, finished.err) == (0, "")
    # Texts of one length, since its tokens attended to padding.
    input_ids = torch.tensor([[2, 7, 9, 3], [2, 8, 5, 3], [2, 4, 4, 3]])
    text, image = around(input_ids, images())
    states = stack.encoder(torch.cat([text, image], dim=1))[0]
    pooled = [around.text_pooler.dense(states[:, 0]), around.image_pooler.dense(states[:, 4])]
    model = load(tmp_path / "run", "cpu")
    network, rows = model.network.model, torch.arange(3)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    encoded = network.encode_text(input_ids, mask), network.encode_image(images())
    pairs = Pairs(rows, rows, outputs=frozenset({"text", "image", "pooled"}))
    (fused,) = network.fuse(*encoded, [pairs])
    torch.testing.assert_close(fused.text.hidden_states, states[:, :4], atol=1e-5, rtol=0)
    torch.testing.assert_close(fused.image.hidden_states, states[:, 4:], atol=1e-5, rtol=0)
    expected = torch.cat(pooled, dim=1).tanh()
    torch.testing.assert_close(fused.pooled, expected, atol=1e-5, rtol=0)
    assert [*model.network.objectives] == ["itm"]
    assert model.spec.data.max_text_length == LENGTH
    assert model.spec.data.transform.type == "pixelbert"
    left = {line.split()[0] for line in finished.out.splitlines() if "left behind" in line}
    assert left == {"mrpc_classifier.dense"}


def test_dimensions_of_its_own(tmp_path: Path) -> None:
    own = {"hidden_size": HIDDEN, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2}
    flags = {"random_init_encoder": True, "encoder_manual_configuration": True}
    checkpoint(tmp_path, "bert", **flags, **own, drop_rate=0.0)
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    save_model(tmp_path / "other", "bert", intermediate_size=32)
    for name, tensor in load_file(tmp_path / "other" / "model.safetensors").items():
        if name.startswith("encoder."):
            content["state_dict"][f"encoder.{name}"] = tensor
    torch.save(content, tmp_path / "old.ckpt")
    finished = convert(tmp_path)
    assert (finished.code, finished.err) == (0, "")
    config = load(tmp_path / "run", "cpu").network.model.encoder.embedder.config
    assert (config.intermediate_size, config.num_attention_heads) == (32, 4)


@pytest.mark.parametrize(
    ("family", "spoil", "reason"),
    [
        (
            "bert",
            lambda c: c["state_dict"].pop("encoder.image_embeddings.position_embeddings"),
            "the one-tower checkpoint lacks encoder.image_embeddings.position_embeddings",
        ),
        (
            "bert",
            lambda c: c["hyper_parameters"]["config"].pop("patch_size"),
            "hyper_parameters.config lacks patch_size (got None)",
        ),
        (
            "roberta",
            lambda c: None,
            "its encoder is a 'roberta', whose layers it ran without the norms or embeddings that "
            "they have here; expected one of bert, electra",
        ),
        (
            "bert",
            lambda c: c["state_dict"].pop("encoder.encoder.layer.1.output.dense.bias"),
            "1 of the weights that 'bert' needs are missing: encoder.layer.1.output.dense.bias",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(
    family: str, spoil: Any, reason: str, tmp_path: Path
) -> None:
    checkpoint(tmp_path, family)
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "old.ckpt")
    finished = convert(tmp_path)
    assert finished.code == 2
    assert reason in finished.err
    assert not (tmp_path / "run").exists()
