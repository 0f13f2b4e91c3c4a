"""`renaissance convert --from vilt`: run folders that give what transformers gives."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli
import torch
from safetensors.torch import load_file, save_file
from support.collating import word_pieces
from support.command_line import renaissance
from support.preparing import prepare
from support.running import TINY, run_here, write_spec
from support.tiny_models import IMAGE, LAYERS, images, save
from torch import Tensor
from transformers import (
    AutoModel,
    BertTokenizer,
    PreTrainedModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
)

from renaissance import Pairs, load
from renaissance.builtin.objectives.vqa import VQA
from renaissance.builtin.sources.vqa_answers import normalize_answer
from renaissance.convert import unpickle
from renaissance.convert.unpickle import tensors_of
from renaissance.model.one_tower import OneTower
from renaissance.spec.write import tables_to_toml

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "max_position_embeddings": 24,
    **LAYERS,
    **IMAGE,
}


def tiny(folder: Path, model_class: Any, **values: Any) -> PreTrainedModel:
    """Write a checkpoint of transformers with its tokenizer."""
    tokenizer = word_pieces()
    tokenizer.save_pretrained(folder)
    config = ViltConfig(**{**SIZES, "vocab_size": len(tokenizer), **values})
    return save(folder, model_class(config))


def converted(source: Path, output: Path, *more: str) -> str:
    arguments = ("--from", "vilt", "--output", str(output))
    finished = renaissance("convert", str(source), *arguments, *more)
    assert (finished.code, finished.err) == (0, "")
    return finished.out


def inputs() -> dict[str, Tensor]:
    tokenizer = word_pieces()
    rows = tokenizer(["two elephants", "a photo of one umbrella", "a"], padding=True)
    given = {name: torch.tensor(rows[name]) for name in ("input_ids", "attention_mask")}
    return {**given, "pixel_values": images()}


@torch.no_grad()
def fused(run: Path, given: Mapping[str, Tensor], kind: int = 1) -> tuple[Any, Any]:
    """Return a run's network, and its fused rows."""
    network = load(run, "cpu").network
    model, rows = network.model, torch.arange(3)
    text = model.encode_text(given["input_ids"], given["attention_mask"].bool())
    image = model.encode_image(given["pixel_values"])
    outputs = frozenset({"text", "pooled"})
    pairs = Pairs(rows, rows, outputs=outputs, image_types=torch.full((3,), kind))
    return network, model.fuse(text, image, [pairs])[0]


def head(network: Any, objective: str, states: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network.named_objectives()[objective].head(states)
    return logits


def test_masked_words(tmp_path: Path) -> None:
    model = tiny(tmp_path / "vilt", ViltForMaskedLM)
    out = converted(tmp_path / "vilt", tmp_path / "run")
    assert f"parameters from {tmp_path / 'vilt'}" in out
    assert "newly" not in out.replace("newly initialized        2", "")
    given = inputs()
    network, both = fused(tmp_path / "run", given)
    with torch.no_grad():
        expected = model(**given).logits
    logits = head(network, "mlm", both.text.hidden_states)
    real = given["attention_mask"].bool()
    torch.testing.assert_close(logits[real], expected[real], atol=1e-5, rtol=0)


def test_answers_and_their_names(tmp_path: Path) -> None:
    names = {0: "red", 1: "blue", 2: "two"}
    model = tiny(tmp_path / "vilt", ViltForQuestionAnswering, id2label=names, num_labels=3)
    converted(tmp_path / "vilt", tmp_path / "run")
    given = inputs()
    network, both = fused(tmp_path / "run", given)
    with torch.no_grad():
        expected = model(**given).logits
    torch.testing.assert_close(head(network, "vqa", both.pooled), expected, atol=1e-5, rtol=0)
    assert list(network.named_objectives()["vqa"].classes) == ["red", "blue", "two"]


def test_two_images(tmp_path: Path) -> None:
    labels = {"num_images": 2, "modality_type_vocab_size": 3, "num_labels": 2}
    model = tiny(tmp_path / "vilt", ViltForImagesAndTextClassification, **labels)
    converted(tmp_path / "vilt", tmp_path / "run")
    given = inputs()
    second = given["pixel_values"].flip(0)
    network, first_pairs = fused(tmp_path / "run", given)
    _, second_pairs = fused(tmp_path / "run", {**given, "pixel_values": second}, kind=2)
    both = torch.cat([first_pairs.pooled, second_pairs.pooled], dim=1)
    pixels = torch.stack([given["pixel_values"], second], dim=1)
    with torch.no_grad():
        expected = model(**{**given, "pixel_values": pixels}).logits
    torch.testing.assert_close(head(network, "nlvr2", both), expected, atol=1e-5, rtol=0)


def test_match_scores(tmp_path: Path) -> None:
    model = tiny(tmp_path / "vilt", ViltForImageAndTextRetrieval)
    converted(tmp_path / "vilt", tmp_path / "run")
    given = inputs()
    network, both = fused(tmp_path / "run", given)
    with torch.no_grad():
        expected = model(**given).logits[:, 0]
        found = network.named_objectives()["retrieval"].match_score(both.pooled)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def authors_names(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights of a ViltForMaskedLM by the names of the authors' code."""
    state, named = model.state_dict(), {}
    layer = "vilt.encoder.layer."
    inner = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    outer = {
        "vilt.embeddings.text_embeddings.": "text_embeddings.",
        "vilt.embeddings.token_type_embeddings.": "token_type_embeddings.",
        "vilt.embeddings.cls_token": "transformer.cls_token",
        "vilt.embeddings.position_embeddings": "transformer.pos_embed",
        "vilt.embeddings.patch_embeddings.projection.": "transformer.patch_embed.proj.",
        "vilt.layernorm.": "transformer.norm.",
        "mlm_score.decoder.bias": "mlm_score.bias",
    }
    for name, tensor in state.items():
        if name.startswith(layer):
            index, _, rest = name.removeprefix(layer).partition(".")
            module, _, kind = rest.rpartition(".")
            if module.startswith("attention.attention."):
                parts = [f"{layer}{index}.attention.attention.{p}.{kind}" for p in QKV]
                named[f"transformer.blocks.{index}.attn.qkv.{kind}"] = torch.cat(
                    [state[part] for part in parts]
                )
            else:
                named[f"transformer.blocks.{index}.{inner[module]}.{kind}"] = tensor
            continue
        for theirs, authors in outer.items():
            if name.startswith(theirs):
                name = authors + name.removeprefix(theirs)
                break
        named[name.removeprefix("vilt.")] = tensor
    return named


QKV = ("query", "key", "value")
# Of ten people, so many gave the answer.
SCORES = {1: 0.3, 2: 0.6, 3: 0.9}


def checkpoint(folder: Path, **more: Any) -> PreTrainedModel:
    """Write a checkpoint as the authors' code does."""
    model = tiny(folder, ViltForMaskedLM)
    weights = {
        **authors_names(model),
        "text_embeddings.position_ids": torch.arange(24)[None],
        "itm_score.fc.weight": torch.randn(2, 16),
        "itm_score.fc.bias": torch.randn(2),
        "mpp_score.decoder.weight": torch.randn(5, 16),
    }
    settings = {"config": {"num_heads": 2, "loss_names": {"mlm": 1}}}
    content = {"state_dict": weights, "hyper_parameters": settings, "epoch": 3, **more}
    torch.save(content, folder / "vilt.ckpt")
    return model


def test_a_checkpoint_of_the_authors_code(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    out = converted(tmp_path / "vilt.ckpt", tmp_path / "run", "--tokenizer", str(tmp_path))
    given = inputs()
    network, both = fused(tmp_path / "run", given)
    with torch.no_grad():
        expected = model(**given).logits
    logits = head(network, "mlm", both.text.hidden_states)
    real = given["attention_mask"].bool()
    torch.testing.assert_close(logits[real], expected[real], atol=1e-5, rtol=0)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["objectives.itm"][:3] == ["loaded", "2", "34"]
    assert rows["mpp_score.decoder"] == ["left", "behind", "1", "80"]
    assert out.splitlines()[-1] == f"written: {tmp_path / 'run'}"


def test_a_run_starts_from_it(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    converted(tmp_path / "vilt.ckpt", tmp_path / "run", "--tokenizer", str(tmp_path))
    tables = tomli.loads((tmp_path / "run" / "spec.toml").read_text())
    model = tables_to_toml({"model": tables["model"]})
    text = TINY[: TINY.index("[model.text_encoder]")] + model + TINY[TINY.index("[data]") :]
    settings = [f'model.init_from="{tmp_path}/run"', f'data.tokenizer="{tmp_path}"']
    assert run_here(write_spec(tmp_path, text), tmp_path, *settings, "train.max_steps=1") == 0


class Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


class Notes:
    """A class that unpickling would have to import."""


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"callbacks": Notes()}, f"holds more than tensors: an object of {__name__}.Notes"),
        ({"x": Code()}, "holds more than tensors: an object of posix.system"),
    ],
)
def test_more_than_tensors_is_refused_by_name(
    more: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, **more}, tmp_path / "a.ckpt")
    arguments = ("--from", "vilt", "--output", str(tmp_path / "run"))
    finished = renaissance("convert", str(tmp_path / "a.ckpt"), *arguments)
    assert finished.code == 2
    assert f"{tmp_path}/a.ckpt: {named}" in finished.err
    assert "torch.load(FILE, weights_only=False)" in finished.err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state_dict": {"a": torch.ones(1), "b": [3]}}, "holds more than tensors: b (list)"),
        ({"state_dict": 3}, "holds no tensors by name, and no state_dict with them: got int"),
        ({}, "holds no tensors by name, and no state_dict with them: got dict"),
    ],
)
def test_a_state_dict_of_other_things_is_refused(content: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        tensors_of(content)


def test_reading_a_file_has_no_network_and_starts_no_process() -> None:
    code = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from unpickle import forbid_network_and_processes
forbid_network_and_processes()
for attempt in (lambda: socket.create_connection(("127.0.0.1", 1)), lambda: os.system("true")):
    try:
        attempt()
    except PermissionError as error:
        print(error)
"""
    folder = str(Path(unpickle.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "reading a checkpoint must not need socket.getaddrinfo",
        "reading a checkpoint must not need os.system",
    ]


def test_what_is_no_vilt_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.ckpt").write_bytes(b"no checkpoint")
    for name, reason in (
        ("a.safetensors", "no ViLT: it has no emb"),
        ("b.ckpt", "is no file that"),
    ):
        arguments = ("--from", "vilt", "--output", str(tmp_path / "run"))
        finished = renaissance("convert", str(tmp_path / name), *arguments)
        assert finished.code == 2
        assert f"{name}: {reason}" in finished.err


def test_missing_and_other_shapes_are_named(tmp_path: Path) -> None:
    tiny(tmp_path / "vilt", ViltForQuestionAnswering, num_labels=3)
    weights = load_file(tmp_path / "vilt" / "model.safetensors")
    del weights["classifier.1.bias"]
    save_file(weights, tmp_path / "vilt" / "model.safetensors", metadata={"format": "pt"})
    arguments = ("--from", "vilt", "--output", str(tmp_path / "run"))
    finished = renaissance("convert", str(tmp_path / "vilt"), *arguments)
    assert finished.code == 2
    assert "objectives.vqa.head.layer_norm.bias: not in the checkpoint" in finished.err
    assert not (tmp_path / "run").exists()


def test_without_a_head_matching_begins_anew(tmp_path: Path) -> None:
    tiny(tmp_path / "vilt", AutoModel.from_config)
    out = converted(tmp_path / "vilt", tmp_path / "run")
    assert "objectives.itm" in out
    assert "newly initialized" in out


@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ,
    reason="RENAISSANCE_SHARED_DATA names no folder of real questions",
)
def test_evaluation_on_real_questions_gives_the_librarys_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(os.environ["RENAISSANCE_SHARED_DATA"])
    prepare("vqav2", data / "vqa_v2", tmp_path / "data")
    answers = json.loads((tmp_path / "data" / "vqav2_answers.json").read_text())
    # In another order than that of the prepared data, and with one more.
    names = dict(enumerate([*reversed(answers), "a hedgehog"]))
    vocabulary = (data / "bert-base-uncased-vocab.txt").read_text().split("\n")
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary) if word})
    tokenizer.save_pretrained(tmp_path / "vilt")
    config = ViltConfig(**SIZES, vocab_size=len(tokenizer), id2label=names, num_labels=len(names))
    model = save(tmp_path / "vilt", ViltForQuestionAnswering(config))
    converted(tmp_path / "vilt", tmp_path / "run")
    rows = list(recorded(monkeypatch))
    finished = renaissance(
        "evaluate",
        str(tmp_path / "run"),
        f'data.root="{tmp_path}/data"',
        'data.validate=[{type = "vqav2"}]',
        "evaluate.micro_batch_size=8",
        "--predictions",
        str(tmp_path / "answers.json"),
    )
    assert (finished.code, finished.err) == (0, "")
    assert sum(len(row["logits"]) for row in rows[0]) > 10
    right = []
    for row in rows[0]:
        given = {name: row[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        with torch.no_grad():
            expected = model(**given).logits
        torch.testing.assert_close(row["logits"], expected, atol=1e-5, rtol=0)
        right += [names[index] for index in expected.argmax(1).tolist()]
    entries = json.loads((tmp_path / "answers.json").read_text())
    results = json.loads((tmp_path / "run" / "results.json").read_text())["validate"]["metrics"]
    given = soft_scores_of(data / "vqa_v2" / "v2_mscoco_val2014_annotations.json")
    scores = [given[entry["question_id"]].get(entry["answer"], 0.0) for entry in entries]
    assert sum(scores) > 0
    assert results["vqa/accuracy"] == pytest.approx(sum(scores) / len(scores))
    predicted = [entry["answer"] for entry in entries]
    assert predicted == right


def soft_scores_of(file: Path) -> dict[int, dict[str, float]]:
    """Return the official score of each answer that people gave to a question."""
    scores = {}
    for entry in json.loads(file.read_text())["annotations"]:
        counts = Counter(normalize_answer(given["answer"]) for given in entry["answers"])
        scores[entry["question_id"]] = {
            answer: SCORES.get(count, 1.0) for answer, count in counts.items()
        }
    return scores


def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Tensor]]]:
    """Record what a model is given in each micro-batch, row by row, and its logits."""
    rows: list[dict[str, Tensor]] = []
    seen: dict[str, Tensor] = {}
    encode_text, encode_image = OneTower.encode_text, OneTower.encode_image
    fuse, logits_of = OneTower.fuse, VQA.logits

    def text(self: Any, input_ids: Tensor, mask: Tensor, packing: Any = None) -> Any:
        seen.update(input_ids=input_ids, attention_mask=mask.long())
        return encode_text(self, input_ids, mask, packing)

    def image(self: Any, pixel_values: Tensor) -> Any:
        seen.update(pixel_values=pixel_values)
        return encode_image(self, pixel_values)

    def pairs(self: Any, texts: Any, pictures: Any, requests: Any) -> Any:
        (request,) = requests
        for name in ("input_ids", "attention_mask"):
            seen[name] = seen[name][request.text_rows]
        seen["pixel_values"] = seen["pixel_values"][request.image_rows]
        return fuse(self, texts, pictures, requests)

    def logits(self: Any, batch: Any, features: Any) -> Tensor:
        found = logits_of(self, batch, features)
        rows.append({**seen, "logits": found})
        return found

    monkeypatch.setattr(OneTower, "encode_text", text)
    monkeypatch.setattr(OneTower, "encode_image", image)
    monkeypatch.setattr(OneTower, "fuse", pairs)
    monkeypatch.setattr(VQA, "logits", logits)
    yield rows
