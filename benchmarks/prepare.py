"""How fast are images prepared, and how much memory does it take?

    python benchmarks/prepare.py
    python benchmarks/prepare.py --images 100000 --workers 1

Makes files of about 100 kB that look like JPEGs to the checks (a real header, noise, an end mark),
lists them in a captions file, and prepares them without `--check`, for each number of workers in a
fresh process. Files are in the page cache. `copy_images_per_second` is the rate at which
`shutil.copyfileobj` copies the same bytes into one file, flushed to the disk in the same way;
`peak_mib` is the peak resident memory of the process that prepares, of which `imports_mib` were
used before it began.

To save disk space, the captions file names each of a thousand files many times.
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

from renaissance import SourceContext
from renaissance.builtin.sources.image_text import ImageText
from renaissance.data.prepare.writer import PrepareOptions, write_tables

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
        names = [f"{index % NUM_FILES}.jpg" for index in range(arguments.images)]
        with (folder / "captions.jsonl").open("w") as file:
            for index, image in enumerate(names):
                # `./` in every other line, so that neighbours are never taken for the same image.
                line = {"image": f"{'./' * (index % 2)}{image}", "caption": f"a photo {index}"}
                file.write(json.dumps(line) + "\n")
        for workers in arguments.workers:
            # A fresh process, whose memory does not include what making the files took.
            command = [sys.executable, __file__, "--measure", str(folder)]
            subprocess.run([*command, "--workers", str(workers)], check=True)
        seconds = copy_seconds(folder, names)
        print(f"copy_images_per_second={len(names) / seconds:.0f}")


def make_files(folder: Path) -> None:
    generator = np.random.default_rng(0)
    Image.new("RGB", (640, 480)).save(folder / "0.jpg", quality=90)
    header = (folder / "0.jpg").read_bytes()[:-2]
    for index in range(NUM_FILES):
        size = int(generator.integers(MEAN_BYTES // 2, MEAN_BYTES * 3 // 2))
        # In a JPEG's scan every 0xFF is followed by a zero; noise without 0xFF is valid as it is.
        noise = generator.integers(0, 255, size, dtype=np.uint8).tobytes()
        (folder / f"{index}.jpg").write_bytes(header + noise + b"\xff\xd9")


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
    source = ImageText(ImageText.Options(), SourceContext(str(folder / "captions.jsonl")))
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
    # Not getrusage, whose figure includes the peak of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status: no VmHWM; this benchmark needs Linux")


if __name__ == "__main__":
    main()
