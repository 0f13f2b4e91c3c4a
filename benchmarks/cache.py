"""How much faster does a model with frozen towers train with a cache of its images?

    python benchmarks/cache.py
    python benchmarks/cache.py --steps 20 --samples 256

Data: the pictures of `shapes`, drawn at 640 pixels, a size of photos, and written as JPEGs. Model:
DeiT-tiny at 224 pixels and ELECTRA-small's shapes with random parameters, both frozen, six LXMERT
layers of 256, masked language modelling and matching, fp32.

The same run trains without a cache, with `data.cache = "pixels"` and with `"tokens"`, each once to
fill the cache and once with a full one. Speed is that of the steps after the first; the run whose
cache is full alternates with the one without a cache, and a ratio is the median over such pairs.
All losses must be equal to the last bit.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from renaissance import DatasetContext
from renaissance.builtin.datasets.shapes import SPECIAL_TOKENS, Shapes, shapes_vocabulary
from renaissance.engine.loop import Loop
from renaissance.engine.train import train
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

PICTURE_SIZE, QUALITY = 640, 90
CACHES = ("pixels", "tokens")

SPEC = """
[run]
name = "{name}"
output_dir = "{folder}"

[model.text_encoder]
type = "hf-text"
architecture = "electra"
frozen = true
[model.text_encoder.config]
hidden_size = 256
embedding_size = 128
num_hidden_layers = 12
num_attention_heads = 4
intermediate_size = 1024

[model.image_encoder]
type = "hf-image"
architecture = "deit"
frozen = true
[model.image_encoder.config]
patch_size = 16
hidden_size = 192
num_hidden_layers = 12
num_attention_heads = 3
intermediate_size = 768

[model.fusion]
type = "lxmert"
hidden_size = 256
num_layers = 6
num_heads = 4

[data]
root = "{folder}"
tokenizer = "{folder}/tokenizer"
num_workers = {num_workers}
cache = "{cache}"
cache_folder = "{folder}/cache"

[[data.train]]
type = "image-text"
files = "shapes.arrow"

[[objectives]]
type = "mlm"

[[objectives]]
type = "itm"

[train]
max_steps = {num_steps}
global_batch_size = {batch_size}
device = "{device}"
log_every = 1

[[monitors]]
type = "jsonl"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9, help="steps of each run")
    parser.add_argument("--batch", type=int, default=16, help="samples per step")
    parser.add_argument("--samples", type=int, default=64, help="pictures")
    parser.add_argument("--workers", type=int, default=1, help="data.num_workers")
    parser.add_argument("--rounds", type=int, default=3, help="runs with each full cache")
    parser.add_argument("--device", default="cpu", help="train.device")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), arguments)
        rates: dict[str, list[float]] = {"none": [], **{cache: [] for cache in CACHES}}
        losses = {"none": runs.losses_of("warm-up", "none")[0]}
        for cache in CACHES:
            losses[f"{cache}, filling"] = runs.losses_of(f"fill-{cache}", cache)[0]
        for turn in range(arguments.rounds):
            for cache in rates:
                losses[cache], rate = runs.losses_of(f"{cache}-{turn}", cache)
                rates[cache].append(rate)
                print(f"{cache}: {rate:.1f} samples/s", flush=True)
    different = [name for name, values in losses.items() if values != losses["none"]]
    figures = {"samples_per_second": statistics.median(rates["none"])}
    for cache in CACHES:
        figures[f"{cache}_samples_per_second"] = statistics.median(rates[cache])
        pairs = zip(rates[cache], rates["none"], strict=True)
        figures[f"{cache}_ratio"] = statistics.median(ours / plain for ours, plain in pairs)
    shown = " ".join(f"{name}={value:.2f}" for name, value in figures.items())
    print(f"{shown} losses={'equal' if not different else 'different:' + ','.join(different)}")


class Runs:
    """Trains the same run with one cache or another.

    Args:
        folder: Folder for everything.
        arguments: Those of the command line.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.arguments = folder, arguments
        self.plugins = load_plugins()
        write_data(folder, arguments.samples)
        # Of each step, when the loop began to fetch its data.
        self.starts: list[float] = []
        fetch = Loop._next

        def timed(loop: Loop, *rest: Any) -> Any:
            self.starts.append(time.perf_counter())
            return fetch(loop, *rest)

        Loop._next = timed  # type: ignore[method-assign]

    def losses_of(self, name: str, cache: str) -> tuple[list[float], float]:
        """Train; return the loss of each step, and samples per second of the steps in between."""
        path = self.folder / "run.toml"
        path.write_text(
            SPEC.format(
                name=name,
                folder=self.folder,
                cache=cache,
                num_steps=self.arguments.steps,
                batch_size=self.arguments.batch,
                num_workers=self.arguments.workers,
                device=self.arguments.device,
            )
        )
        self.starts.clear()
        code = train(load_spec([str(path)], self.plugins), self.plugins)
        if code:
            # A signal ends a run early, whose losses and speed would then be those of fewer steps.
            sys.exit(code)
        # The first step waits for the workers; the last ones are followed by a checkpoint.
        seconds = self.starts[-1] - self.starts[1]
        rate = self.arguments.batch * (len(self.starts) - 2) / seconds
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines], rate


def write_data(folder: Path, num_samples: int) -> None:
    """Write pictures with their sentences, and a tokenizer of their words."""
    from transformers import BertTokenizer

    words = shapes_vocabulary()
    assert words[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    tokenizer.save_pretrained(folder / "tokenizer")
    options = Shapes.Options(num_samples=num_samples, image_size=PICTURE_SIZE)
    shapes = Shapes(options, DatasetContext(root=folder, seed=0, training=True))
    images, captions = [], []
    for index in range(num_samples):
        sample = shapes.sample(index, None)  # type: ignore[arg-type]
        file = io.BytesIO()
        sample.images[0].save(file, "JPEG", quality=QUALITY)
        images.append(file.getvalue())
        captions.append([sample.text])
    batch = pa.record_batch({"image": images, "caption": captions})
    with pa.ipc.new_file(folder / "shapes.arrow", batch.schema) as writer:
        writer.write_batch(batch)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
