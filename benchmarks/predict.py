"""Speed of a loaded model against calling it row by row.

    python benchmarks/predict.py [--images 200] [--texts 200]

Trains a small two-tower model for one step, then times `match`, `embed`, and the first answer of
a new process. The last line has the ratios.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import renaissance
from renaissance.engine.train import train
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

CONFIG = (
    "hidden_size = 192, num_hidden_layers = 4, num_attention_heads = 3, intermediate_size = 768"
)
SPEC = f"""
[run]
name = "predict"
[model.text_encoder]
type = "hf-text"
architecture = "bert"
config = {{ {CONFIG} }}
[model.image_encoder]
type = "hf-image"
architecture = "vit"
config = {{ patch_size = 16, {CONFIG} }}
[model.fusion]
hidden_size = 192
num_layers = 2
num_heads = 3
[data]
image_size = 112
tokenizer = "dataset"
num_workers = 0
[[data.train]]
type = "shapes"
num_samples = 64
[[objectives]]
type = "itm"
[[objectives]]
type = "itc"
[train]
max_steps = 1
global_batch_size = 8
device = "cpu"
[evaluate]
micro_batch_size = 64
"""
FIRST = (
    "import renaissance, sys; from PIL import Image; "
    "renaissance.load(sys.argv[1]).match([Image.new('RGB', (64, 64))], ['a red circle'])"
)


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=200, help="pairs to match one by one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "run.toml"
        spec.write_text(SPEC)
        plugins = load_plugins()
        train(load_spec([str(spec), f"run.output_dir={folder}"], plugins), plugins)
        run = str(Path(folder) / "predict")
        model = renaissance.load(run, device="cpu")
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (arguments.images, 96, 128, 3), np.uint8)
        images = [Image.fromarray(picture) for picture in pixels]
        words = ["red", "circle", "above", "blue", "square", "small"]
        texts = [" ".join(generator.choice(words, 8)) for _ in range(arguments.texts)]
        model.match(images[:8], texts[:8])  # Warm.
        together = seconds(lambda: model.match(images, texts)) / (len(images) * len(texts))
        pairs = list(zip(images, texts, strict=False))[: arguments.pairs]

        def one_by_one() -> None:
            for image, text in pairs:
                model.match([image], [text])

        alone = seconds(one_by_one) / len(pairs)
        embed = seconds(lambda: model.embed(images=images)) / len(images)

        def embed_one_by_one() -> None:
            for image in images:
                model.embed(images=[image])

        embed_alone = seconds(embed_one_by_one) / len(images)
        start = seconds(lambda: subprocess.run([sys.executable, "-c", FIRST, run], check=True))
    print(f"match: {1 / together:,.0f} pairs/s, one by one {1 / alone:,.0f} pairs/s")
    print(f"embed: {1 / embed:,.0f} images/s, one by one {1 / embed_alone:,.0f} images/s")
    print(f"first answer of a new process: {start:.1f} s")
    print(f"match_ratio={alone / together:.1f} embed_ratio={embed_alone / embed:.1f}")


if __name__ == "__main__":
    main()
