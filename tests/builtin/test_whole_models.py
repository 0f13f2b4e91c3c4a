"""The parts of models of texts and images as towers, against the library's own output."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.running import metrics, run_here, write_spec
from support.tiny_models import context, images, save, texts
from support.whole_models import (
    WHOLE_MODELS,
    dual_encoder_of_a_clip,
    image_states,
    make_whole,
    text_states,
)
from transformers import (
    CONFIG_MAPPING,
    BlipForConditionalGeneration,
    BridgeTowerForMaskedLM,
    CLIPForImageClassification,
    PreTrainedModel,
)

from renaissance import CheckpointError, PluginError, summarize
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder

DOCS = Path(__file__).parents[2] / "docs"
# Their tokens do not see those after them.
CAUSAL = {"clip", "clipseg", "groupvit", "metaclip_2", "owlv2", "owlvit", "xclip"}
REFUSED_TEXT = {"aimv2": "'aimv2_text_model' lets padding change real tokens"}
REFUSED_IMAGE = {"xclip": "'xclip_vision_model' reads videos of 8 frames, not single images"}


def text_encoder(folder: Path) -> HFTextEncoder:
    return HFTextEncoder(HFTextEncoder.Options(checkpoint=str(folder)), context()).eval()


def image_encoder(folder: Path, size: int = 32) -> HFImageEncoder:
    options = HFImageEncoder.Options(checkpoint=str(folder))
    return HFImageEncoder(options, context(image_size=size)).eval()


def saved(folder: Path, family: str) -> PreTrainedModel:
    return save(folder, make_whole(family))


@pytest.mark.parametrize("family", WHOLE_MODELS)
def test_the_text_part_encodes_as_the_whole_does(family: str, tmp_path: Path) -> None:
    model = saved(tmp_path, family)
    if family in REFUSED_TEXT:
        with pytest.raises(PluginError) as caught:
            text_encoder(tmp_path)
        assert REFUSED_TEXT[family] in str(caught.value)
        return
    encoder = text_encoder(tmp_path)
    input_ids, attention_mask = texts()
    found = encoder.encode_text(input_ids, attention_mask).hidden_states
    expected = text_states(model, input_ids, attention_mask)
    torch.testing.assert_close(found[attention_mask], expected[attention_mask], atol=1e-5, rtol=0)
    assert encoder.text_summary == ("eos" if family in CAUSAL else "first")


@pytest.mark.parametrize("family", WHOLE_MODELS)
def test_the_image_part_encodes_as_the_whole_does(family: str, tmp_path: Path) -> None:
    model = saved(tmp_path, family)
    if family in REFUSED_IMAGE:
        with pytest.raises(PluginError) as caught:
            image_encoder(tmp_path)
        assert REFUSED_IMAGE[family] in str(caught.value)
        return
    encoder = image_encoder(tmp_path)
    found = encoder.encode_image(images()).hidden_states
    torch.testing.assert_close(found, image_states(model, images()), atol=1e-5, rtol=0)
    without_class = {"aimv2", "align", "groupvit", "siglip", "siglip2"}
    assert encoder.image_summary == ("mean" if family in without_class else "first")


@pytest.mark.parametrize("family", ["siglip", "siglip2", "bridgetower", "flava"])
def test_images_of_another_size_encode_as_the_whole_does(family: str, tmp_path: Path) -> None:
    model = saved(tmp_path, family)
    found = image_encoder(tmp_path, 48).encode_image(images(48)).hidden_states
    if family == "siglip2":
        expected = image_states(model, images(48))
    else:
        part = model.image_model if family == "flava" else model.vision_model
        output = part(images(48), interpolate_pos_encoding=True)
        expected = output[-1] if family == "bridgetower" else output.last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["clip", "metaclip_2", "owlvit", "xclip"])
def test_a_causal_text_is_summarized_where_the_model_does(family: str, tmp_path: Path) -> None:
    model = saved(tmp_path, family)
    encoder = text_encoder(tmp_path)
    # Texts that end with the token that CLIP ends them with: the greatest, or the second.
    input_ids, attention_mask = texts()
    ends = attention_mask.sum(1, keepdim=True) - 1
    last = model.config.text_config.eos_token_id if family == "metaclip_2" else 59
    input_ids = input_ids.clamp(max=58).scatter(1, ends, last)
    expected = model.text_model(input_ids=input_ids, attention_mask=attention_mask.long())
    tokens = encoder.encode_text(input_ids, attention_mask)
    torch.testing.assert_close(
        summarize(tokens, encoder.text_summary), expected.pooler_output, atol=1e-5, rtol=0
    )


def test_a_causal_text_model_is_no_joint_encoder(tmp_path: Path) -> None:
    model = saved(tmp_path, "clip")
    model.text_model.save_pretrained(tmp_path / "text")
    with pytest.raises(PluginError, match="'clip_text_model' reads in one direction"):
        HFJointEncoder(HFJointEncoder.Options(checkpoint=str(tmp_path / "text")), context())


def test_both_parts_of_a_model_with_a_head_are_found(tmp_path: Path) -> None:
    config = make_whole("bridgetower").config
    model = save(tmp_path, BridgeTowerForMaskedLM(config)).bridgetower
    input_ids, attention_mask = texts()
    found = text_encoder(tmp_path).encode_text(input_ids, attention_mask).hidden_states
    expected = text_states(model, input_ids, attention_mask)
    torch.testing.assert_close(found[attention_mask], expected[attention_mask], atol=1e-5, rtol=0)
    found = image_encoder(tmp_path).encode_image(images()).hidden_states
    torch.testing.assert_close(found, image_states(model, images()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "task_class"),
    [("clip", CLIPForImageClassification), ("blip", BlipForConditionalGeneration)],
)
def test_a_checkpoint_without_the_part_says_what_it_was_saved_as(
    family: str, task_class: type[PreTrainedModel], tmp_path: Path
) -> None:
    whole = make_whole(family)
    save(tmp_path, task_class(whole.config))
    image_encoder(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        text_encoder(tmp_path)
    name = type(whole).__name__
    assert str(caught.value) == (
        f"hf-text: checkpoint: it was saved as {task_class.__name__}, without the weights that "
        f"{name} has for '{family}_text_model'; take a checkpoint of {name}, or set "
        "random_init = true"
    )


def test_a_dual_encoder_of_both_towers_of_a_clip_trains(tmp_path: Path) -> None:
    settings = [*dual_encoder_of_a_clip(tmp_path / "clip"), "train.max_steps=2"]
    settings += ["evaluate.every_steps=2"]
    assert run_here(write_spec(tmp_path), tmp_path, *settings) == 0
    (last,) = [line for line in metrics(tmp_path / "tiny") if line["split"] == "validate"]
    assert 0 < last["loss"] < 10


def families() -> ModuleType:
    specification = importlib.util.spec_from_file_location("families", DOCS / "families.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.skipif("gte" not in CONFIG_MAPPING, reason="this transformers has fewer families")
def test_the_tables_of_families_are_up_to_date() -> None:
    page = (DOCS / "encoders.md").read_text()
    assert families().with_tables(page) == page, "run python docs/families.py"
