"""`renaissance evaluate --suite`, on generated pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.command_line import renaissance
from support.running import TINY, run_here, write_spec

from renaissance.engine.run_folder import RunFolder
from renaissance.inference.loading import load
from renaissance.suites.layouts import SUITES
from renaissance.suites.running import score_items

COLOURS = ("red", "green", "blue", "white")
ITC = '[[objectives]]\ntype = "itc"\nprojection_size = 8\n\n[[objectives]]\ntype = "mlm"'
NUM_ITEMS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with itc, mlm and itm."""
    folder = tmp_path_factory.mktemp("run")
    text = TINY.replace('[[objectives]]\ntype = "mlm"', ITC)
    run_here(write_spec(folder, text), folder, "train.max_steps=2")
    return folder / "tiny"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Winoground of generated pictures: which colour is above which."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "images").mkdir()
    lines = []
    for index in range(NUM_ITEMS):
        above, below = COLOURS[index % 4], COLOURS[(index + 1 + index // 4) % 4]
        for image, (top, bottom) in enumerate(((above, below), (below, above))):
            picture = Image.new("RGB", (40, 40), bottom)
            ImageDraw.Draw(picture).rectangle((0, 0, 40, 20), top)
            picture.save(folder / f"images/ex_{index}_img_{image}.png")
        record = {"id": index, "caption_0": f"a {above} circle above a {below} square"}
        record["caption_1"] = f"a {below} circle above a {above} square"
        record |= {f"image_{image}": f"ex_{index}_img_{image}" for image in (0, 1)}
        lines.append(json.dumps(record))
    (folder / "examples.jsonl").write_text("\n".join(lines))
    return folder


def test_a_suite_is_scored_by_the_matching_objective(run: Path, suite: Path) -> None:
    finished = renaissance("evaluate", str(run), "--suite", "winoground", "--data", str(suite))
    assert finished.code == 0, finished.err
    assert "scored by itm" in finished.out
    record = json.loads((run / "results.json").read_text())["winoground"]
    # By each pair alone, and the formulas of the paper.
    model = load(run)
    right = {"text": 0, "image": 0, "group": 0}
    for line in (suite / "examples.jsonl").read_text().splitlines():
        item = json.loads(line)
        images = [suite / f"images/{item[f'image_{i}']}.png" for i in (0, 1)]
        s = model.match(images, [item["caption_0"], item["caption_1"]]).probability
        assert s is not None
        text = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]
        image = s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
        right["text"] += int(text)
        right["image"] += int(image)
        right["group"] += int(text and image)
    expected = {f"winoground/{name}": count / NUM_ITEMS for name, count in right.items()}
    assert record["metrics"] == pytest.approx(expected)
    assert record["num_samples"] == NUM_ITEMS
    assert record["checkpoint_sha256"]
    words = [line.split() for line in finished.out.splitlines()]
    for name, chance in (("text", "0.2500"), ("image", "0.2500"), ("group", "0.1667")):
        value = f"{expected[f'winoground/{name}']:.4f}"
        assert [f"winoground/{name}", value, chance, f"{NUM_ITEMS}"] in words


def test_without_a_matching_objective_the_similarity_scores(run: Path, suite: Path) -> None:
    model = load(run)
    del model.network.objectives["itm"]
    assert model.pair_scorer() == "itc"
    items = SUITES["winoground"].read(suite)
    scores = score_items(model, items)
    images = [image.path for item in items for image in item.images]
    texts = [text for item in items for text in item.texts]
    similarity = model.match(images, texts).similarity
    assert similarity is not None
    for index, actual in enumerate(scores):
        block = slice(2 * index, 2 * index + 2)
        np.testing.assert_allclose(actual, similarity[block, block], atol=1e-6)


def test_the_card_has_the_suite_with_its_chance(run: Path, suite: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", str(run), "--suite", "winoground", "--data", str(suite))
    assert renaissance(*arguments).code == 0
    assert renaissance("export", str(run), "--output", str(tmp_path / "out")).code == 0
    text = (tmp_path / "out/README.md").read_text()
    record = json.loads(RunFolder(run).results.read_text())["winoground"]
    assert f"`{record['command']}`" in text
    value = record["metrics"]["winoground/group"]
    assert f"| winoground/group | {value:.4f} | 0.1667 |" in text


def test_what_cannot_be_scored_is_said(run: Path, suite: Path, tmp_path: Path) -> None:
    def message(*options: str) -> str:
        finished = renaissance("evaluate", str(run), *options)
        assert finished.code == 2
        return finished.err

    data = ("--data", str(suite))
    assert "did you mean 'winoground'" in message("--suite", "winogrond", *data)
    assert "--suite NAME and --data FOLDER belong together" in message("--suite", "aro")
    assert "there is no folder" in message("--suite", "aro", "--data", str(suite / "no"))
    assert "leave out --ranks" in message("--suite", "winoground", *data, "--ranks", "2")
    assert "takes a run folder alone, got run.seed=2" in message(
        "run.seed=2", "--suite", "winoground", *data
    )
    model = load(run)
    for name in ("itm", "itc"):
        del model.network.objectives[name]
    with pytest.raises(Exception, match=r"cannot compare images and texts: .* one of itm or itc"):
        score_items(model, SUITES["winoground"].read(suite))
