"""Speed of a loaded model against calling it row by row.

    python benchmarks/predict.py [--images 200] [--texts 200] [--pairs 200] [--rows 2000]

Trains a small two-tower model for one step on a csv file with five texts per image. Then it times
`renaissance predict` on the rows of that table, with the time to load the model, `match`, `embed`,
and the first answer of a new process. The last line has the ratios. Time is that of the processor,
on one thread, so that other programs do not disturb it; only the first answer is timed by the
clock.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer

import renaissance
from renaissance.commands.predict import PredictionRequest, predict
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
num_workers = 0
[[data.train]]
type = "table"
files = "rows.csv"
columns = {{ image = "image", text = "text", label = "label" }}
cache = "cache"
[[objectives]]
type = "classification"
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
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["red", "circle", "above", "blue", "square", "small"]
TEXTS_PER_IMAGE = 5


def seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def write_rows(folder: Path, images: list[Image.Image], texts: list[str], count: int) -> None:
    """Write a csv file of rows, and the images that it names."""
    for index, image in enumerate(images):
        image.save(folder / f"{index}.jpg")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "text", "label"))
        for row in range(count):
            image = row // TEXTS_PER_IMAGE % len(images)
            writer.writerow((f"{image}.jpg", texts[row % len(texts)], row % 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=200, help="rows or pairs one by one")
    parser.add_argument("--rows", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (arguments.images, 96, 128, 3), np.uint8)
    images = [Image.fromarray(picture) for picture in pixels]
    texts = [" ".join(generator.choice(WORDS, 8)) for _ in range(arguments.texts)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, images, texts, arguments.rows)
        run = trained(folder)
        model = renaissance.load(run, device="cpu")
        model.match(images[:8], texts[:8])  # Warm.

        def predict_table() -> None:
            output = folder / "predictions.jsonl"
            inputs = [str(folder / "rows.csv")]
            predict(PredictionRequest(str(run), inputs, None, None, {}, output, "classification"))

        def predict_one_by_one() -> None:
            for row in range(arguments.pairs):
                image = folder / f"{row // TEXTS_PER_IMAGE % len(images)}.jpg"
                text = texts[row % len(texts)]
                model.predict([{"image": image, "text": text}], "classification")

        def match_one_by_one() -> None:
            for image, text in pairs:
                model.match([image], [text])

        def embed_one_by_one() -> None:
            for image in images:
                model.embed(images=[image])

        pairs = list(zip(images, texts, strict=False))[: arguments.pairs]
        num_pairs = len(images) * len(texts)
        rates = {
            "predict": (
                arguments.rows / seconds(predict_table),
                arguments.pairs / seconds(predict_one_by_one),
            ),
            "match": (
                num_pairs / seconds(lambda: model.match(images, texts)),
                len(pairs) / seconds(match_one_by_one),
            ),
            "embed": (
                len(images) / seconds(lambda: model.embed(images=images)),
                len(images) / seconds(embed_one_by_one),
            ),
        }
        load = seconds(lambda: renaissance.load(run, device="cpu"))
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST, str(run)], check=True)
        start = time.perf_counter() - started
    for what, unit in zip(rates, ("rows", "pairs", "images"), strict=True):
        together, alone = rates[what]
        print(f"{what}: {together:,.0f} {unit}/s, one by one {alone:,.0f} {unit}/s")
    print(f"of the time of predict, loading the model: {load:.1f} s")
    print(f"first answer of a new process: {start:.1f} s")
    print(*(f"{what}_ratio={together / alone:.1f}" for what, (together, alone) in rates.items()))


def trained(folder: Path) -> Path:
    """Train the model for a step; return its run folder."""
    words = BertTokenizer(vocab={word: i for i, word in enumerate([*SPECIAL, *WORDS])})
    words.save_pretrained(folder / "words")
    spec = folder / "run.toml"
    spec.write_text(SPEC)
    settings = [f"data.root={folder}", f"data.tokenizer={folder}/words", f"run.output_dir={folder}"]
    plugins = load_plugins()
    train(load_spec([str(spec), *settings], plugins), plugins)
    return folder / "predict"


if __name__ == "__main__":
    main()
