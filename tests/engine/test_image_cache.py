"""`data.cache`: cached runs are those without a cache, bit by bit, and decode and encode less."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.arrow_files import picture, rows, spec_with_files, write_arrow
from support.asserting import assert_refused
from support.command_line import renaissance
from support.running import metrics, one_tower_spec, run_here, weights, write_spec
from support.two_ranks import on_two_ranks

from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.transforms.square import SquareTransform
from renaissance.errors import DataError, RunError

# 12 images with two captions each: 24 samples, of which 80 are trained on and 24 evaluated.
NUM_IMAGES = 12
CACHES = ("pixels", "tokens")
FROZEN = "model.image_encoder.frozen=true"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/renaissance/images"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the images that are decoded in this process, and those that are encoded."""
    counts = {"decoded": 0, "encoded": 0}
    pixels, encode = SquareTransform.pixels, HFImageEncoder.encode_image

    def counted_pixels(self, image, generator):
        counts["decoded"] += 1
        return pixels(self, image, generator)

    def counted_encode(self, pixel_values):
        counts["encoded"] += len(pixel_values)
        return encode(self, pixel_values)

    monkeypatch.setattr(SquareTransform, "pixels", counted_pixels)
    monkeypatch.setattr(HFImageEncoder, "encode_image", counted_encode)
    return counts


def spec_of_files(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    spec = spec_with_files(folder)
    write_arrow(folder / "train.arrow", rows(NUM_IMAGES, num_captions=2))
    validate = '[[data.validate]]\ntype = "image-text"\nfiles = "train.arrow"\n\n'
    spec.write_text(spec.read_text().replace("[[objectives]]", validate + "[[objectives]]", 1))
    return spec


def spec_of_table(folder: Path) -> Path:
    """Photos that a csv file names, for a one-tower model."""
    folder.mkdir(exist_ok=True)
    spec = spec_of_files(folder)
    lines = ["image,text"]
    for index in range(NUM_IMAGES):
        (folder / f"{index}.jpg").write_bytes(picture(index))
        lines += [f"{index}.jpg,a photo of it"] * 2
    (folder / "rows.csv").write_text("\n".join(lines))
    text = spec.read_text()
    start, end = text.index("[model.text_encoder]"), text.index("[data]")
    joint = one_tower_spec()
    model = joint[joint.index("[model]") : joint.index("[data]")]
    table = 'type = "table"\nfiles = "rows.csv"\ncache = "made"\n'
    table += 'columns = {image = "image", text = "text"}'
    text = text[:start] + model + text[end:]
    spec.write_text(text.replace('type = "image-text"\nfiles = "train.arrow"', table))
    return spec


def same(ours: Path, theirs: Path) -> bool:
    """Return whether two runs have the same figures and parameters, to the last bit."""
    mine, other = weights(ours / "tiny", 10), weights(theirs / "tiny", 10)
    assert mine.keys() == other.keys()
    lines = metrics(ours / "tiny")
    return lines == metrics(theirs / "tiny") and all(torch.equal(mine[n], other[n]) for n in mine)


def test_states_in_bf16_are_those_of_autocast(tmp_path: Path) -> None:
    spec = spec_of_files(tmp_path / "data")
    settings = [FROZEN, "train.precision=bf16", "evaluate.num_panel_images=0"]
    assert run_here(spec, tmp_path / "plain", *settings, "train.residual=fp32") == 0
    settings += ["data.cache=tokens"]
    assert run_here(spec, tmp_path / "cached", *settings, "train.residual=fp32") == 0
    assert same(tmp_path / "cached", tmp_path / "plain")
    # The other parts follow the residual's dtype; first and later uses of an image are the same.
    assert run_here(spec, tmp_path / "filling", *settings, f"data.cache_folder={tmp_path}/new") == 0
    assert run_here(spec, tmp_path / "full", *settings, f"data.cache_folder={tmp_path}/new") == 0
    assert same(tmp_path / "full", tmp_path / "filling")
    assert not same(tmp_path / "full", tmp_path / "plain")


@pytest.mark.parametrize(
    ("make", "cache", "settings"),
    [
        (spec_of_files, "pixels", []),
        (spec_of_table, "pixels", []),
        (spec_of_files, "tokens", [FROZEN]),
    ],
)
def test_a_cached_run_is_the_same_and_works_once_per_image(
    tmp_path: Path,
    make: Callable[[Path], Path],
    cache: str,
    settings: list[str],
    counted: dict[str, int],
) -> None:
    spec = make(tmp_path / "data")
    assert run_here(spec, tmp_path / "plain", *settings) == 0
    plain = dict(counted)
    settings = [*settings, f"data.cache={cache}", "evaluate.num_panel_images=0"]
    found = []
    for name in ("first", "second"):
        counted.update(decoded=0, encoded=0)
        assert run_here(spec, tmp_path / name, *settings) == 0
        assert same(tmp_path / name, tmp_path / "plain")
        found.append(dict(counted))
    probes = found[1]["decoded"]
    # Twice, for training and validation; the second run reads only the probes, without a cache.
    assert found[0]["decoded"] - probes == 2 * NUM_IMAGES
    assert probes < plain["decoded"] / 3
    if cache == "tokens":
        # And one blank image for each of the two, whose states tell their form.
        assert found[0]["encoded"] - found[1]["encoded"] == 2 * NUM_IMAGES
        assert found[1]["encoded"] < plain["encoded"] / 3


def test_ranks_and_workers_with_a_cache_change_nothing(tmp_path: Path) -> None:
    spec = spec_of_files(tmp_path / "data")
    caches = {"plain": [], **{c: [f"data.cache={c}", "data.num_workers=2"] for c in CACHES}}
    on_two_ranks(
        tmp_path,
        [
            ["train", str(spec), f"run.output_dir={tmp_path / name}", FROZEN, *more]
            for name, more in caches.items()
        ],
    )
    for cache in CACHES:
        assert same(tmp_path / cache, tmp_path / "plain")


@pytest.mark.parametrize("cache", CACHES)
def test_resuming_with_and_without_a_cache_changes_nothing(
    tmp_path: Path, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of_files(tmp_path / "data")
    settings = [FROZEN, "checkpoint.every_steps=5"]
    assert run_here(spec, tmp_path, *settings) == 0
    last = tmp_path / "tiny/checkpoints/step-00000010"
    before = weights(tmp_path / "tiny", 10)
    for switched in (cache, "none", cache):
        shutil.rmtree(last)
        assert run_here(spec, tmp_path, *settings, f"data.cache={switched}") == 0
        after = weights(tmp_path / "tiny", 10)
        assert all(torch.equal(before[name], after[name]) for name in before)
    # It is no change worth a word.
    assert "changed since" not in capsys.readouterr().out


def test_evaluate_uses_the_cache(tmp_path: Path, counted: dict[str, int]) -> None:
    spec = spec_of_files(tmp_path / "data")
    settings = [FROZEN, "data.cache=tokens", "evaluate.num_panel_images=0"]
    assert run_here(spec, tmp_path, *settings) == 0
    folder = str(tmp_path / "tiny")

    def evaluated(*more: str) -> tuple[dict[str, float], int]:
        counted.update(decoded=0, encoded=0)
        finished = renaissance("evaluate", folder, *more)
        assert finished.code == 0, finished.err
        figures = json.loads((tmp_path / "tiny/results.json").read_text())["validate"]["metrics"]
        return figures, counted["encoded"]

    cached, num_encoded = evaluated()
    plain, num_encoded_plain = evaluated("data.cache=none")
    assert cached == plain
    # One blank image tells the form of the states.
    assert num_encoded == 1
    assert num_encoded_plain >= NUM_IMAGES


def test_the_panel_shows_images_whose_pixels_were_not_needed(tmp_path: Path) -> None:
    spec = spec_of_files(tmp_path / "data")
    panels = tmp_path / "panels.py"
    panels.write_text(
        "import attrs\n"
        "from pathlib import Path\n"
        "from renaissance import Monitor, hookimpl, option\n\n\n"
        "class Panels(Monitor):\n"
        '    """Saves the panels."""\n\n'
        "    @attrs.frozen\n"
        "    class Options:\n"
        '        """Options."""\n\n'
        '        folder: str = option(help="Folder.")\n\n'
        "    def __init__(self, options):\n"
        "        self.folder = Path(options.folder)\n"
        "        self.folder.mkdir()\n\n"
        "    def evaluated(self, run, evaluation):\n"
        "        for index, shown in enumerate(evaluation.panel):\n"
        '            shown.image.save(self.folder / f"{evaluation.step}-{index}.png")\n\n\n'
        "@hookimpl\n"
        "def register_monitors(register):\n"
        '    register("panels", Panels)\n'
    )
    found = {}
    for name in ("none", "tokens"):
        folder = tmp_path / f"panel-{name}"
        monitors = f'monitors=[{{type="panels", folder="{folder}"}}]'
        settings = [FROZEN, f"data.cache={name}", f'run.plugins=["{panels}"]', monitors]
        assert run_here(spec, tmp_path / name, *settings) == 0
        found[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found["none"] == found["tokens"]
    assert len(found["none"]) == 16


def test_what_the_pixels_and_states_depend_on_has_a_cache_of_its_own(
    tmp_path: Path, cache_home: Path
) -> None:
    spec = spec_of_files(tmp_path / "data")

    def folders(name: str, *settings: str) -> set[str]:
        before = set(cache_home.iterdir()) if cache_home.exists() else set()
        arguments = ["train.max_steps=1", FROZEN, *settings]
        assert run_here(spec, tmp_path / name, *arguments) == 0
        return {path.name.rpartition("-")[0] for path in set(cache_home.iterdir()) - before}

    assert folders("a", "data.cache=pixels") == {"pixels-imagenet-32"}
    assert folders("b", "data.cache=pixels", "data.image_size=16") == {"pixels-imagenet-16"}
    assert folders("c", "data.cache=pixels", "data.transform.type=stretch") == {"pixels-stretch-32"}
    # Neither what is done to pixels on the device, nor the encoder.
    other = ["data.transform.std=[0.4, 0.4, 0.4]", "run.seed=1", "train.precision=bf16"]
    assert folders("d", "data.cache=pixels", *other) == set()
    assert folders("e", "data.cache=tokens") == {"tokens-imagenet-32"}
    assert folders("f", "data.cache=tokens") == set()
    # With another seed, the encoder has other parameters.
    for name, setting in zip("ghi", other, strict=True):
        assert folders(name, "data.cache=tokens", setting) == {"tokens-imagenet-32"}


def test_changed_images_are_not_mistaken(tmp_path: Path) -> None:
    spec = spec_of_files(tmp_path / "data")
    assert run_here(spec, tmp_path / "old", "data.cache=pixels") == 0
    changed = [{**row, "image": picture(100 + i)} for i, row in enumerate(rows(NUM_IMAGES, 2))]
    write_arrow(tmp_path / "data/train.arrow", changed)
    assert run_here(spec, tmp_path / "plain") == 0
    assert run_here(spec, tmp_path / "cached", "data.cache=pixels") == 0
    assert same(tmp_path / "cached", tmp_path / "plain")
    assert not same(tmp_path / "cached", tmp_path / "old")


def test_the_evidence_of_a_bad_step_has_the_states(tmp_path: Path) -> None:
    spec = spec_of_files(tmp_path / "data")
    settings = [FROZEN, "data.cache=tokens"]
    assert run_here(spec, tmp_path / "good", *settings) == 0
    with pytest.raises(RunError, match="is not finite"):
        run_here(spec, tmp_path / "bad", *settings, "optimizer.learning_rate=1e20")
    (path,) = (tmp_path / "bad/tiny").glob("nonfinite-step-*/rank0-micro-batch0.safetensors")
    saved = load_file(path)
    assert saved["known_states.hidden_states"].shape[1:] == (5, 16)
    assert "pixel_values" not in saved


def test_limits_hold_for_what_is_in_the_cache(tmp_path: Path) -> None:
    spec = spec_of_files(tmp_path / "data")
    assert run_here(spec, tmp_path / "a", "data.cache=pixels") == 0
    with pytest.raises(DataError, match=r"image of 40 x 40 = 1600 pixels; expected at most 1000"):
        run_here(spec, tmp_path / "b", "data.cache=pixels", "data.max_image_pixels=1000")


def test_a_cache_that_cannot_be_is_refused(tmp_path: Path) -> None:
    spec = str(spec_of_files(tmp_path / "data"))
    augmented = ["data.cache=pixels", "data.transform.randaugment=true"]
    message = (
        "data.cache: 'pixels', but data.transform ('imagenet') augments images at random, so they "
        "look different in each epoch; expected a transform without augmentation. Switch "
        "augmentation off, or set data.cache = 'none'"
    )
    for command in ("check", "train"):
        arguments = [spec, f"run.output_dir={tmp_path}", *augmented]
        assert_refused(renaissance(command, *arguments), message)
    message = (
        "data.cache: 'tokens', but the model has no frozen image encoder, so what becomes of an "
        "image changes; expected a two-tower model with model.image_encoder.frozen = true. Freeze "
        "it, or set data.cache = 'pixels'"
    )
    for text in (Path(spec).read_text(), one_tower_spec()):
        other = str(write_spec(tmp_path / "other", text))
        assert_refused(renaissance("check", other, "data.cache=tokens"), message)
    (tmp_path / "file").write_text("")
    arguments = [spec, f"run.output_dir={tmp_path}", "data.cache=pixels"]
    finished = renaissance("train", *arguments, f"data.cache_folder={tmp_path}/file")
    assert_refused(finished, f"{tmp_path}/file/pixels-imagenet-32-", "cannot keep images there")


def test_check_says_what_the_cache_takes_and_saves(tmp_path: Path, cache_home: Path) -> None:
    spec = str(spec_of_files(tmp_path / "data"))
    lines = renaissance("check", spec, "data.cache=pixels").out.splitlines()
    # 3 x 32 x 32 bytes.
    expected = "cache: pixels of 24 images (train 12, validate 12) of 3,072 bytes: 0.1 MiB, in"
    assert f"{expected} {cache_home}" in lines
    (decoding,) = (line for line in lines if line.startswith("cache: saves decoding, "))
    assert 0 < float(decoding.split()[3]) < 1000
    lines = renaissance("check", spec, FROZEN, "data.cache=tokens").out.splitlines()
    # 5 tokens of 16 numbers in fp32.
    assert any("cache: tokens of 24 images" in line and " of 320 bytes" in line for line in lines)
    (saved,) = (line for line in lines if line.startswith("cache: saves 0."))
    gflop = {row.split()[0]: row.split()[-1] for row in lines if row.startswith(" ")}
    total = gflop["total"]
    assert saved == f"cache: saves {gflop['image_encoder']} of {total} GFLOP per sample"
    # It has made nothing.
    assert not cache_home.exists()


def test_what_does_not_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_of_files(tmp_path / "data")
    settings = ["data.cache=pixels", "data.cache_gib=0.00001", "evaluate.num_panel_images=0"]
    message = (
        "warning: data.cache_gib: 1e-05 GiB, but the images take about 0.0 MiB; those beyond the "
        "limit are not kept. Set data.cache_gib = 1"
    )
    assert message in renaissance("check", str(spec), *settings).out.splitlines()
    assert run_here(spec, tmp_path / "plain") == 0
    capsys.readouterr()
    assert run_here(spec, tmp_path / "cached", *settings) == 0
    assert message in capsys.readouterr().out.splitlines()
    assert same(tmp_path / "cached", tmp_path / "plain")
