"""How many pairs of a text and an image does a trained run match per second, encoding included?

    python benchmarks/pairs.py data/flickr8k_caption_karpathy_test.arrow runs/retrieval/*.seed-0

Every caption of the first images is matched with each of these images, by fused pairs if the run
fuses any, else by similarity. One thread.
"""

import argparse
import io
import time
from pathlib import Path

import pyarrow as pa
import torch
from PIL import Image

import renaissance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Arrow file of `renaissance data prepare`")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--images", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with pa.ipc.open_file(arguments.data) as file:
        table = file.read_all().slice(0, arguments.images)
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in table["image"].to_pylist()]
    texts = [caption for captions in table["caption"].to_pylist() for caption in captions]
    for run in arguments.runs:
        model = renaissance.load(run, device="cpu")
        model.match(images[:2], texts[:2])
        start = time.perf_counter()
        model.match(images, texts)
        seconds = time.perf_counter() - start
        pairs = len(images) * len(texts)
        print(f"{run}: pairs={pairs} pairs_per_second={pairs / seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
