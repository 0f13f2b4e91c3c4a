"""How long until ten million captions can be drawn from, and what memory does it take?

    python benchmarks/index.py
    python benchmarks/index.py --captions 100000000 --shards 100

Writes Arrow files of five captions an image into a temporary folder (about 60 bytes a caption), and
opens them as the dataset `image-text` in a fresh process. `peak_mib` is what that adds to the
process, pages of the mapped files included; `sample_us` is the time to read a sample at a random
place: to find its row, read its caption and open its image, which is not decoded.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from renaissance import DatasetContext
from renaissance.builtin.datasets.image_text import ImageText

CAPTIONS_PER_IMAGE = 5
ROWS_PER_BATCH = 10_000
NUM_SAMPLES = 20_000
CAPTION = b"a person in a red jacket walks a dog past a row of houses."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"writing {arguments.captions:,} captions to {arguments.shards} files ...")
        num_rows = arguments.captions // CAPTIONS_PER_IMAGE // arguments.shards
        for shard in range(arguments.shards):
            write_shard(Path(folder) / f"shard_{shard:04d}.arrow", num_rows)
        # A fresh process, in which nothing of the writing counts.
        subprocess.run([sys.executable, __file__, "--measure", folder], check=True)


def write_shard(path: Path, num_rows: int) -> None:
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "JPEG")
    schema = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string()))])
    with pa.ipc.new_file(path, schema) as writer:
        for start in range(0, num_rows, ROWS_PER_BATCH):
            rows = min(ROWS_PER_BATCH, num_rows - start)
            captions = repeated(pa.string(), CAPTION, rows * CAPTIONS_PER_IMAGE)
            offsets = np.arange(rows + 1, dtype=np.int32) * CAPTIONS_PER_IMAGE
            lists = pa.ListArray.from_arrays(pa.array(offsets), captions)
            images = repeated(pa.binary(), pixel.getvalue(), rows)
            writer.write_batch(pa.record_batch([images, lists], schema=schema))


def repeated(kind: pa.DataType, value: bytes, times: int) -> pa.Array:
    offsets = np.arange(times + 1, dtype=np.int32) * len(value)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(value * times)]
    return pa.Array.from_buffers(kind, times, buffers)


def measure(folder: Path) -> None:
    context = DatasetContext(root=folder, seed=0, training=True)
    before = resident_mib()
    start = time.perf_counter()
    dataset = ImageText(ImageText.Options(files="*.arrow"), context)
    num_captions = len(dataset)
    seconds = time.perf_counter() - start
    # In KiB on Linux, and never below what the process had before: at worst too large.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before

    generator = np.random.default_rng(0)
    indices = generator.integers(num_captions, size=NUM_SAMPLES).tolist()
    start = time.perf_counter()
    for index in indices:
        dataset.sample(index, generator)
    microseconds = (time.perf_counter() - start) / NUM_SAMPLES * 1e6
    print(
        f"seconds={seconds:.3f} peak_mib={peak:.1f} captions={num_captions} "
        f"files={len(list(folder.iterdir()))} sample_us={microseconds:.1f}"
    )


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status: no VmRSS; this benchmark needs Linux")


if __name__ == "__main__":
    main()
