"""A dual encoder: what it trains, what it answers, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import tomli
import torch
from PIL import Image
from support.command_line import renaissance
from support.labelled import labelled_spec
from support.running import TINY, metrics, run_here, weights, write_spec

from renaissance import Pairs, SpecError
from renaissance.contracts.features import NotFusedError
from renaissance.inference.loading import load
from renaissance.model.dual_encoder import DualEncoder
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.testing.tiny_model import TinyImage, TinyText

FUSION = TINY[TINY.index("[model.fusion]") : TINY.index("[data]")]
OBJECTIVES = TINY[TINY.index("[[objectives]]") : TINY.index("[optimizer]")]
CONTRAST = '[[objectives]]\ntype = "itc"\nprojection_size = 8\n\n'
DUAL = TINY.replace(FUSION, '[model.fusion]\ntype = "none"\n\n').replace(OBJECTIVES, CONTRAST)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dual")
    assert run_here(write_spec(folder, DUAL), folder) == 0
    return folder / "tiny"


def test_it_has_two_encoders_and_no_other_part(run: Path) -> None:
    names = weights(run, 10)
    assert {name.split(".")[0] for name in names} == {"model", "objectives"}
    parts = {name.split(".")[1] for name in names if name.startswith("model.")}
    assert parts == {"text_encoder", "image_encoder"}
    record = tomli.loads((run / "spec.toml").read_text())["model"]
    assert record["fusion"] == {"type": "none", "frozen": False}
    assert "pooler" not in record


def test_it_learns_and_is_evaluated_as_in_training(run: Path) -> None:
    lines = [line for line in metrics(run) if line["split"] == "validate"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    result = renaissance("evaluate", str(run), "--checkpoint", "last")
    assert result.code == 0, result.err
    assert f"{lines[-1]['itc/loss']:.4f}" in result.out


def test_check_prints_its_parts(tmp_path: Path) -> None:
    result = renaissance("check", str(write_spec(tmp_path, DUAL)))
    assert result.code == 0, result.err
    first_words = [line.split()[0] for line in result.out.splitlines()[:6]]
    assert first_words == ["part", "text_encoder", "image_encoder", "objective", "total", "train:"]


def test_a_trained_one_matches_and_ranks_by_similarity_alone(run: Path) -> None:
    model = load(run)
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8)) for _ in range(4)]
    texts = ["a red circle", "green", "a small blue square"]
    vectors = model.embed(images=images), model.embed(texts=texts)
    match = model.match(images, texts)
    assert match.probability is None
    assert match.similarity == pytest.approx(vectors[0] @ vectors[1].T, abs=1e-6)
    ranked = [[index for index, _ in of_text] for of_text in model.rank(texts, images, top=4)]
    assert ranked == np.argsort(-match.similarity.T, axis=1).tolist()
    assert model.attention(images[0], texts[0]) is None


def test_objectives_that_need_fused_pairs_are_refused_together(tmp_path: Path) -> None:
    text = DUAL.replace(CONTRAST, CONTRAST + OBJECTIVES)
    result = renaissance("check", str(write_spec(tmp_path, text)))
    assert result.code == 2
    assert " ".join(result.err.split()) == (
        "error: objectives: 'mlm', 'itm': reads fused pairs, but model.fusion.type = 'none' fuses "
        "none; choose a fusion, such as co-attention, or remove the objective (itc needs no "
        "fusion, nor does an objective that reads text alone or images alone)"
    )


def test_it_refuses_the_pairs_of_an_objective_that_reads_no_size() -> None:
    model = DualEncoder(TinyText(10), TinyImage())
    text = model.encode_text(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2).bool())
    image = model.encode_image(torch.zeros(1, 3, 32, 32))
    row = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(NotFusedError, match="objectives: one of them: reads fused pairs"):
        model.fuse(text, image, [Pairs(row, row)])


def test_a_pooler_is_refused_but_dropped_from_a_lower_layer(tmp_path: Path) -> None:
    pooler = '[model.pooler]\ntype = "mean"\n\n'
    together = write_spec(tmp_path, DUAL.replace("[data]", f"{pooler}[data]"))
    with pytest.raises(SpecError) as caught:
        load_spec([str(together)], load_plugins())
    assert str(caught.value) == (
        f"{together}: model.pooler: model.fusion.type = 'none' leaves nothing to pool; remove this "
        "table"
    )
    base = write_spec(tmp_path, TINY.replace("[data]", f"{pooler}[data]"))
    spec = load_spec([str(base), "model.fusion.type=none"], load_plugins())
    assert spec.model.pooler is None


@pytest.mark.parametrize("modality", ["text", "image"])
def test_an_objective_of_one_modality_trains(tmp_path: Path, modality: str) -> None:
    given: list[dict[str, object]] = [
        {"text": word, "level": level, "kind": word}
        for word, level in (("one", 0), ("two", 255)) * 8
    ]
    objective = f'type = "classification"\nlabel = "kind"\nmodalities = ["{modality}"]'
    spec = labelled_spec(tmp_path, objective, given, given)
    text = spec.read_text().replace(FUSION, '[model.fusion]\ntype = "none"\n\n')
    spec.write_text(text)
    assert run_here(spec, tmp_path, "train.max_steps=20", "optimizer.learning_rate=1e-2") == 0
    last = [line for line in metrics(tmp_path / "tiny") if line["split"] == "validate"][-1]
    assert last["classification/accuracy"] == 1.0
