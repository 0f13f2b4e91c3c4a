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
        "refcoco+": refcoco,
        "refcocog": refcocog,
        "karpathy": flickr8k,
        "vg": vg,
        "sbu": sbu,
        "gcc": gcc,
        "image-text": image_text,
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


def coco_2017(source: Path, generator: np.random.Generator) -> None:
    """The official captions, those of an image not in a row."""
    for split, num_images in (("train2017", 6), ("val2017", 4)):
        images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(num_images)]
        for image in images:
            picture(source / split / str(image["file_name"]), generator)
        captions = [
            {"image_id": image["id"], "caption": text(generator)}
            for _ in range(3)
            for image in images
        ]
        content = {"images": images, "annotations": captions}
        put_json(source / "annotations" / f"captions_{split}.json", content)


def f30k(source: Path, generator: np.random.Generator) -> None:
    """Karpathy's splits over one folder of images."""
    _karpathy(source, "flickr30k", ["train"] * 8 + ["val"] * 5 + ["test"] * 7, generator)


def flickr8k(source: Path, generator: np.random.Generator) -> None:
    """Karpathy's splits of a dataset that has no source of its own."""
    _karpathy(source, "flickr8k", ["train"] * 5 + ["val"] * 3 + ["test"] * 2, generator)


def _karpathy(
    source: Path, dataset: str, splits: Sequence[str], generator: np.random.Generator
) -> None:
    entries = []
    for number, split in enumerate(splits):
        name = f"{number}.jpg"
        picture(source / f"{dataset}-images" / name, generator)
        sentences = [{"raw": text(generator), "tokens": []} for _ in range(2)]
        entries.append({"filename": name, "split": split, "sentences": sentences})
    put_json(source / "karpathy" / f"dataset_{dataset}.json", {"images": entries})


def vg(source: Path, generator: np.random.Generator) -> None:
    """Region phrases, images in two folders."""
    entries = []
    for number in range(7):
        folder = "VG_100K" if number % 2 else "VG_100K_2"
        picture(source / "images" / folder / f"{number}.jpg", generator)
        box = {"x": 1, "y": 2, "width": 3 + number, "height": 4}
        regions = [{**box, "phrase": text(generator)} for _ in range(1 + number % 3)]
        entries.append({"id": number, "regions": regions})
    put_json(source / "annotations" / "region_descriptions.json", entries)


def sbu(source: Path, generator: np.random.Generator) -> None:
    """A list of pairs."""
    put_json(source / "annot.json", _pairs(source / "images_train", 5, generator))


def gcc(source: Path, generator: np.random.Generator) -> None:
    """Two lists of pairs."""
    for split, count in (("train", 6), ("val", 3)):
        pairs = _pairs(source / f"images_{split}", count, generator)
        put_json(source / f"{split}_annot.json", pairs)


def _pairs(images: Path, count: int, generator: np.random.Generator) -> list[list[str]]:
    names = [f"000{number % 2}/{number}.jpg" for number in range(count)]
    for name in names:
        picture(images / name, generator)
    return [[name, text(generator)] for name in names]


def image_text(source: Path, generator: np.random.Generator) -> None:
    """A captions file beside the images, two captions each."""
    lines = []
    for number in range(6):
        picture(source / f"{number}.jpg", generator)
        lines += [{"image": f"{number}.jpg", "caption": text(generator)} for _ in range(2)]
    put_lines(source / "captions.jsonl", lines)


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
    """Expressions in the division of UNC."""
    splits = ["train"] * 8 + ["val"] * 5 + ["testA"] * 3 + ["testB"] * 3
    _refer(source, "refs(unc).p", splits, generator)


def refcocog(source: Path, generator: np.random.Generator) -> None:
    """Expressions in the division of UMD."""
    _refer(source, "refs(umd).p", ["train"] * 6 + ["val"] * 3 + ["test"] * 4, generator)


def _refer(source: Path, file: str, splits: Sequence[str], generator: np.random.Generator) -> None:
    """Write expressions for boxes, one to three boxes to an image, in a pickle as downloaded."""
    refs, boxes, images = [], [], []
    ids = itertools.count(1)
    for image_id, split in enumerate(splits):
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
    (source / file).write_bytes(pickle.dumps(refs, protocol=2))
    put_json(source / "instances.json", {"images": images, "annotations": boxes})
