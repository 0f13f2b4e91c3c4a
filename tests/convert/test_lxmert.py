"""`renaissance convert --from lxmert`: two-tower runs with another image encoder."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.collating import word_pieces
from support.command_line import renaissance
from support.tiny_models import images, save, save_model
from torch import Tensor
from transformers import (
    LxmertConfig,
    LxmertForPreTraining,
    LxmertForQuestionAnswering,
    LxmertModel,
    PreTrainedModel,
)

from renaissance import Pairs, Tokens, load

HIDDEN, REGIONS = 16, 6
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "l_layers": 2,
    "x_layers": 3,
    "r_layers": 1,
    "visual_feat_dim": 10,
    "num_object_labels": 4,
    "num_attr_labels": 3,
    "num_qa_labels": 3,
    "num_labels": 3,
}


def tiny(folder: Path, model_class: Any, **values: Any) -> PreTrainedModel:
    """Write a checkpoint of transformers with its tokenizer, and an image encoder beside it."""
    tokenizer = word_pieces()
    tokenizer.save_pretrained(folder / "lxmert")
    save_model(folder / "vit", "vit")
    config = LxmertConfig(**{**SIZES, "vocab_size": len(tokenizer), **values})
    return save(folder / "lxmert", model_class(config))


def convert(folder: Path, source: str = "lxmert", *more: str) -> Any:
    arguments = ("--from", "lxmert", "--output", str(folder / "run"))
    image = ("--image-encoder", str(folder / "vit"))
    return renaissance("convert", str(folder / source), *arguments, *image, *more)


def inputs() -> dict[str, Tensor]:
    tokenizer = word_pieces()
    rows = tokenizer(["two elephants", "a photo of one umbrella", "a"], padding=True)
    generator = torch.Generator().manual_seed(5)
    return {
        **{name: torch.tensor(rows[name]) for name in ("input_ids", "attention_mask")},
        "visual_feats": torch.randn(3, REGIONS, 10, generator=generator),
        "visual_pos": torch.rand(3, REGIONS, 4, generator=generator),
    }


def region_states(model: PreTrainedModel, given: dict[str, Tensor]) -> Tensor:
    """Return what its layers for regions give to the cross-modality layers."""
    inner = getattr(model, "lxmert", model)
    states: Tensor = inner(**given, output_hidden_states=True).vision_hidden_states[0]
    return states


def fused(run: Path, given: dict[str, Tensor], image: Tensor) -> tuple[Any, Any]:
    """Return a run's network, and texts fused with states of images at the fusion's width."""
    network = load(run, "cpu").network
    model, rows = network.model, torch.arange(3)
    model.image_projection = torch.nn.Identity()
    text = model.encode_text(given["input_ids"], given["attention_mask"].bool())
    pairs = Pairs(rows, rows, outputs=frozenset({"text", "image", "pooled"}))
    return network, model.fuse(text, Tokens(image), [pairs])[0]


@torch.no_grad()
def test_texts_and_fusion_give_what_they_give_in_transformers(tmp_path: Path) -> None:
    model = tiny(tmp_path, LxmertModel)
    finished = convert(tmp_path)
    assert (finished.code, finished.err) == (0, "")
    given = inputs()
    expected = model(**given)
    network, both = fused(tmp_path / "run", given, region_states(model, given))
    real = given["attention_mask"].bool()
    torch.testing.assert_close(
        both.text.hidden_states[real], expected.language_output[real], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(both.image.hidden_states, expected.vision_output, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.pooled, expected.pooled_output, atol=1e-5, rtol=0)
    assert [*network.objectives] == ["itm"]


@torch.no_grad()
def test_the_image_encoder_is_the_one_that_was_named(tmp_path: Path) -> None:
    tiny(tmp_path, LxmertModel)
    out = convert(tmp_path).out
    encoder = load(tmp_path / "run", "cpu").network.model.image_encoder
    vit = save_model(tmp_path / "vit", "vit")
    states = encoder.encode_image(images()).hidden_states
    torch.testing.assert_close(states, vit(images()).last_hidden_state, atol=1e-5, rtol=0)
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "loaded" in rows["model.image_encoder"]
    assert rows["model.image_encoder"].endswith(f"from {tmp_path / 'vit'}")
    assert "newly initialized" in rows["model.image_projection"]
    assert rows["model.text_projection"].endswith("it changes nothing at first")
    assert rows["model.token_type_embeddings"].endswith("they are 0 at first")
    left = [line.split()[0] for line in out.splitlines() if "left behind" in line]
    assert {name.split(".")[1] for name in left} == {"visn_fc", "r_layers"}


@torch.no_grad()
def test_heads_of_pretraining(tmp_path: Path) -> None:
    model = tiny(tmp_path, LxmertForPreTraining)
    out = convert(tmp_path).out
    given = inputs()
    expected = model(**given)
    network, both = fused(tmp_path / "run", given, region_states(model, given))
    heads, real = network.named_objectives(), given["attention_mask"].bool()
    words = heads["mlm"].head(both.text.hidden_states)
    torch.testing.assert_close(words[real], expected.prediction_logits[real], atol=1e-4, rtol=1e-5)
    matching = heads["itm"].head(both.pooled)
    torch.testing.assert_close(matching, expected.cross_relationship_score, atol=1e-5, rtol=0)
    answers = heads["vqa"].head(both.pooled)
    torch.testing.assert_close(answers, expected.question_answering_score, atol=1e-5, rtol=0)
    left = {line.split()[0].split(".")[0] for line in out.splitlines() if "left behind" in line}
    assert left == {"encoder", "obj_predict_head"}


@torch.no_grad()
def test_answers_and_their_names(tmp_path: Path) -> None:
    names = {0: "red", 1: "blue", 2: "two"}
    model = tiny(tmp_path, LxmertForQuestionAnswering, id2label=names)
    convert(tmp_path)
    given = inputs()
    network, both = fused(tmp_path / "run", given, region_states(model, given))
    vqa = network.named_objectives()["vqa"]
    expected = model(**given).question_answering_score
    torch.testing.assert_close(vqa.head(both.pooled), expected, atol=1e-5, rtol=0)
    assert list(vqa.classes) == ["red", "blue", "two"]


@torch.no_grad()
def test_a_file_of_the_authors(tmp_path: Path) -> None:
    # Without a config, heads are taken to be 64 wide.
    sizes = {"hidden_size": 64, "num_attention_heads": 1}
    model = tiny(tmp_path, LxmertModel, **sizes)
    tensors = load_file(tmp_path / "lxmert" / "model.safetensors")
    named = {f"module.bert.{name}": tensor for name, tensor in tensors.items()}
    torch.save(named, tmp_path / "model_LXRT.pth")
    finished = convert(tmp_path, "model_LXRT.pth", "--tokenizer", str(tmp_path / "lxmert"))
    assert (finished.code, finished.err) == (0, "")
    given = inputs()
    _, both = fused(tmp_path / "run", given, region_states(model, given))
    torch.testing.assert_close(both.pooled, model(**given).pooled_output, atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_older_folder_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client is imitated by a folder, of which it gives the files that are asked for."""
    model = tiny(tmp_path, LxmertModel)
    folder, cache = tmp_path / "lxmert", tmp_path / "cache"
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        cache.mkdir(exist_ok=True)
        for pattern in allow_patterns:
            for path in folder.glob(pattern):
                shutil.copyfile(path, cache / path.name)
        return str(cache)

    monkeypatch.setattr("renaissance.hub.snapshot_download", snapshot)
    monkeypatch.setattr("renaissance.hub.use_cache_if_unreachable", lambda names: None)
    arguments = ("--from", "lxmert", "--output", str(tmp_path / "run"))
    image = ("--image-encoder", str(tmp_path / "vit"))
    finished = renaissance("convert", "org/lxmert", *arguments, *image)
    assert (finished.code, finished.err) == (0, "")
    given = inputs()
    _, both = fused(tmp_path / "run", given, region_states(model, given))
    # By its config, which tells the number of heads.
    torch.testing.assert_close(both.pooled, model(**given).pooled_output, atol=1e-5, rtol=0)


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    tiny(tmp_path, LxmertModel, hidden_act="relu")
    assert (
        "hidden_act is 'relu', but the fusion 'lxmert' computes with 'gelu'"
        in convert(tmp_path).err
    )
    other = convert(tmp_path, "vit")
    assert other.code == 2
    assert f"{tmp_path / 'vit'}: no LXMERT: it has no embeddings.word_embed" in other.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--from", "lxmert"), "--image-encoder: LXMERT reads regions that a detector found"),
        (
            ("--from", "vilt", "--image-encoder", "vit"),
            "--image-encoder: got 'vit', but a checkpoint of vilt has an image encoder of its own",
        ),
    ],
)
def test_an_image_encoder_is_named_where_there_is_none(
    arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    finished = renaissance("convert", "x.ckpt", *arguments, "--output", str(tmp_path / "run"))
    assert finished.code == 2
    assert reason in finished.err
