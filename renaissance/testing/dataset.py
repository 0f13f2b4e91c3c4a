"""The contract of datasets."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from renaissance.contracts.dataset import Dataset, DatasetContext
from renaissance.contracts.samples import Sample
from renaissance.data.encoding import encode
from renaissance.data.tokenizer import DATASET, load_tokenizer
from renaissance.errors import quoted
from renaissance.randomness import keyed_generator
from renaissance.testing.contract_check import ContractCheck, ViolationError, require
from renaissance.testing.randomness import global_state

MAX_SAMPLES = 8
MAX_TEXT_LENGTH = 512


def check_dataset(
    component: type[Dataset], options: object = None, *, root: Path = Path(), seed: int = 0
) -> None:
    """Check a dataset against its contract, on its first samples.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.
        root: What `data.root` would be.
        seed: What `run.seed` would be.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("dataset", component)
    check.declaration()
    options = check.options(options)
    for training in (True, False):
        context = DatasetContext(root=root, seed=seed, training=training)
        with check.part("making"):
            dataset, again = check.make(options, context), check.make(options, context)
            _check_attributes(dataset)
        check.stop_if_broken()
        with check.part("samples"):
            for index in range(_num_samples(dataset)):
                _check_sample(dataset.provides, _sample(dataset, index), f"sample({index})")
        check.stop_if_broken()
        with check.part("randomness"):
            _check_randomness(dataset, again)
        with check.part("image_ids"):
            _check_image_ids(dataset)
        with check.part("label_values"):
            _check_label_values(dataset)
        if dataset.vocabulary is not None:
            with check.part("vocabulary"):
                _check_vocabulary(dataset)
        check.stop_if_broken()


def _num_samples(dataset: Dataset) -> int:
    return min(len(dataset), MAX_SAMPLES)


def _sample(dataset: Dataset, index: int, epoch: int = 0) -> Sample:
    return dataset.sample(index, keyed_generator(0, epoch, index, "dataset"))


def _check_attributes(dataset: Dataset) -> None:
    require(
        isinstance(getattr(dataset, "provides", None), frozenset),
        f"provides is {getattr(dataset, 'provides', None)!r}, expected a frozenset of 'text', "
        "'text_pair', 'image' and names of labels",
    )
    require(len(dataset) > 0, "it is empty; pass options with which it has samples to check")


def _check_sample(provides: frozenset[str], sample: object, where: str) -> None:
    if not isinstance(sample, Sample):
        raise ViolationError(f"{where} returned {type(sample).__name__}, expected a Sample")
    for name, text in (("text", sample.text), ("text_pair", sample.text_pair)):
        expected = str if name in provides else type(None)
        require(
            isinstance(text, expected),
            f"{where}: {name} is {type(text).__name__}, expected {expected.__name__}, because "
            f"provides {'has' if name in provides else 'lacks'} '{name}'",
        )
    images = sample.images
    require(
        bool(images) == ("image" in provides)
        and isinstance(images, tuple)
        and all(isinstance(image, Image.Image) for image in images),
        f"{where}: images is {quoted(images)}, expected a tuple of PIL images, empty if and only "
        "if provides lacks 'image'",
    )
    require(
        len(sample.image_ids) == len(images)
        and all(isinstance(identifier, Hashable) for identifier in sample.image_ids),
        f"{where}: image_ids is {quoted(sample.image_ids)}, expected one hashable identifier for "
        f"each of {len(images)} images",
    )
    labels = provides - {"text", "text_pair", "image"}
    require(
        set(sample.labels) == labels,
        f"{where}: labels are {sorted(sample.labels)}, expected those that provides names: "
        f"{sorted(labels)}",
    )
    require(
        bool(sample.source), f"{where}: source is empty, expected file and row, for error messages"
    )


def _fingerprint(sample: Sample) -> tuple[Any, ...]:
    pixels = [image.convert("RGB").tobytes() for image in sample.images]
    labels = {
        name: np.asarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value)
        for name, value in sample.labels.items()
    }
    return (sample.text, sample.text_pair, pixels, sample.image_ids, labels)


def _check_randomness(dataset: Dataset, again: Dataset) -> None:
    indices = list(range(_num_samples(dataset)))
    for epoch in (0, 1):
        with global_state(0):
            forwards = [_fingerprint(_sample(dataset, index, epoch)) for index in indices]
        with global_state(1):
            backwards = [_fingerprint(_sample(again, index, epoch)) for index in indices[::-1]]
        for index, one, other in zip(indices, forwards, backwards[::-1], strict=True):
            require(
                one == other,
                f"sample({index}) differs when it is read again in the same epoch; let it depend "
                "only on the index, the context's seed and the generator it is given: not on a "
                "global generator, and not on which samples were read before",
            )


def _check_image_ids(dataset: Dataset) -> None:
    seen: dict[Hashable, bytes] = {}
    for index in range(_num_samples(dataset)):
        sample = _sample(dataset, index)
        for identifier, image in zip(sample.image_ids, sample.images, strict=True):
            pixels = image.convert("RGB").tobytes()
            require(
                seen.setdefault(identifier, pixels) == pixels,
                f"sample({index}): the identifier {quoted(identifier)} is that of another image; "
                "give each image its own: images with equal identifiers are decoded and encoded "
                "once",
            )


def _check_label_values(dataset: Dataset) -> None:
    if type(dataset).label_values is Dataset.label_values:
        return
    for name in sorted(dataset.provides - {"text", "text_pair", "image"}):
        values = list(dataset.label_values(name))
        require(
            len(values) == len(dataset),
            f"label_values({name!r}) has {len(values)} values, expected one for each of "
            f"{len(dataset)} samples",
        )
        for index in range(_num_samples(dataset)):
            expected = _sample(dataset, index).labels[name]
            require(
                values[index] == expected,
                f"label_values({name!r}) has {values[index]!r} for sample {index}, expected "
                f"{expected!r}, as in its labels",
            )


def _check_vocabulary(dataset: Dataset) -> None:
    tokenizer = load_tokenizer(DATASET, MAX_TEXT_LENGTH, [dataset])
    for index in range(_num_samples(dataset)):
        sample = _sample(dataset, index)
        for text in filter(None, (sample.text, sample.text_pair)):
            encoding = encode(tokenizer, text)
            missing = [
                text[start:end]
                for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
                if token == tokenizer.unk_token_id
            ]
            require(
                not missing,
                f"sample({index}): no word of the vocabulary for {', '.join(missing)}; state every "
                "word in lower case, or set vocabulary = None",
            )
