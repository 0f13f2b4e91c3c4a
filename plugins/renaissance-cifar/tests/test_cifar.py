"""The official files as they are, pickles that are refused, runs over images alone, the package."""

import io
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from renaissance_cifar.dataset import CIFAR10, CLASSES
from renaissance_cifar.objective import ImageClassification
from renaissance_cifar.pickled import read_pickled_batch
from support.command_line import renaissance
from support.fresh_environment import FreshEnvironment, copy_package
from support.installing import install_source
from support.running import TINY, metrics, one_tower_spec, run_here, torchrun, write_spec

from renaissance import DataError, DatasetContext, Features, ObjectiveBatch, Sample, Tokens
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.testing import check_dataset, check_objective

PACKAGE = Path(__file__).parents[1]
RECIPES = sorted((PACKAGE / "recipes").glob("*.toml"))
NUM_A_BATCH = 4


def pictures(seed: int) -> tuple[np.ndarray, list[int]]:
    """Pixels of a batch, (pictures, 3, 32, 32), and classes."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (NUM_A_BATCH, 3, 32, 32), dtype=np.uint8)
    return pixels, generator.integers(0, 10, NUM_A_BATCH).tolist()


def python2_pickle(content: dict[str, Any]) -> bytes:
    """Pickle as the official files were, with the names of that time and strings for bytes.

    They begin with a string of Python 2, an opcode that Python 3 does not write any more.
    """

    class Old(pickle._Pickler):
        """Writes every str and bytes as a string of Python 2."""

        dispatch: ClassVar = dict(pickle._Pickler.dispatch)

        def save_old(self, value: Any) -> None:
            data = value if isinstance(value, bytes) else value.encode("latin-1")
            self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
            self.memoize(value)

        dispatch[str] = save_old
        dispatch[bytes] = save_old

    file = io.BytesIO()
    Old(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_batches(folder: Path, layout: str) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        pixels, labels = pictures(seed)
        rows = pixels.reshape(NUM_A_BATCH, -1)
        if layout == "binary":
            data = np.concatenate([np.array(labels, np.uint8)[:, None], rows], axis=1).tobytes()
            (folder / f"{name}.bin").write_bytes(data)
            continue
        content = {"batch_label": "batch", "labels": labels, "data": rows, "filenames": ["a.png"]}
        data = python2_pickle(content) if layout == "python 2" else pickle.dumps(content)
        (folder / name).write_bytes(data)


def open_dataset(root: Path, training: bool = True, **options: Any) -> CIFAR10:
    context = DatasetContext(root=root, seed=0, training=training)
    return CIFAR10(CIFAR10.Options(**options), context)


def read(dataset: CIFAR10, index: int) -> Sample:
    return dataset.sample(index, np.random.default_rng(0))


# --- files ---


@pytest.mark.parametrize("layout", ["python 2", "python 3", "binary"])
def test_the_official_batches(layout: str, tmp_path: Path) -> None:
    write_batches(tmp_path / "cifar10", layout)
    train, test = open_dataset(tmp_path), open_dataset(tmp_path, training=False)
    assert (len(train), len(test)) == (5 * NUM_A_BATCH, NUM_A_BATCH)
    for index in range(len(train)):
        pixels, labels = pictures(index // NUM_A_BATCH)
        sample = read(train, index)
        row = index % NUM_A_BATCH
        assert sample.labels == {"label": labels[row]}
        # (height, width, channels)
        assert (np.asarray(sample.images[0]) == pixels[row].transpose(1, 2, 0)).all()
    pixels, labels = pictures(5)
    assert (np.asarray(read(test, 1).images[0]) == pixels[1].transpose(1, 2, 0)).all()
    suffix = ".bin" if layout == "binary" else ""
    assert read(train, 6).source == f"{tmp_path}/cifar10/data_batch_2{suffix}: row 2"
    again = pickle.loads(pickle.dumps(train))
    assert read(again, 7).labels == read(train, 7).labels


def write_pictures(root: Path, sides: int = 32) -> None:
    for split, number in (("train", 3), ("test", 1)):
        for label, name in enumerate(CLASSES):
            folder = root / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                colour = (label * 25, i * 50, 9 if split == "test" else 0)
                Image.new("RGB", (sides, sides), colour).save(folder / f"{i:04d}.png")


def test_a_folder_of_pictures_a_class(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    train, test = open_dataset(tmp_path), open_dataset(tmp_path, split="test")
    assert (len(train), len(test)) == (30, 10)
    for index in range(30):
        sample = read(train, index)
        assert sample.labels == {"label": index // 3}
        assert sample.images[0].getpixel((0, 0)) == (index // 3 * 25, index % 3 * 50, 0)
    assert read(test, 9).images[0].getpixel((0, 0)) == (225, 0, 9)
    (tmp_path / "cifar10/train/truck").rename(tmp_path / "cifar10/train/lorry")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    assert f"{tmp_path}/cifar10/train: folders airplane, automobile, bird" in str(caught.value)
    assert "lorry, ship; expected one per class: airplane" in str(caught.value)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil-ran",)


class Objects:
    """An array that would make objects of whatever its state lists."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.array([1, "a", None], dtype=object).__reduce__()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"data": Evil(), "labels": [1]}, "it asks for posix.system"),
        ({"data": np.float64(1), "labels": [1]}, "it asks for numpy._core.multiarray.scalar"),
        ({"data": Objects(), "labels": [1]}, "an array of type 'O8', expected 'u1' in rows"),
        ({"data": np.zeros((1, 3072), np.int64), "labels": [1]}, "an array of type 'i8'"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "KeyError: 'labels'"),
        ({"data": [1, 2], "labels": [1]}, "'list' object has no attribute 'decoded'"),
    ],
)
def test_pickles_of_anything_else_are_refused(
    content: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    # The protocol in which an array states its bytes in the pickle itself.
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(DataError) as caught:
        read_pickled_batch(path)
    assert str(caught.value).startswith(f"{path}: not read (")
    assert reason in str(caught.value)
    assert "no other is loaded" in str(caught.value)
    assert not (tmp_path / "evil-ran").exists()


def test_an_array_that_is_said_to_be_larger_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    content = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}
    shape, other = (pickle.BININT1 + bytes([n]) + b"M\x00\x0c\x86" for n in (2, 9))
    data = pickle.dumps(content, protocol=4)
    assert shape in data
    path.write_bytes(data.replace(shape, other))
    with pytest.raises(DataError, match="cannot reshape array"):
        read_pickled_batch(path)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, folder="here")
    assert str(caught.value).startswith(
        f"{tmp_path}/here: no data_batch_1, data_batch_1.bin or train/; expected the official files"
    )
    folder = tmp_path / "cifar10"
    write_batches(folder, "binary")
    path = folder / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        DataError, match=r"data_batch_3\.bin: 12291 bytes, expected a multiple of 3"
    ):
        open_dataset(tmp_path)
    path.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: row 0: label is 11, expected 0 to 9"):
        read(open_dataset(tmp_path), 2 * NUM_A_BATCH)
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: no such file, though .* has others"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, split="test")) == NUM_A_BATCH


@pytest.mark.parametrize("layout", ["python 3", "binary", "pictures"])
def test_the_dataset_keeps_its_contract(layout: str, tmp_path: Path) -> None:
    if layout == "pictures":
        write_pictures(tmp_path)
    else:
        write_batches(tmp_path / "cifar10", layout)
    check_dataset(CIFAR10, root=tmp_path)


def test_every_real_picture() -> None:
    root = os.environ.get("RENAISSANCE_SHARED_DATA")
    if root is None:
        pytest.skip("RENAISSANCE_SHARED_DATA names no folder with cifar10")
    for split, number in (("train", 100), ("test", 30)):
        dataset = open_dataset(Path(root), split=split)
        labels = [read(dataset, index).labels["label"] for index in range(len(dataset))]
        assert np.bincount(labels).tolist() == [number] * 10
        assert np.asarray(read(dataset, 0).images[0]).shape == (32, 32, 3)


# --- objective ---


def samples(number: int = 8) -> list[Sample]:
    generator = np.random.default_rng(1)
    return [
        Sample(
            images=(Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)),),
            image_ids=(index,),
            labels={"label": index % 10},
            source=f"given: {index}",
        )
        for index in range(number)
    ]


def test_the_objective_keeps_its_contract() -> None:
    check_objective(ImageClassification, samples=samples())


def test_real_tokens_are_averaged() -> None:
    context: Any = SimpleNamespace(
        sizes=SimpleNamespace(image=2), make_head=lambda *_: torch.nn.Identity()
    )
    objective = ImageClassification(ImageClassification.Options(num_classes=2), context)
    states = torch.tensor([[[1.0, 0.0], [9.0, 9.0]], [[2.0, 0.0], [0.0, 6.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    batch = ObjectiveBatch(
        num_targets=2, tensors={"image_rows": torch.tensor([1, 0]), "labels": torch.tensor([1, 0])}
    )
    output = objective(batch, Features(image=Tokens(states, mask)))
    assert output.predictions["logits"].tolist() == [[1.0, 3.0], [1.0, 0.0]]
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))
    assert float(output.loss_sum) == pytest.approx(expected, abs=1e-6)


# --- runs ---


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as pip would install it, for one test."""
    folder = tmp_path / "site"
    folder.mkdir()
    install_source(PACKAGE, folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def image_spec(folder: Path, base: str) -> Path:
    """Write a tiny spec that trains on pictures of one colour a class."""
    write_pictures(folder)
    data, end = base.index("[[data.train]]"), base.index("[optimizer]")
    own = '[[data.train]]\ntype = "cifar10"\n\n[[data.validate]]\ntype = "cifar10"\n\n'
    own += '[[objectives]]\ntype = "image-classification"\n\n'
    text = base[:data] + own + base[end:]
    return write_spec(folder, text.replace("[data]\n", f'[data]\nroot = "{folder}"\n', 1))


@pytest.mark.parametrize("base", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_a_run_on_images_alone(base: str, site: Path, tmp_path: Path) -> None:
    spec = image_spec(tmp_path, base)
    settings = ["train.max_steps=60", "evaluate.every_steps=60", "optimizer.learning_rate=1e-2"]
    assert run_here(spec, tmp_path / "runs", *settings) == 0
    lines = metrics(tmp_path / "runs" / "tiny")
    # Ten colours; a tenth by chance.
    assert lines[-1]["image-classification/accuracy"] >= 0.5
    run, files = str(tmp_path / "runs" / "tiny"), [tmp_path / "evaluated", tmp_path / "predicted"]
    for command, file in zip(
        (["evaluate", run, "--predictions"], ["predict", run, "--split", "validate", "--output"]),
        files,
        strict=True,
    ):
        finished = renaissance(*command, str(file))
        assert finished.code == 0, finished.err
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("base", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_two_ranks_measure_what_one_does(base: str, site: Path, tmp_path: Path) -> None:
    spec = image_spec(tmp_path, base)
    settings = ["train.max_steps=6", "evaluate.every_steps=3"]
    found = {}
    for ranks in (1, 2):
        finished = torchrun(
            ranks,
            *(str(spec), f"run.output_dir={tmp_path / str(ranks)}", *settings),
            PYTHONPATH=str(site),
        )
        assert finished.returncode == 0, finished.stderr
        found[ranks] = [
            [line[f"image-classification/{name}"] for name in ("loss", "accuracy")]
            for line in metrics(tmp_path / str(ranks) / "tiny")
            if line["split"] == "validate"  # type: ignore[comparison-overlap]
        ]
    assert len(found[1]) == 2
    np.testing.assert_allclose(found[2], found[1], atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_complete(recipe: Path, site: Path) -> None:
    spec = load_spec([str(recipe)], load_plugins())
    assert [dataset.type for dataset in (*spec.data.train, *spec.data.validate)] == ["cifar10"] * 2
    assert [objective.type for objective in spec.objectives] == ["image-classification"]
    assert spec.checkpoint.best_metric == "image-classification/accuracy"
    assert spec.checkpoint.best_mode == "max"


@pytest.mark.slow
def test_the_package_in_a_fresh_environment(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    copy_package("renaissance-cifar", tmp_path)
    fresh.run("pip install ./renaissance-cifar")
    assert "nothing is wrong" in fresh.run("renaissance plugins doctor")
    spec = image_spec(tmp_path, TINY)
    fresh.run(f"torchrun --standalone --nproc-per-node 2 -m renaissance {spec} train.max_steps=4")
    assert metrics(tmp_path / "runs" / "tiny")[-1]["step"] == 4
    fresh.run(
        "renaissance evaluate runs/tiny --split test --predictions test.jsonl", expected_exit=0
    )
    assert len((tmp_path / "test.jsonl").read_text().splitlines()) == 10
