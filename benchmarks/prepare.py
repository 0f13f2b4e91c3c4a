"""How fast, and in how much memory, are images prepared?

    python benchmarks/prepare.py
    python benchmarks/prepare.py --images 100000 --workers 1

Makes files of about 100 kB that look like JPEGs to the checks (a real header, noise, an end mark),
lists them in a captions file, and prepares them without `--check`, for each number of workers in a
fresh process. Files are in the page cache. `copy_images_per_second` is `shutil.copyfileobj` of the
same bytes into one file, flushed to the disk in the same way; `peak_mib` is the largest resident
memory of the process that prepares, of which `imports_mib` were there before it began.

To save disk space, many names of the captions file lead to one file of a thousand.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from renaissance.data.prepare.sources.image_text import image_text_source
from renaissance.data.prepare.tables import PrepareOptions, write_tables

NUM_FILES = 1000
MEAN_BYTES = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, *arguments.workers)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_files(folder)
        names = [f"{number % NUM_FILES}.jpg" for number in range(arguments.images)]
        with (folder / "captions.jsonl").open("w") as file:
            for number, image in enumerate(names):
                # `./` by turns, so that neighbours are never taken for one image.
                line = {"image": f"{'./' * (number % 2)}{image}", "caption": f"a photo {number}"}
                file.write(json.dumps(line) + "\n")
        for workers in arguments.workers:
            # A fresh process, in which nothing of the making counts.
            command = [sys.executable, __file__, "--measure", str(folder)]
            subprocess.run([*command, "--workers", str(workers)], check=True)
        seconds = copy_seconds(folder, names)
        print(f"copy_images_per_second={len(names) / seconds:.0f}")


def make_files(folder: Path) -> None:
    generator = np.random.default_rng(0)
    Image.new("RGB", (640, 480)).save(folder / "0.jpg", quality=90)
    header = (folder / "0.jpg").read_bytes()[:-2]
    for number in range(NUM_FILES):
        size = int(generator.integers(MEAN_BYTES // 2, MEAN_BYTES * 3 // 2))
        # In a scan every 0xFF is followed by a zero: noise without 0xFF needs none.
        noise = generator.integers(0, 255, size, dtype=np.uint8).tobytes()
        (folder / f"{number}.jpg").write_bytes(header + noise + b"\xff\xd9")


def copy_seconds(folder: Path, names: list[str]) -> float:
    start = time.perf_counter()
    with (folder / "copy").open("wb", buffering=0) as target:
        for name in names:
            with (folder / name).open("rb", buffering=0) as file:
                shutil.copyfileobj(file, target, 1 << 20)
        os.fsync(target.fileno())
    seconds = time.perf_counter() - start
    (folder / "copy").unlink()
    return seconds


def measure(folder: Path, workers: int) -> None:
    before = peak_mib()
    start = time.perf_counter()
    source = image_text_source(str(folder / "captions.jsonl"))
    options = PrepareOptions(output=folder / "out", workers=workers, progress=False)
    report = write_tables(source, options)
    seconds = time.perf_counter() - start
    images = sum(table.images for table in report.tables.values())
    size = sum(table.size for table in report.tables.values())
    shutil.rmtree(folder / "out")
    print(
        f"images_per_second={images / seconds:.0f} "
        f"images_per_second_per_worker={images / seconds / workers:.0f} peak_mib={peak_mib():.0f} "
        f"imports_mib={before:.0f} images={images} workers={workers} "
        f"kb_per_image={size / images / 1000:.0f} mb_per_second={size / seconds / 1e6:.0f}"
    )


def peak_mib() -> float:
    # Not getrusage: its figure is never below that of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status: no VmHWM; this benchmark needs Linux")


if __name__ == "__main__":
    main()
