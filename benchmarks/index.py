"""How long until ten million captions can be drawn from in any order, and what memory does it take?

    python benchmarks/index.py
    python benchmarks/index.py --captions 100000000 --shards 100

Writes Arrow files with five captions per image into a temporary folder, 77 bytes per caption:
0.8 GB, or 7.7 GB for the second line. Opens them as the dataset `image-text` in a fresh process,
twice: first with the files evicted from the page cache, then with what the first run left in it.
`seconds` is the time to open the dataset, make the shuffled order of an epoch, and read its first
sample. `peak_mib` is the memory that this adds to the process, including pages of the mapped files;
`sample_us` is the time per further sample in shuffled order: finding its row, reading its caption
and opening its image, which is not decoded.
"""

import argparse
import io
import os
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
from renaissance.data.order import Permutation

CAPTIONS_PER_IMAGE = 5
ROWS_PER_BATCH = 10_000
NUM_SAMPLES = 20_000
CAPTION = b"a person in a red jacket walks a dog past a row of houses."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(f"writing {arguments.captions:,} captions to {arguments.shards} files ...")
        num_rows = arguments.captions // CAPTIONS_PER_IMAGE // arguments.shards
        for shard in range(arguments.shards):
            write_shard(Path(folder) / f"shard_{shard:04d}.arrow", num_rows)
        for state in ("not in", "in"):
            print(f"{state} the page cache:", flush=True)
            # A fresh process, whose memory does not include what writing took.
            subprocess.run([sys.executable, __file__, "--measure", folder], check=True)


def write_shard(path: Path, num_rows: int) -> None:
    # A PNG of one pixel is among the smallest files that can be decoded.
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    schema = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string()))])
    with path.open("wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for start in range(0, num_rows, ROWS_PER_BATCH):
                writer.write_batch(batch(min(ROWS_PER_BATCH, num_rows - start), pixel, schema))
        file.flush()
        # Only pages that are on the disk can be evicted from the cache.
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def batch(num_rows: int, pixel: io.BytesIO, schema: pa.Schema) -> pa.RecordBatch:
    captions = repeated(pa.string(), CAPTION, num_rows * CAPTIONS_PER_IMAGE)
    offsets = np.arange(num_rows + 1, dtype=np.int32) * CAPTIONS_PER_IMAGE
    lists = pa.ListArray.from_arrays(pa.array(offsets), captions)
    return pa.record_batch([repeated(pa.binary(), pixel.getvalue(), num_rows), lists], schema)


def repeated(kind: pa.DataType, value: bytes, times: int) -> pa.Array:
    offsets = np.arange(times + 1, dtype=np.int32) * len(value)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(value * times)]
    return pa.Array.from_buffers(kind, times, buffers)


def measure(folder: Path) -> None:
    context = DatasetContext(root=folder, seed=0, training=True)
    generator = np.random.default_rng(0)
    before = resident_mib()
    start = time.perf_counter()
    dataset = ImageText(ImageText.Options(files="*.arrow"), context)
    num_captions = len(dataset)
    order = Permutation(num_captions, key=0)
    dataset.sample(order[0], generator)
    seconds = time.perf_counter() - start
    # In KiB on Linux. It includes peaks from before the measurement, so it is an upper bound.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before

    start = time.perf_counter()
    for position in range(1, NUM_SAMPLES + 1):
        dataset.sample(order[position], generator)
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
