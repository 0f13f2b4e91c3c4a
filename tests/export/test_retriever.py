"""`renaissance export --to sentence-transformers`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import CrossEncoder, SentenceTransformer
from support.command_line import renaissance
from support.running import TINY, one_tower_spec, run_here, write_spec
from support.whole_models import dual_encoder_of_a_clip

from renaissance.inference.loading import load

ITC = '[[objectives]]\ntype = "itc"\nprojection_size = 8\n\n[[objectives]]\ntype = "mlm"'
TEXTS = ["a red circle", "a small blue square above a large red circle", "green"]


def _trained(folder: Path, text: str) -> Path:
    text = text.replace('[[objectives]]\ntype = "mlm"', ITC)
    run_here(write_spec(folder, text), folder, "train.max_steps=1")
    return folder / "tiny"


def _pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8)) for _ in range(4)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run and its export."""
    folder = tmp_path_factory.mktemp("exported")
    run, output = _trained(folder, TINY), folder / "out"
    arguments = ("export", str(run), "--to", "sentence-transformers", "--output", str(output))
    finished = renaissance(*arguments)
    assert (finished.code, finished.err) == (0, "")
    return run, output


def test_plain_sentence_transformers_retrieves_and_re_ranks(exported: tuple[Path, Path]) -> None:
    run, output = exported
    # No module of ours is needed to retrieve.
    types = json.loads((output / "router_config.json").read_text())["types"].values()
    assert all(name.startswith("sentence_transformers.") for name in types)
    pictures = _pictures()
    model = load(run)
    retriever = SentenceTransformer(str(output), device="cpu")
    np.testing.assert_allclose(retriever.encode(TEXTS), model.embed(texts=TEXTS), atol=1e-5)
    # Their image processor rounds before cropping.
    expected = model.embed(images=pictures)
    np.testing.assert_allclose(retriever.encode(pictures), expected, atol=0.02)
    reranker = CrossEncoder(str(output / "reranker"), device="cpu", trust_remote_code=True)
    match = model.match(pictures, TEXTS).probability
    assert match is not None
    pairs = [(text, picture) for picture in pictures for text in TEXTS]
    np.testing.assert_allclose(reranker.predict(pairs), match.ravel(), atol=0.02)
    ranked = [entry["corpus_id"] for entry in reranker.rank(TEXTS[0], pictures)]
    assert ranked == [index for index, _ in model.rank(TEXTS[:1], pictures)[0]]
    with pytest.raises(ValueError, match="trust_remote_code"):
        CrossEncoder(str(output / "reranker"), device="cpu")
    files = {path.name for path in (output / "reranker").iterdir()}
    assert {"pair_scorer.pt2", "pair_scorer_module.py", "requirements.txt"} <= files
    text = (output / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: sentence-transformers\n")
    assert 'reranker = CrossEncoder("out/reranker", trust_remote_code=True)' in text


RERANK = """
import sys
sys.modules["renaissance"] = None  # as if it were not installed
import numpy as np
from PIL import Image
from sentence_transformers import CrossEncoder
generator = np.random.default_rng(0)
size, texts = int(sys.argv[2]), [*sys.argv[3:]]
pictures = [
    Image.fromarray(generator.integers(0, 256, (size, size, 3), np.uint8)) for _ in texts
]
reranker = CrossEncoder(sys.argv[1], device="cpu", trust_remote_code=True)
print(*reranker.predict([[picture, text] for picture in pictures for text in texts]))
"""


def test_the_re_ranker_needs_nothing_of_renaissance(exported: tuple[Path, Path]) -> None:
    run, output = exported
    model = load(run)
    size = model.spec.data.image_size
    # Both cut a text that is too long for the model.
    texts = [*TEXTS, "a red circle " * 40]
    command = [sys.executable, "-c", RERANK, str(output / "reranker"), str(size), *texts]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    generator = np.random.default_rng(0)
    pictures = [
        Image.fromarray(generator.integers(0, 256, (size, size, 3), np.uint8)) for _ in texts
    ]
    expected = model.match(pictures, texts).probability
    assert expected is not None
    np.testing.assert_allclose([float(p) for p in printed.split()], expected.ravel(), atol=1e-5)


CAUSAL = """
[model.text_encoder]
type = "hf-text"
architecture = "clip_text_model"
[model.text_encoder.config]
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
"""


@pytest.mark.parametrize("family", ["bert", "clip_text_model"])
def test_without_an_image_processor_only_texts_are_embedded(family: str, tmp_path: Path) -> None:
    text = TINY.replace("num_workers = 0", 'num_workers = 0\ntransform = { type = "pixelbert" }')
    start = text.index('[[objectives]]\ntype = "itm"')
    text = text[:start] + text[text.index("[optimizer]") :]
    if family == "clip_text_model":
        start = text.index("[model.text_encoder]")
        text = text[:start] + CAUSAL + text[text.index("[model.image_encoder]") :]
    run, output = _trained(tmp_path, text), tmp_path / "out"
    arguments = ("export", str(run), "--to", "sentence-transformers", "--output", str(output))
    assert "transform 'pixelbert' does; only texts are embedded" in renaissance(*arguments).out
    retriever = SentenceTransformer(str(output), device="cpu")
    expected = load(run).embed(texts=TEXTS)
    np.testing.assert_allclose(retriever.encode(TEXTS), expected, atol=1e-5)
    assert not (output / "reranker").exists()


def test_a_norm_before_the_projection_is_exported(tmp_path: Path) -> None:
    # In words of letters, some texts of the check are cut.
    settings = [*dual_encoder_of_a_clip(tmp_path / "clip"), "train.max_steps=1"]
    run_here(write_spec(tmp_path), tmp_path, *settings)
    run, output = tmp_path / "tiny", tmp_path / "out"
    arguments = ("export", str(run), "--to", "sentence-transformers", "--output", str(output))
    finished = renaissance(*arguments)
    assert (finished.code, finished.err) == (0, "")
    assert "images: differ by at most" in finished.out
    model, retriever = load(run), SentenceTransformer(str(output), device="cpu")
    assert [type(module).__name__ for module in retriever[0].sub_modules["image"]] == [
        "Transformer",
        "Pooling",
        "LayerNorm",
        "Dense",
        "Normalize",
    ]
    np.testing.assert_allclose(retriever.encode(TEXTS), model.embed(texts=TEXTS), atol=1e-5)


def test_models_that_other_modules_cannot_express_are_refused(tmp_path: Path) -> None:
    def refusal(run: Path) -> str:
        output = str(tmp_path / "out")
        form = ("--to", "sentence-transformers")
        finished = renaissance("export", str(run), *form, "--output", output)
        assert finished.code == 2
        return finished.err

    (tmp_path / "one").mkdir()
    one_tower = _trained(tmp_path / "one", one_tower_spec())
    assert "encoder is not a model of transformers alone; expected a two-tower" in refusal(
        one_tower
    )
    run_here(write_spec(tmp_path, TINY), tmp_path, "train.max_steps=1")
    refused = (
        "none of the objectives (mlm, itm) learns embeddings by a linear layer; train with itc"
    )
    assert refused in refusal(tmp_path / "tiny")
    assert not (tmp_path / "out").exists()
