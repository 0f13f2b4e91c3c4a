"""Which text families `hf-text` takes, asked of tiny models, against the library's own output."""

import math
import warnings

import pytest
import torch
from support.running import metrics, run_here, write_spec
from support.tiny_models import LAYERS, VOCAB_SIZE, context, save, sentence_pieces, texts
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForTextEncoding, SiglipConfig

from renaissance import PluginError, SpecError
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.encoders.huggingface import small_copy, text_probe

SMALL = {"hidden_size": 16, **LAYERS}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 2, "num_heads": 2}
XLNET = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 20, "d_head": 8}
# No other inputs than ids and mask; of the last ones, `check` cannot compute values.
TAKEN: dict[str, dict[str, object]] = {
    "albert": {"embedding_size": 8, **SMALL},
    "bert-generation": SMALL,
    "big_bird": SMALL,
    "clip_text_model": SMALL,
    "deberta": SMALL,
    "deberta-v2": SMALL,
    "esm": {**SMALL, "mask_token_id": 4, "pad_token_id": 1, "position_embedding_type": "absolute"},
    "ibert": SMALL,
    "layoutlm": SMALL,
    "longformer": {**SMALL, "attention_window": [4, 4]},
    "mpnet": SMALL,
    "rembert": {**SMALL, "input_embedding_size": 8},
    "roformer": SMALL,
    "siglip_text_model": SMALL,
    "squeezebert": {**SMALL, "embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "t5": T5,
    "umt5": T5,
    "xlnet": XLNET,
}
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "convbert": ({**SMALL, "embedding_size": 16}, "lets padding change real tokens"),
    "fnet": ({"hidden_size": 16, "intermediate_size": 20}, "lets padding change real tokens"),
    "nystromformer": (
        {**SMALL, "num_landmarks": 4, "segment_means_seq_len": 4},
        "lets padding change real tokens",
    ),
    "mra": (SMALL, "has tokens that do not see each other"),
    "canine": (SMALL, "has no word embeddings, so it cannot encode a plain text"),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 2}, "reads in one direction: its tokens do"),
    "vilt": (SMALL, "encodes texts only together with images (ValueError: Y"),
    "bert": ({**SMALL, "is_decoder": True}, "reads in one direction: its tokens do not see those"),
    "bart": ({"d_model": 16}, "has no class for its encoder half alone"),
    "wav2vec2": (SMALL, "reads 'input_values' and no text"),
    "xmod": (SMALL, "cannot encode a plain text (ValueError: Input language unknown."),
    "funnel": ({}, "the installed transformers has no single base model for 'funnel'"),
}


def build(family: str, config: dict[str, object]) -> HFTextEncoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HFTextEncoder(
            HFTextEncoder.Options(architecture=family, config=config), context()
        ).eval()


@pytest.mark.parametrize("family", TAKEN)
def test_a_family_that_sees_the_whole_text_encodes_as_the_library_does(family: str) -> None:
    encoder = build(family, TAKEN[family])
    input_ids, attention_mask = texts()
    states = encoder.encode_text(input_ids, attention_mask).hidden_states
    assert states.shape == (3, 9, encoder.hidden_size)
    # The library's interface: a plain mask.
    expected = encoder.model(input_ids=input_ids, attention_mask=attention_mask.long())
    torch.testing.assert_close(
        states[attention_mask], expected.last_hidden_state[attention_mask], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("window", "form"), [(10, "plain"), (40, "bias")])
def test_local_attention_stays_local_in_texts_longer_than_its_window(
    window: int, form: str
) -> None:
    config = {**SMALL, "layer_types": ["sliding_attention"] * 2, "local_attention": 2 * window}
    options = HFTextEncoder.Options(architecture="modernbert", config=config)
    encoder = HFTextEncoder(options, context(max_text_length=24)).eval()
    input_ids = torch.arange(2, 26)[None].repeat(2, 1)
    attention_mask = torch.arange(24)[None] < torch.tensor([[24], [20]])
    found = encoder.encode_text(input_ids, attention_mask).hidden_states
    expected = encoder.model(input_ids=input_ids, attention_mask=attention_mask.long())
    torch.testing.assert_close(
        found[attention_mask], expected.last_hidden_state[attention_mask], atol=1e-5, rtol=0
    )
    # A mask of pairs would replace the library's window.
    assert encoder.mask_form == form


@pytest.mark.parametrize("family", REFUSED)
def test_a_refused_family_gets_the_true_reason(family: str) -> None:
    config, reason = REFUSED[family]
    with pytest.raises(PluginError) as caught:
        build(family, config)
    assert "hf-text: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "deepseek_v3"])
def test_a_large_decoder_is_refused_without_a_large_model(family: str, monkeypatch) -> None:
    sizes = []
    made = small_copy.random_model

    def counted(*arguments):
        model = made(*arguments)
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
        return model

    monkeypatch.setattr(text_probe, "random_model", counted)
    # As published: billions of parameters.
    with pytest.raises(PluginError, match=f"'{family}' reads in one direction"):
        build(family, {})
    assert len(sizes) == 1
    assert sizes[0] < 50_000_000


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        # As Llama 3 has them.
        (
            "llama",
            {**SMALL, "num_key_value_heads": 2, "eos_token_id": [2, 3]},
            "reads in one direction",
        ),
        ("dots3_note_text", {}, "'dots3_note_text' "),
        (
            "gemma4_assistant",
            {},
            "architecture: 'gemma4_assistant' has no valid default config (Class validation error",
        ),
    ],
)
def test_an_unusual_config_ends_in_no_bare_error(
    family: str, config: dict[str, object], reason: str
) -> None:
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family!r}")
    with pytest.raises((PluginError, SpecError)) as caught:
        build(family, config)
    assert reason in str(caught.value)


def test_a_large_model_without_a_small_copy_is_not_tried(monkeypatch) -> None:
    def refuse(*arguments):
        raise SpecError("its layers are counted")

    monkeypatch.setattr(text_probe, "random_model", refuse)
    with pytest.raises(PluginError) as caught:
        build("llama", {})
    assert str(caught.value) == (
        "hf-text: 'llama' cannot be tried out: it has more than 500,000,000 parameters, and no "
        "small copy of it can be made (its layers are counted); use a bidirectional text encoder "
        "such as BERT, RoBERTa, ELECTRA or DistilBERT"
    )
    with pytest.raises(SpecError, match=r"^its layers are counted$"):
        build("bert", SMALL)


@pytest.mark.parametrize("load_weights", [True, False])
def test_weights_are_read_only_of_models_that_can_encode(load_weights: bool, tmp_path) -> None:
    config = CONFIG_MAPPING["gpt2"](vocab_size=VOCAB_SIZE, n_embd=16, n_layer=3, n_head=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(PluginError, match="'gpt2' reads in one direction"):
        HFTextEncoder(
            HFTextEncoder.Options(checkpoint=str(tmp_path)), context(load_weights=load_weights)
        )


def test_of_a_whole_siglip_the_text_part_is_loaded(tmp_path) -> None:
    part = {"hidden_size": 16, **LAYERS}
    config = SiglipConfig(
        text_config={**part, "vocab_size": VOCAB_SIZE, "projection_size": 16},
        vision_config={**part, "image_size": 32, "patch_size": 8},
    )
    model = save(tmp_path, AutoModel.from_config(config))
    encoder = HFTextEncoder(HFTextEncoder.Options(checkpoint=str(tmp_path)), context()).eval()
    input_ids, attention_mask = texts()
    expected = model.text_model(input_ids=input_ids, attention_mask=attention_mask.long())
    found = encoder.encode_text(input_ids, attention_mask).hidden_states
    torch.testing.assert_close(
        found[attention_mask], expected.last_hidden_state[attention_mask], atol=1e-5, rtol=0
    )


def test_of_a_t5_the_encoder_is_loaded(tmp_path) -> None:
    config = CONFIG_MAPPING["t5"](vocab_size=VOCAB_SIZE, **T5)
    save(tmp_path, AutoModel.from_config(config))
    reference = AutoModelForTextEncoding.from_pretrained(tmp_path).eval()
    encoder = HFTextEncoder(HFTextEncoder.Options(checkpoint=str(tmp_path)), context()).eval()
    input_ids, attention_mask = texts()
    expected = reference(input_ids=input_ids, attention_mask=attention_mask.long())
    found = encoder.encode_text(input_ids, attention_mask).hidden_states
    torch.testing.assert_close(
        found[attention_mask], expected.last_hidden_state[attention_mask], atol=1e-5, rtol=0
    )


def test_a_t5_trains_with_its_own_tokenizer(tmp_path) -> None:
    tokenizer = sentence_pieces()
    tokenizer.save_pretrained(tmp_path / "t5")
    config = CONFIG_MAPPING["t5"](vocab_size=len(tokenizer), **T5)
    save(tmp_path / "t5", AutoModel.from_config(config))
    tower = f'model.text_encoder={{type = "hf-text", checkpoint = "{tmp_path}/t5"}}'
    settings = [tower, f'data.tokenizer="{tmp_path}/t5"', "train.max_steps=2"]
    settings += ['objectives=[{type = "itm"}, {type = "itc"}]', "evaluate.every_steps=2"]
    assert run_here(write_spec(tmp_path), tmp_path, *settings) == 0
    (last,) = [line for line in metrics(tmp_path / "tiny") if line["split"] == "validate"]
    assert math.isfinite(last["loss"])


def test_asking_a_small_copy_draws_nothing_from_the_runs_generator(monkeypatch) -> None:
    def weight() -> torch.Tensor:
        torch.manual_seed(3)
        return build("bert", SMALL).model.get_input_embeddings().weight

    expected = weight()
    monkeypatch.setattr(
        "renaissance.builtin.encoders.huggingface.pretrained.probe_text",
        lambda *_: text_probe.TextProbe("bias", is_causal=False),
    )
    assert torch.equal(weight(), expected)
