"""`renaissance data cache`."""

import re
from pathlib import Path

import pytest
from support.arrow_files import rows, spec_with_files, write_arrow
from support.asserting import assert_refused
from support.command_line import renaissance
from support.running import run_here
from support.two_ranks import on_two_ranks

from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.transforms.square import SquareTransform
from renaissance.engine import train
from renaissance.engine.image_cache import with_cache

NUM_IMAGES = 12
TOKENS = ["model.image_encoder.frozen=true", "data.cache=tokens"]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    write_arrow(tmp_path / "train.arrow", rows(NUM_IMAGES, num_captions=2))
    return spec_with_files(tmp_path)


@pytest.mark.parametrize("settings", [["data.cache=pixels"], TOKENS])
def test_a_filled_cache_leaves_nothing_to_decode_or_encode(
    tmp_path: Path, spec: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = renaissance("data", "cache", str(spec), *settings)
    assert finished.code == 0, finished.err
    kept = r"cache: (pixels|tokens) of 12 images \(train 12\) of (3,072|320) bytes: 0\.[01] MiB\n"
    done = r"cache: train: 12 images, 0\.[01] MiB, in .*/home/renaissance/images/(pixels|tokens)-"
    assert re.search(kept, finished.out), finished.out
    assert re.search(done, finished.out), finished.out

    used = {"decoded": 0, "encoded": 0}
    pixels, encode = SquareTransform.pixels, HFImageEncoder.encode_image

    def counted_pixels(self, image, generator):
        used["decoded"] += 1
        return pixels(self, image, generator)

    def counted_encode(self, pixel_values):
        used["encoded"] += len(pixel_values)
        return encode(self, pixel_values)

    def counting(parts):
        # The first samples, which tell whether a run can start, are read without a cache.
        monkeypatch.setattr(SquareTransform, "pixels", counted_pixels)
        cached = with_cache(parts)
        monkeypatch.setattr(HFImageEncoder, "encode_image", counted_encode)
        return cached

    monkeypatch.setattr(train, "with_cache", counting)
    assert run_here(spec, tmp_path / "runs", *settings) == 0
    assert used["decoded"] == 0
    if settings == TOKENS:
        # A blank image, whose states tell how large each row is.
        assert used["encoded"] == 1


def test_ranks_share_the_work_and_bad_records_are_named(tmp_path: Path, spec: Path) -> None:
    records = rows(NUM_IMAGES)
    records[3]["image"] = b"<html>"
    write_arrow(tmp_path / "train.arrow", records)
    command = ["data", "cache", str(spec), "evaluate.micro_batch_size=2", *TOKENS]
    out = on_two_ranks(tmp_path, [command])
    assert out.count("cache: train: 11 images") == 1
    assert "left out (rank 1): train.arrow: row 3: image cannot be decoded" in out


def test_what_cannot_be_filled_is_refused(spec: Path) -> None:
    assert_refused(
        renaissance("data", "cache", str(spec)),
        "data.cache: 'none', so there is nothing to keep; expected 'pixels' or 'tokens'. Set it in "
        "the spec, or here: data.cache=pixels",
    )
    settings = ["data.cache=pixels", "data.transform.horizontal_flip=0.5"]
    assert_refused(
        renaissance("data", "cache", str(spec), *settings),
        "data.cache: 'pixels', but data.transform ('imagenet') augments images at random",
    )
