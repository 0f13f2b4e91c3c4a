"""ViLT as a one-tower model, against the library's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_models import IMAGE, LAYERS, context, images, save, texts
from transformers import AutoModel, PreTrainedModel, ViltConfig, ViltForQuestionAnswering

from renaissance import CheckpointError, Pairs, SpecError
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.poolers.single import Single
from renaissance.model.one_tower import OneTower

VILT: dict[str, Any] = {
    "hidden_size": 16,
    "vocab_size": 60,
    "max_position_embeddings": 24,
    **LAYERS,
    **IMAGE,
}


def load(folder: Path, **values: object) -> HFJointEncoder:
    options = HFJointEncoder.Options(checkpoint=str(folder))
    return HFJointEncoder(options, context(**values)).eval()


def one_tower(folder: Path, model: PreTrainedModel, **values: object) -> OneTower:
    tower = OneTower(load(folder, **values), Single(Single.Options(), 16)).eval()
    tower.pooler.text.dense.load_state_dict(model.pooler.dense.state_dict())
    return tower


@pytest.mark.parametrize("size", [32, 24, 48])
@torch.no_grad()
def test_outputs_are_those_of_the_library(size: int, tmp_path: Path) -> None:
    model = save(tmp_path, AutoModel.from_config(ViltConfig(**VILT)))
    tower = one_tower(tmp_path, model, image_size=size)
    (input_ids, mask), pixels = texts(), images(size)
    expected = model(
        input_ids=input_ids,
        attention_mask=mask.long(),
        pixel_values=pixels,
        pixel_mask=torch.ones(3, size, size),
    )
    rows = torch.arange(3)
    request = Pairs(rows, rows, outputs=frozenset({"text", "image", "pooled"}))
    text, image = tower.encode_text(input_ids, mask), tower.encode_image(pixels)
    (fused,) = tower.fuse(text, image, [request])
    states = expected.last_hidden_state
    torch.testing.assert_close(
        fused.text.hidden_states[mask], states[:, :9][mask], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(fused.pooled, expected.pooler_output, atol=1e-5, rtol=0)
    # The library shuffles the patches: each of ours is one of its.
    ours, theirs = fused.image.hidden_states, states[:, 9:]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[:, 0], theirs[:, 0], atol=1e-5, rtol=0)
    distances = torch.cdist(ours.double(), theirs.double())
    assert distances.min(2).values.max() < 1e-5
    assert sorted(distances[0].argmin(1).tolist()) == list(range(ours.shape[1]))


@torch.no_grad()
def test_the_second_image_has_a_type_of_its_own(tmp_path: Path) -> None:
    model = save(tmp_path, AutoModel.from_config(ViltConfig(**VILT, modality_type_vocab_size=3)))
    tower = one_tower(tmp_path, model)
    (input_ids, mask), pixels = texts(), images()
    expected = model(
        input_ids=input_ids,
        attention_mask=mask.long(),
        pixel_values=pixels,
        image_token_type_idx=2,
    )
    rows = torch.arange(3)
    request = Pairs(rows, rows, image_types=torch.full((3,), 2))
    text, image = tower.encode_text(input_ids, mask), tower.encode_image(pixels)
    (fused,) = tower.fuse(text, image, [request])
    torch.testing.assert_close(fused.pooled, expected.pooler_output, atol=1e-5, rtol=0)


def test_without_a_second_type_it_is_a_copy_of_the_first(tmp_path: Path) -> None:
    model = save(tmp_path, AutoModel.from_config(ViltConfig(**VILT)))
    types = model.embeddings.token_type_embeddings.weight
    found = one_tower(tmp_path, model).token_type_embeddings.weight
    assert torch.equal(found, types[[0, 1, 1]])


def test_of_a_checkpoint_with_a_head_the_model_is_loaded(tmp_path: Path) -> None:
    model = save(tmp_path, ViltForQuestionAnswering(ViltConfig(**VILT)))
    encoder = load(tmp_path)
    words = model.vilt.embeddings.text_embeddings.word_embeddings.weight
    assert encoder.text_embeddings is not None
    assert torch.equal(encoder.text_embeddings.word_embeddings.weight, words)
    assert encoder.weights_source == f"local folder {tmp_path}"


def test_on_the_meta_device_only_shapes_are_made(tmp_path: Path) -> None:
    save(tmp_path, AutoModel.from_config(ViltConfig(**VILT)))
    (tmp_path / "model.safetensors").unlink()
    with torch.device("meta"):
        encoder = load(tmp_path, load_weights=False)
    assert all(p.is_meta for p in encoder.parameters())
    assert encoder.encode_image(images().to("meta")).hidden_states.shape == (3, 17, 16)


def test_texts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save(tmp_path, AutoModel.from_config(ViltConfig(**VILT)))
    with pytest.raises(SpecError) as caught:
        load(tmp_path, max_text_length=25, vocab_size=61)
    assert caught.value.faults == (
        "hf-joint: data.max_text_length is 25, but this 'vilt' has positions for 24 tokens; set "
        "data.max_text_length to 24 or less",
        "hf-joint: the tokenizer has ids up to 60, but this 'vilt' has embeddings for 60 tokens; "
        "set data.tokenizer to the model's own",
    )


def test_missing_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(tmp_path, AutoModel.from_config(ViltConfig(**VILT)))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["embeddings.text_embeddings.LayerNorm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "hf-joint: checkpoint: 1 of the weights that 'vilt' needs are missing: "
        "embeddings.text_embeddings.LayerNorm.bias; download it again, or set random_init = true"
    )
