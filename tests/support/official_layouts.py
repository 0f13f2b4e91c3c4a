"""Tiny datasets laid out as their official downloads, of noise and of random words."""

import io
import itertools
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = ["a", "photo", "of", "two", "red", "dogs", "near", "one", "blue", "umbrella"]
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLASSES = ("contradiction", "neutral", "entailment")
WIDTH, HEIGHT = 48, 40
NUM_ANSWERS = 10


def write_all(folder: Path) -> dict[str, Path]:
    """Write every dataset; return its folder by the name that `data prepare` knows."""
    writers = {
        "coco": coco,
        "f30k": f30k,
        "vqav2": vqav2,
        "nlvr2": nlvr2,
        "snli-ve": snli_ve,
        "refcoco": refcoco,
    }
    for number, (name, write) in enumerate(writers.items()):
        write(folder / name, np.random.default_rng(number))
    return {name: folder / name for name in writers}


def text(generator: np.random.Generator) -> str:
    """Return three to eight words."""
    return " ".join(generator.choice(WORDS, generator.integers(3, 9)))


def picture(path: Path, generator: np.random.Generator) -> None:
    """Write coarse noise around a colour of its own."""
    colour = generator.integers(40, 216, 3)
    pixels = np.clip(colour + generator.integers(-40, 41, (5, 6, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(file, kind)
    path.write_bytes(file.getvalue())


def put_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def put_lines(path: Path, entries: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def coco(source: Path, generator: np.random.Generator) -> None:
    """Karpathy's splits over the images of 2014."""
    entries = []
    for number, split in enumerate(["train"] * 10 + ["restval"] * 2 + ["val"] * 4 + ["test"] * 3):
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{number:012d}.jpg"
        picture(source / folder / name, generator)
        sentences = [{"raw": text(generator), "tokens": []} for _ in range(2)]
        entry = {"filename": name, "filepath": folder, "split": split, "sentences": sentences}
        entries.append(entry)
    put_json(source / "karpathy" / "dataset_coco.json", {"images": entries, "dataset": "coco"})


def f30k(source: Path, generator: np.random.Generator) -> None:
    """Karpathy's splits over one folder of images."""
    entries = []
    for number, split in enumerate(["train"] * 8 + ["val"] * 5 + ["test"] * 7):
        name = f"{number}.jpg"
        picture(source / "flickr30k-images" / name, generator)
        sentences = [{"raw": text(generator), "tokens": []} for _ in range(2)]
        entries.append({"filename": name, "split": split, "sentences": sentences})
    put_json(source / "karpathy" / "dataset_flickr30k.json", {"images": entries})


def vqav2(source: Path, generator: np.random.Generator) -> None:
    """Questions of train2014, val2014 and test-dev2015, two or three to an image."""
    ids = itertools.count(1000)
    for split, num_images in (("train2014", 12), ("val2014", 7), ("test-dev2015", 5)):
        folder = "test2015" if split == "test-dev2015" else split
        questions, annotations = [], []
        for image_id in range(num_images):
            picture(source / folder / f"COCO_{folder}_{image_id:012d}.jpg", generator)
            for _ in range(2 + image_id % 2):
                question = {"image_id": image_id, "question_id": next(ids)}
                questions.append({**question, "question": f"{text(generator)}?"})
                annotations.append({**question, **_answers(generator)})
        path = source / f"v2_OpenEnded_mscoco_{split}_questions.json"
        put_json(path, {"info": {"year": 2017}, "questions": questions})
        if split != "test-dev2015":
            path = source / f"v2_mscoco_{split}_annotations.json"
            put_json(path, {"annotations": annotations})


def _answers(generator: np.random.Generator) -> dict[str, Any]:
    majority, other = generator.permutation(["yes", "no"])
    number = int(generator.integers(6, NUM_ANSWERS + 1))
    answers = [str(majority)] * number + [str(other)] * (NUM_ANSWERS - number)
    given = [{"answer": answer, "answer_id": i + 1} for i, answer in enumerate(answers)]
    return {"multiple_choice_answer": str(majority), "answers": given}


def nlvr2(source: Path, generator: np.random.Generator) -> None:
    """Sentences of train, dev and test1, one or two to a pair of images."""
    for split, num_pairs in (("train", 8), ("dev", 12), ("test1", 7)):
        entries = []
        for pair in range(num_pairs):
            folder = source / "images" / "train" / "7" if split == "train" else source / split
            for side in range(2):
                picture(folder / f"{split}-{pair}-0-img{side}.png", generator)
            for number in range(1 + pair % 2):
                label = str(bool(generator.integers(2)))
                entry = {"identifier": f"{split}-{pair}-0-{number}", "sentence": text(generator)}
                entries.append({**entry, "label": label, "directory": 7})
        put_lines(source / "nlvr2" / "data" / f"{split}.json", entries)


def snli_ve(source: Path, generator: np.random.Generator) -> None:
    """Hypotheses of train, dev and test, those of an image not in a row."""
    numbers = itertools.count(100)
    for split, num_images in (("train", 6), ("dev", 9), ("test", 5)):
        ids = [str(next(numbers)) for _ in range(num_images)]
        for image_id in ids:
            picture(source / "Flickr30K" / "images" / f"{image_id}.jpg", generator)
        entries = [
            {
                "Flickr30K_ID": image_id,
                "sentence1": text(generator),
                "sentence2": text(generator),
                "gold_label": str(generator.choice(CLASSES)),
            }
            for _ in range(2)
            for image_id in ids
        ]
        put_lines(source / f"snli_ve_{split}.jsonl", entries)


def refcoco(source: Path, generator: np.random.Generator) -> None:
    """Expressions for boxes, one to three boxes to an image, in a pickle as in the download."""
    refs, boxes, images = [], [], []
    ids = itertools.count(1)
    for image_id, split in enumerate(["train"] * 8 + ["val"] * 5 + ["testA"] * 3 + ["testB"] * 3):
        name = f"COCO_train2014_{image_id:012d}.jpg"
        picture(source / "train2014" / name, generator)
        images.append({"id": image_id, "file_name": name})
        own = [next(ids) for _ in range(1 + image_id % 3)]
        for box in own:
            x, y = generator.integers(0, WIDTH // 2), generator.integers(0, HEIGHT // 2)
            bbox = [float(x), float(y), float(WIDTH // 2), float(HEIGHT // 2)]
            boxes.append({"id": box, "image_id": image_id, "bbox": bbox})
        sentences = [{"sent": text(generator)} for _ in range(1 + image_id % 2)]
        ref = {"ref_id": image_id, "ann_id": int(generator.choice(own)), "split": split}
        refs.append({**ref, "image_id": image_id, "file_name": name, "sentences": sentences})
    (source / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    put_json(source / "instances.json", {"images": images, "annotations": boxes})
