"""How many samples per second does one core load, compared with decoding two images per sample?

    python benchmarks/loader.py
    python benchmarks/loader.py --photos FOLDER_OF_JPEGS

Images: JPEGs of 640 x 480 pixels, quality 90, scaled to 224 pixels: noise with the spectrum of
photos, or real photos cropped to that size.

Plain: what ViLT and METER do for masked language modelling and matching: two images per sample, the
true and the false one, each fully decoded with Pillow, resized (bicubic) and cropped. Ours: the
dataset `image-text` and the image transform, one image per sample, because a false image is another
sample's true one. Both stop at uint8 pixels. One thread; the two alternate, and the ratio is that
of the medians.
"""

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from renaissance import DatasetContext, TransformContext
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.transforms.imagenet import ImageNet

WIDTH, HEIGHT, QUALITY = 640, 480, 90
IMAGE_SIZE = 224
NUM_IMAGES = 100
NUM_ROUNDS = 7
SPECTRUM = 1.4

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of JPEGs, searched with its subfolders")
    arguments = parser.parse_args()
    files = encoded(photos(arguments.photos) if arguments.photos else photo_like())
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "images.arrow", files)
        context = DatasetContext(root=Path(folder), seed=0, training=True)
        dataset = ImageText(ImageText.Options(files="images.arrow"), context)
        transform = ImageNet(ImageNet.Options(), TransformContext(IMAGE_SIZE, True, ImageNet.mean))
        generator = np.random.default_rng(0)

        def ours(index: int) -> None:
            sample = dataset.sample(index, generator)
            transform.pixels(sample.images[0], generator)

        def plain(index: int) -> None:
            for which in (index, (index + 1) % len(files)):
                decoded_whole(files[which])

        seconds_ours, seconds_plain = [], []
        for _ in range(NUM_ROUNDS):
            seconds_plain.append(seconds_per_sample(plain, len(files)))
            seconds_ours.append(seconds_per_sample(ours, len(files)))
        difference = np.mean(
            [
                np.abs(
                    decoded_whole(file).astype(int)
                    - transform.pixels(dataset.sample(i, generator).images[0], generator)
                ).mean()
                for i, file in enumerate(files)
            ]
        )
    rate_ours = 1 / statistics.median(seconds_ours)
    rate_plain = 1 / statistics.median(seconds_plain)
    print(
        f"samples_per_second={rate_ours:.1f} plain_samples_per_second={rate_plain:.1f} "
        f"ratio={rate_ours / rate_plain:.2f} mean_level_difference={difference:.2f} "
        f"kib_per_image={np.mean([len(file) for file in files]) / 1024:.0f}"
    )


def photos(folder: Path) -> list[Image.Image]:
    paths = itertools.islice(sorted(folder.rglob("*.jpg")), NUM_IMAGES)
    size = (WIDTH, HEIGHT)
    return [ImageOps.fit(Image.open(path).convert("RGB"), size) for path in paths]


def photo_like() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    pictures = []
    for _ in range(NUM_IMAGES):
        # In photos, amplitudes fall with the frequency (Field, 1987), and channels are similar.
        # With this exponent, files are about as large as those of photos.
        noise = [np.fft.rfft2(generator.normal(size=(HEIGHT, WIDTH))) for _ in range(4)]
        channels = [
            np.fft.irfft2((noise[0] + 0.2 * channel) / frequency**SPECTRUM) for channel in noise[1:]
        ]
        levels = np.stack(channels, axis=-1)
        levels = 127 + 55 * levels / levels.std()
        pictures.append(Image.fromarray(levels.clip(0, 255).astype(np.uint8)))
    return pictures


def encoded(pictures: list[Image.Image]) -> list[bytes]:
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


def write_table(path: Path, files: list[bytes]) -> None:
    batch = pa.record_batch({"image": files, "caption": [["a photo"]] * len(files)})
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)


def decoded_whole(file: bytes) -> Pixels:
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    scale = IMAGE_SIZE / min(picture.size)
    size = (int(picture.width * scale), int(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - IMAGE_SIZE) / 2), round((size[1] - IMAGE_SIZE) / 2)
    picture = picture.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def seconds_per_sample(load: Callable[[int], None], num_samples: int) -> float:
    start = time.perf_counter()
    for index in range(num_samples):
        load(index)
    return (time.perf_counter() - start) / num_samples


if __name__ == "__main__":
    main()
