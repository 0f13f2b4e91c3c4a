"""Recall of an exported model, in an environment without Renaissance.

    python benchmarks/export.py --keep FOLDER
    ELSEWHERE/bin/python benchmarks/exported.py FOLDER --with onnx [--photos FLICKR8K]

`--with transformers` encodes with the two towers, each of which `AutoModel` loads, and compares
them with what was kept of the run's. `sentence-transformers` retrieves by the vectors alone, and
`reranker` orders the 20 most similar images by the probability of a match. `onnx` does both with
onnxruntime; it reads the pixels that were kept, since it has no image processor. Each needs only
the packages of that program, and numpy and Pillow.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TOP = 10
SHORTLIST = 20
# Each query returns indices of images, best first.
Query = Callable[[str], Sequence[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--with", dest="program", choices=["transformers", *PROGRAMS], required=True
    )
    add_data(parser)
    arguments = parser.parse_args()
    images, captions, image_of = test_split(arguments)
    if arguments.program == "transformers":
        print(towers(arguments.folder, images, captions))
        return
    query = PROGRAMS[arguments.program](arguments.folder, images)
    ranked, milliseconds = answers(query, captions)
    first = json.loads((arguments.folder / "ranked.json").read_text())
    print(figures(arguments.program, ranked, first, image_of, milliseconds))


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the images and captions."""
    shared = os.environ.get("RENAISSANCE_SHARED_DATA")
    default = Path(shared) / "flickr8k" if shared else None
    parser.add_argument("--photos", type=Path, default=default, required=default is None)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--captions", type=int, default=5, help="of each image")


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


def figures(
    program: str,
    ranked: list[list[int]],
    first: list[list[int]],
    image_of: list[int],
    milliseconds: float,
) -> str:
    """Return recall, agreement with the run, and time, in one line."""
    recall = statistics.fmean(i in r for i, r in zip(image_of, ranked, strict=True))
    same = statistics.fmean(a == b for a, b in zip(first, ranked, strict=True))
    name = program.replace("-", "_")
    return f"{name}_recall={recall:.4f} {name}_same={same:.4f} {name}_ms={milliseconds:.1f}"


def with_st(folder: Path, images: list[Image.Image]) -> Query:
    """Retrieve with sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    retriever = SentenceTransformer(str(folder / "sentence-transformers"), device="cpu")
    vectors = retriever.encode(images)
    return lambda text: shortlist(vectors @ retriever.encode([text])[0])


def with_reranker(folder: Path, images: list[Image.Image]) -> Query:
    """Retrieve and rank again with sentence-transformers."""
    from sentence_transformers import CrossEncoder

    near_images = with_st(folder, images)
    reranker = CrossEncoder(
        str(folder / "sentence-transformers/reranker"), device="cpu", trust_remote_code=True
    )

    def query(text: str) -> list[int]:
        near = near_images(text)
        ranked = reranker.rank(text, [images[index] for index in near])
        return [near[int(entry["corpus_id"])] for entry in ranked]

    return query


def with_onnx(folder: Path, images: list[Image.Image]) -> Query:
    """Retrieve and rank again with onnxruntime."""
    import onnxruntime
    from tokenizers import Tokenizer

    text_encoder, image_encoder, scorer = (
        onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx")
        for name in ("text_encoder", "image_encoder", "pair_scorer")
    )
    tokenizer = Tokenizer.from_file(str(folder / "onnx" / "tokenizer.json"))
    pixels = np.load(folder / "pixels.npy")
    image_states, vectors = image_encoder.run(None, {"pixel_values": pixels})

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


def towers(folder: Path, images: list[Image.Image], captions: list[str]) -> str:
    """Encode with both towers; return the largest differences from the states of the run."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    hf = str(folder / "hf")
    expected = np.load(folder / "states.npz")
    tokenizer = AutoTokenizer.from_pretrained(hf, subfolder="text_encoder")
    text_encoder = AutoModel.from_pretrained(hf, subfolder="text_encoder", add_pooling_layer=False)
    processor = AutoImageProcessor.from_pretrained(hf, subfolder="image_encoder")
    image_encoder = AutoModel.from_pretrained(
        hf, subfolder="image_encoder", add_pooling_layer=False
    )
    with torch.no_grad():
        text = text_encoder(**tokenizer(captions[0], return_tensors="pt")).last_hidden_state
        image = image_encoder(**processor(images[:1], return_tensors="pt")).last_hidden_state
    states = {"text": text[0].numpy(), "image": image[0].numpy()}
    differences = (
        f"{name}_difference={np.abs(states[name] - expected[name]).max():.1e}" for name in states
    )
    return " ".join(differences)


PROGRAMS: dict[str, Callable[[Path, list[Image.Image]], Query]] = {
    "sentence-transformers": with_st,
    "reranker": with_reranker,
    "onnx": with_onnx,
}

if __name__ == "__main__":
    main()
