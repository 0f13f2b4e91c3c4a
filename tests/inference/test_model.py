"""`renaissance.load` and what the model answers."""

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.running import TINY, one_tower_spec, run_here, write_spec
from support.tiny_models import save_model
from transformers import BertTokenizer

import renaissance
from renaissance import CheckpointError, DataError, Model, RunError, SpecError
from renaissance.data.images import square_pixels
from renaissance.data.open_image import ImageLimits
from renaissance.inference.loading import load

ITC = '[[objectives]]\ntype = "itc"\nprojection_size = 8\n\n[[objectives]]\ntype = "mlm"'
TEXTS = ["a red circle", "a small blue square above a large red circle", "green", "a red circle"]


def _with_itc(text: str) -> str:
    return text.replace('[[objectives]]\ntype = "mlm"', ITC)


def _pictures(count: int = 5) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8)) for _ in range(count)
    ]


@pytest.fixture(scope="module", params=["two-tower", "one-tower"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of either architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    text = TINY if request.param == "two-tower" else one_tower_spec()
    run_here(write_spec(folder, _with_itc(text)), folder, "train.max_steps=2")
    return folder / "tiny"


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    """The model of that run."""
    return load(run)


def _by_hand(model: Model, picture: Image.Image, text: str) -> tuple[float, float]:
    """Return probability and similarity of one pair, by the parts of the network."""
    pixels = square_pixels(
        picture,
        model.spec.data.transform.build(renaissance.TransformContext(32, False, (0.5, 0.5, 0.5))),
        np.random.default_rng(),
        ImageLimits(),
        "here",
    )
    network = model.network
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        text_states = network.model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
        image_states = network.model.encode_image(network.normalize(torch.tensor(pixels)[None]))
        row = torch.tensor([0])
        fused = network.model.fuse(text_states, image_states, [renaissance.Pairs(row, row)])[0]
        itm, itc = network.objectives["itm"], network.objectives["itc"]
        probability = itm.head(fused.pooled).softmax(-1)[0, 1]
        alone = (
            network.model.text_features(text_states),
            network.model.image_features(image_states),
        )
        similarity = itc.similarity(*alone)[0, 0]
    return float(probability), float(similarity)


def test_matches_are_those_of_each_pair_alone(model: Model) -> None:
    pictures = _pictures()
    match = model.match(pictures, TEXTS)
    expected = np.array([[_by_hand(model, p, t) for t in TEXTS] for p in pictures])
    assert match.probability is not None
    assert match.similarity is not None
    np.testing.assert_allclose(match.probability, expected[..., 0], atol=1e-6)
    np.testing.assert_allclose(match.similarity, expected[..., 1], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(model: Model, batch_size: int) -> None:
    pictures = _pictures()
    expected, actual = (model.match(pictures, TEXTS, batch_size=n) for n in (None, batch_size))
    np.testing.assert_allclose(actual.probability, expected.probability, atol=1e-6)
    np.testing.assert_allclose(actual.similarity, expected.similarity, atol=1e-6)
    embedded = model.embed(images=pictures, batch_size=batch_size)
    np.testing.assert_allclose(embedded, model.embed(images=pictures), atol=1e-6)


def test_embeddings_are_unit_vectors_whose_products_are_the_similarities(model: Model) -> None:
    pictures = _pictures()
    images, texts = model.embed(images=pictures), model.embed(texts=TEXTS)
    assert images.dtype == np.float32
    assert images.shape == (5, 8)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    similarity = model.match(pictures, TEXTS).similarity
    np.testing.assert_allclose(images @ texts.T, similarity, atol=1e-6)


def test_ranking_sorts_by_probability_within_the_shortlist(model: Model) -> None:
    pictures = _pictures()
    match = model.match(pictures, TEXTS)
    assert match.probability is not None
    assert match.similarity is not None
    everything = model.rank(TEXTS, pictures, top=3)
    assert [[i for i, _ in row] for row in everything] == [
        np.argsort(-column, kind="stable")[:3].tolist() for column in match.probability.T
    ]
    nearest = np.argsort(-match.similarity[:, 0])[:2]
    shortlisted = model.rank(TEXTS[:1], pictures, top=2, shortlist=2)[0]
    assert {i for i, _ in shortlisted} == set(nearest.tolist())
    assert shortlisted[0][1] == pytest.approx(match.probability[nearest, 0].max(), abs=1e-6)


def test_every_form_of_a_picture_is_the_same_picture(model: Model, tmp_path: Path) -> None:
    picture = _pictures(1)[0]
    path = tmp_path / "picture.png"
    picture.save(path)
    forms = [str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), np.asarray(picture)]
    embedded = model.embed(images=[picture, *forms])
    assert (embedded == embedded[0]).all()


def test_threads_get_the_same_answers(model: Model) -> None:
    pictures = _pictures()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: model.match(pictures, TEXTS).probability, range(12)))
    assert all((answer == answers[0]).all() for answer in answers)


def test_masks_are_filled_from_the_mlm_head(model: Model) -> None:
    picture = _pictures(1)[0]
    filled = model.fill_mask(picture, "a [MASK] circle above [MASK]", top=3)
    assert [len(words) for words in filled] == [3, 3]
    # By hand: the head's softmax at the masks, whose tokens are the 2nd and 5th after [CLS].
    ids = torch.tensor([model.tokenizer("a [MASK] circle above [MASK]")["input_ids"]])
    network = model.network
    pixels = model.spec.data.transform.build(
        renaissance.TransformContext(32, False, (0.5, 0.5, 0.5))
    ).pixels(picture, np.random.default_rng())
    with torch.no_grad():
        text = network.model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
        image = network.model.encode_image(network.normalize(torch.tensor(pixels)[None]))
        row = torch.tensor([0])
        pairs = renaissance.Pairs(row, row, outputs=frozenset({"text"}))
        states = network.model.fuse(text, image, [pairs])[0].text.hidden_states
        expected = network.objectives["mlm"].head(states[0, [2, 5]]).softmax(-1)
    for words, probabilities in zip(filled, expected, strict=True):
        best = probabilities.topk(3)
        assert [p for _, p in words] == pytest.approx(best.values.tolist(), abs=1e-6)
        decoded = model.tokenizer.convert_ids_to_tokens(best.indices.tolist())
        assert [word for word, _ in words] == decoded


def test_attention_adds_up_over_the_patches(model: Model) -> None:
    attention = model.attention(_pictures(1)[0], "a red circle")
    assert attention is not None
    assert attention.words == ("a", "red", "circle")
    # 32 / 16 = 2 patches a side.
    assert attention.weights.shape == (3, 2, 2)
    np.testing.assert_allclose(attention.weights.sum((1, 2)), 1, atol=1e-6)


@pytest.mark.parametrize("run", ["two-tower"], indirect=True)
def test_attention_is_that_of_the_last_layer_from_text_to_image(model: Model) -> None:
    """By hand: queries of the text, keys of the image, in the last co-attention layer."""
    seen = []
    layer = model.network.model.fusion.layers[-1].text_stream.cross_attention
    hook = layer.attend

    def attend(hidden_states, query, key, value, mask):  # type: ignore[no-untyped-def]
        seen.append((query, key))
        return hook(hidden_states, query, key, value, mask)

    layer.attend = attend
    try:
        attention = model.attention(_pictures(1)[0], "a red circle")
    finally:
        layer.attend = hook
    query, key = (states[0].view(-1, 2, 8).transpose(0, 1) for states in seen[-1])
    weights = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1).mean(0)[1:4, 1:]
    expected = weights / weights.sum(1, keepdim=True)
    assert attention is not None
    np.testing.assert_allclose(attention.weights.reshape(3, 4), expected.numpy(), atol=1e-6)


def test_a_moved_run_needs_neither_its_data_nor_its_checkpoints_sources(tmp_path: Path) -> None:
    """The tokenizer, the text model and the working directory are gone."""
    source = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle"]
    save_model(source, "bert")
    BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(source)
    start, end = TINY.index('architecture = "bert"'), TINY.index("[model.image_encoder]")
    text = TINY[:start] + f'checkpoint = "{source}"\n\n' + TINY[end:]
    text = text.replace('tokenizer = "dataset"\n', "")
    spec = write_spec(tmp_path, text.replace("max_text_length = 24", "max_text_length = 20"))
    run_here(spec, tmp_path / "runs", "train.max_steps=2")
    before = load(tmp_path / "runs" / "tiny").match(_pictures(), TEXTS).probability
    shutil.rmtree(source)
    moved = tmp_path / "elsewhere" / "2024"
    shutil.move(tmp_path / "runs" / "tiny", moved)
    model = load(moved)
    assert (model.match(_pictures(), TEXTS).probability == before).all()
    assert model.checkpoint == moved.resolve() / "checkpoints" / "step-00000002"


def test_what_cannot_be_loaded_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no spec.toml there; expected a run folder"):
        load(tmp_path)
    with pytest.raises(RunError, match=r"device: 'gpu' is not there"):
        load(run, device="gpu")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(SpecError, match=r"no tokenizer there, and data.tokenizer is 'dataset'"):
        load(copy)


def test_what_the_objectives_have_not_learned_is_said(tmp_path: Path) -> None:
    start = TINY.index('[[objectives]]\ntype = "itm"')
    text = TINY[:start] + TINY[TINY.index("[optimizer]") :]
    run_here(write_spec(tmp_path, text), tmp_path, "train.max_steps=1")
    model = load(tmp_path / "tiny")
    assert model.objectives == ("mlm",)
    with pytest.raises(SpecError, match=r"cannot compare images and texts: .*\(mlm\)"):
        model.match(_pictures(), TEXTS)
    with pytest.raises(SpecError, match=r"cannot predict"):
        model.predict([{"text": "a"}])
    with pytest.raises(SpecError, match=r"cannot embed: .* train with one of itc"):
        model.embed(texts=TEXTS)


def test_unreadable_input_is_named(model: Model, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"row 1: image cannot be decoded"):
        model.match([*_pictures(1), broken], TEXTS)
    with pytest.raises(DataError, match=r"row 0: image '/nowhere.jpg' cannot be read \(No such"):
        model.match(["/nowhere.jpg"], TEXTS)
    with pytest.raises(DataError, match=r"row 0: image is an array of float64"):
        model.embed(images=[np.zeros((8, 8, 3))])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"row 1: text is 3; expected a string"):
        model.embed(texts=["a", 3])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"text: got 'a red circle', expected \[MASK\] in place"):
        model.fill_mask(_pictures(1)[0], "a red circle")


def test_another_tokenizer_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    file = copy / "tokenizer/tokenizer.json"
    file.write_text(file.read_text().replace('"circle"', '"swap"').replace('"square"', '"circle"'))
    with pytest.raises(CheckpointError, match=r"not the tokenizer that the run was trained with"):
        load(copy)
