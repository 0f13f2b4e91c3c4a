"""The contract of image transforms."""

import io
import pickle
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from renaissance.contracts.transform import Transform, TransformContext
from renaissance.testing.contract_check import ContractCheck, ViolationError, require
from renaissance.testing.pictures import noise, pictures, turned
from renaissance.testing.randomness import global_state

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

MEAN = (0.4, 0.5, 0.6)
# States of the generator to try before concluding that pixels do not depend on it.
NUM_STATES = 16
# A pixel more or less at the margin, from rounding, matters in a smaller image.
PROCESSOR_SIZE = 224
# Resizing before or after rotating differs by rounding, and by a pixel if a margin is odd.
MAX_MEAN_DIFFERENCE = 4.0


def check_transform(
    component: type[Transform], options: object = None, *, image_size: int = 32
) -> None:
    """Check an image transform against its contract.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.
        image_size: Side of the square images to ask for, in pixels.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("transform", component)
    check.declaration()
    options = check.options(options)
    with check.part("normalization"):
        _check_normalization(component)
    for training in (True, False):
        context = TransformContext(image_size, training, MEAN)
        with check.part("making"):
            transform, again = check.make(options, context), check.make(options, context)
            _check_claim(transform, training)
        check.stop_if_broken()
        with check.part("pixels"):
            _check_pixels(transform, image_size)
        check.stop_if_broken()
        with check.part("randomness"):
            _check_randomness(transform, again)
            (_check_deterministic if transform.is_deterministic else _check_random)(transform)
        with check.part("images in memory"):
            _check_memory(transform)
        with check.part("workers"):
            _check_workers(transform)
        if not training:
            with check.part("orientation"):
                _check_orientation(transform)
            with check.part("image_processor"):
                large = TransformContext(PROCESSOR_SIZE, False, MEAN)
                _check_image_processor(check.make(options, large))
        check.stop_if_broken()


def _pixels(transform: Transform, data: bytes, state: int = 0) -> Pixels:
    """Return the pixels of a picture, drawn with a new generator."""
    return transform.pixels(Image.open(io.BytesIO(data)), np.random.default_rng(state))


def _check_normalization(component: type[Transform]) -> None:
    for name, lowest in (("mean", 0.0), ("std", 1e-6)):
        value = getattr(component, name)
        require(
            isinstance(value, tuple)
            and len(value) == 3
            and all(isinstance(level, float) and lowest <= level <= 1 for level in value),
            f"{name} is {value!r}, expected three numbers from 0 to 1, one per channel"
            + (", above 0" if name == "std" else ""),
        )


def _check_claim(transform: Transform, training: bool) -> None:
    claim = getattr(transform, "is_deterministic", None)
    require(
        isinstance(claim, bool),
        f"is_deterministic is {claim!r}, expected True or False, set in __init__",
    )
    require(
        training or claim is True,
        "is_deterministic is False in evaluation, where nothing may be random; augment only if "
        "context.training",
    )


def _check_pixels(transform: Transform, image_size: int) -> None:
    expected = (3, image_size, image_size)
    for name, data in pictures().items():
        try:
            pixels = _pixels(transform, data)
        # Any exception is a violation; the message says for which picture.
        except Exception as error:
            text = f"for {name} it raised {type(error).__name__}: {error}"
            raise ViolationError(text) from error
        require(
            isinstance(pixels, np.ndarray)
            and pixels.shape == expected
            and pixels.dtype == np.uint8
            and pixels.flags["C_CONTIGUOUS"],
            f"{name} became {_shape_of(pixels)}, expected a C-contiguous array of {expected} uint8",
        )


def _shape_of(pixels: object) -> str:
    if not isinstance(pixels, np.ndarray):
        return type(pixels).__name__
    order = "" if pixels.flags["C_CONTIGUOUS"] else ", not C-contiguous"
    return f"{pixels.shape} {pixels.dtype}{order}"


def _check_randomness(transform: Transform, again: Transform) -> None:
    data = list(pictures().values())
    with global_state(0):
        forwards = [_pixels(transform, one) for one in data]
    with global_state(1):
        backwards = [_pixels(again, one) for one in data[::-1]]
    require(
        all(map(np.array_equal, forwards, backwards[::-1])),
        "equal pictures and equal states of the generator gave different pixels; draw everything "
        "random from the generator that is given, nothing from a global one, and keep no state "
        "from one picture to the next",
    )


def _check_deterministic(transform: Transform) -> None:
    for name, data in pictures().items():
        generator = np.random.default_rng(0)
        before = generator.bit_generator.state
        transform.pixels(Image.open(io.BytesIO(data)), generator)
        require(
            generator.bit_generator.state == before,
            f"is_deterministic is True, but for {name} it drew from the generator; set it to False "
            "if anything is random, and draw nothing otherwise",
        )


def _check_random(transform: Transform) -> None:
    data = pictures().values()
    require(
        any(
            not np.array_equal(_pixels(transform, one, state), _pixels(transform, one))
            for one in data
            for state in range(1, NUM_STATES)
        ),
        f"is_deterministic is False, but {NUM_STATES} states of the generator gave the same "
        "pixels; set it to True if nothing is random: only then is an image encoded once for all "
        "samples that show it",
    )


def _check_memory(transform: Transform) -> None:
    for mode in ("RGB", "RGBA", "L"):
        image = noise(60, 45).convert(mode)
        before = image.tobytes()
        for state in range(NUM_STATES):
            transform.pixels(image, np.random.default_rng(state))
        require(
            image.tobytes() == before,
            f"it changed the pixels of the {mode} image that it was given, which a dataset may "
            "return again; work on a copy",
        )


def _check_workers(transform: Transform) -> None:
    try:
        copy = pickle.loads(pickle.dumps(transform))
    # Pickling calls the component's code, which may raise anything.
    except Exception as error:
        raise ViolationError(
            f"it cannot be pickled ({type(error).__name__}: {error}), as loader workers require; "
            "keep no open files, lambdas or local functions in it"
        ) from error
    data = pictures()["a JPEG of mode RGB"]
    require(
        np.array_equal(_pixels(copy, data), _pixels(transform, data)),
        "a pickled copy, as loader workers get, gives other pixels",
    )


def _check_orientation(transform: Transform) -> None:
    for orientation in (3, 6):
        stored, upright = (_pixels(transform, data).astype(int) for data in turned(orientation))
        difference = float(np.abs(stored - upright).mean())
        require(
            difference <= MAX_MEAN_DIFFERENCE,
            f"a picture of EXIF orientation {orientation} differs from the same picture stored "
            f"upright by {difference:.1f} levels on average; apply renaissance.upright",
        )


def _check_image_processor(transform: Transform) -> None:
    config = transform.image_processor()
    if config is None:
        return
    # Imported here because it takes seconds.
    from renaissance.export.image_processor import (
        MAX_PIXEL_DIFFERENCE,
        pixel_difference,
        write_image_processor,
    )

    mean, std = transform.mean, transform.std
    with tempfile.TemporaryDirectory() as folder:
        write_image_processor(config, mean, std, Path(folder))
        difference = pixel_difference(transform, mean, std, Path(folder), PROCESSOR_SIZE)
    require(
        difference <= MAX_PIXEL_DIFFERENCE,
        f"the image processor of transformers that it names makes pixels that differ by "
        f"{difference:.1f} of 255 levels on average, expected at most {MAX_PIXEL_DIFFERENCE}; "
        "return None if none does the same",
    )
