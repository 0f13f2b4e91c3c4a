"""How many samples per second does one core load, compared with decoding two images per sample?

    python benchmarks/loader.py
    python benchmarks/loader.py --photos FOLDER_OF_JPEGS

Images: JPEGs of 640 x 480 pixels, quality 90, which are noise with the spectrum of photos; or the
files of a folder as they are. Both are scaled to 224 pixels.

Plain: what ViLT and METER do for masked language modelling and matching: two images per sample, the
true and the false one, each fully decoded with Pillow, resized (bicubic) and cropped. Ours: the
dataset `image-text` and the image transform, one image per sample, because a false image is another
sample's true one. Cached: the same with `data.cache = "pixels"`, after the first use of each image.
All stop at uint8 pixels. One thread; the three alternate, and a ratio is that of the medians.
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

import attrs
import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from renaissance import DatasetContext, TransformContext
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.transforms.imagenet import ImageNet
from renaissance.data.cache.batch_images import BatchImages
from renaissance.data.cache.rows import RowCache
from renaissance.data.concatenation import Concatenation
from renaissance.data.open_image import ImageLimits
from renaissance.data.sample_reader import SampleReader

WIDTH, HEIGHT, QUALITY = 640, 480, 90
IMAGE_SIZE = 224
NUM_IMAGES = 100
MAX_PHOTOS = 200
NUM_ROUNDS = 7
SPECTRUM = 1.4

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of JPEGs, searched with its subfolders")
    arguments = parser.parse_args()
    files = photos(arguments.photos) if arguments.photos else encoded(photo_like())
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "images.arrow", files)
        reader = make_reader(Path(folder))
        form = (3, IMAGE_SIZE, IMAGE_SIZE), torch.uint8
        cached_reader = attrs.evolve(reader, pixel_cache=RowCache(Path(folder), *form, 1 << 30))

        def ours(index: int) -> Pixels:
            return reader.pixels(reader.sample(0, index), 0)

        def cached(index: int) -> Pixels:
            images = BatchImages(cached_reader)
            images.add(cached_reader.sample(0, index), 0)
            # (1, 3, size, size); keeps an image that is new.
            pixels = images.pixel_values()
            assert pixels is not None
            return np.asarray(pixels[0])

        def plain(index: int) -> Pixels:
            decoded_whole(files[(index + 1) % len(files)])
            return decoded_whole(files[index])

        assert all(np.array_equal(ours(index), cached(index)) for index in range(len(files)))
        loads = {"plain": plain, "ours": ours, "cached": cached}
        seconds: dict[str, list[float]] = {name: [] for name in loads}
        for _ in range(NUM_ROUNDS):
            for name, load in loads.items():
                seconds[name].append(seconds_per_sample(load, len(files)))
        differences = [
            np.abs(decoded_whole(file).astype(int) - ours(index)).mean()
            for index, file in enumerate(files)
        ]
    rates = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    print(
        f"samples_per_second={rates['ours']:.1f} plain_samples_per_second={rates['plain']:.1f} "
        f"ratio={rates['ours'] / rates['plain']:.2f} "
        f"cached_samples_per_second={rates['cached']:.1f} "
        f"cached_ratio={rates['cached'] / rates['plain']:.2f} "
        f"mean_level_difference={np.mean(differences):.2f} images={len(files)} "
        f"kib_per_image={np.mean([len(file) for file in files]) / 1024:.0f}"
    )


def make_reader(folder: Path) -> SampleReader:
    context = DatasetContext(root=folder, seed=0, training=True)
    dataset = ImageText(ImageText.Options(files="images.arrow"), context)
    no_tokenizer: Any = None
    return SampleReader(
        datasets=Concatenation([("images", dataset)]),
        tokenizer=no_tokenizer,
        max_text_length=40,
        transform=ImageNet(ImageNet.Options(), TransformContext(IMAGE_SIZE, True, ImageNet.mean)),
        limits=ImageLimits(),
        max_text_characters=1000,
        seed=0,
        training=True,
    )


def photos(folder: Path) -> list[bytes]:
    paths = itertools.islice(sorted(folder.rglob("*.jpg")), MAX_PHOTOS)
    return [path.read_bytes() for path in paths]


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


def seconds_per_sample(load: Callable[[int], Pixels], num_samples: int) -> float:
    start = time.perf_counter()
    for index in range(num_samples):
        load(index)
    return (time.perf_counter() - start) / num_samples


if __name__ == "__main__":
    main()
