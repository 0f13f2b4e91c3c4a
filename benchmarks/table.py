"""How many samples per second does the dataset `table` read, compared with an Arrow file?

    python benchmarks/table.py --photos FOLDER_OF_JPEGS

The same photos with a caption each: an Arrow file with the images in it, read with `image-text` and
with `table`; a csv file that names the image files; and a WebDataset tar. From reading the sample
to uint8 pixels of 224 x 224, on one thread, with files in the page cache. Time is that of the
processor, so that other programs do not disturb it. The four alternate, and each ratio is that of
the medians, to `image-text`. `cold_seconds` is the time to open a table that is not in the cache
yet.
"""

import argparse
import csv
import io
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from renaissance import Dataset, DatasetContext, TransformContext
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.datasets.table import Table
from renaissance.builtin.transforms.imagenet import ImageNet

IMAGE_SIZE = 224
NUM_PHOTOS = 150
NUM_ROUNDS = 9
FILES = {
    "table_arrow": ("photos.arrow", {"image": "image", "text": "caption"}),
    "table_csv": ("photos.csv", {"image": "image", "text": "caption"}),
    "table_tar": ("photos.tar", {"image": "jpg", "text": "txt"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("RENAISSANCE_SHARED_DATA")
    default = Path(shared) / "coco" if shared else None
    parser.add_argument("--photos", type=Path, default=default, required=default is None)
    arguments = parser.parse_args()
    paths = [*itertools.islice(sorted(arguments.photos.rglob("*.jpg")), NUM_PHOTOS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, paths)
        context = DatasetContext(root=folder, seed=0, training=True)
        datasets: dict[str, Dataset] = {
            "image_text": ImageText(ImageText.Options(files="photos.arrow"), context)
        }
        cold = {}
        for kind, (file, columns) in FILES.items():
            options = Table.Options(files=file, columns=columns, cache=str(folder / "cache"))
            start = time.perf_counter()
            datasets[kind] = Table(options, context)
            cold[kind] = time.perf_counter() - start
        seconds: dict[str, list[float]] = {kind: [] for kind in datasets}
        for _ in range(NUM_ROUNDS):
            for kind, dataset in datasets.items():
                seconds[kind].append(seconds_per_sample(dataset))
    rates = {kind: 1 / statistics.median(values) for kind, values in seconds.items()}
    print(*(f"{kind}_samples_per_second={rate:.1f}" for kind, rate in rates.items()))
    print(*(f"{kind}_cold_seconds={value:.3f}" for kind, value in cold.items()))
    ratios = {kind: rates[kind] / rates["image_text"] for kind in FILES}
    print(f"photos={len(paths)}", *(f"{kind}_ratio={ratio:.3f}" for kind, ratio in ratios.items()))


def write_tables(folder: Path, paths: list[Path]) -> None:
    captions = [f"photo {index} of {len(paths)}" for index in range(len(paths))]
    photos = [path.read_bytes() for path in paths]
    batch = pa.record_batch({"image": photos, "caption": captions})
    with pa.ipc.new_file(folder / "photos.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    (folder / "images").mkdir()
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for index, photo in enumerate(photos):
            (folder / f"images/{index}.jpg").write_bytes(photo)
            rows.writerow([f"images/{index}.jpg", captions[index]])
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for index, photo in enumerate(photos):
            for suffix, data in (("jpg", photo), ("txt", captions[index].encode())):
                info = tarfile.TarInfo(f"{index:06}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def seconds_per_sample(dataset: Dataset) -> float:
    transform = ImageNet(ImageNet.Options(), TransformContext(IMAGE_SIZE, True, ImageNet.mean))
    generator = np.random.default_rng(0)
    start = time.process_time()
    for index in range(len(dataset)):
        transform.pixels(dataset.sample(index, generator).images[0], generator)
    return (time.process_time() - start) / len(dataset)


if __name__ == "__main__":
    main()
