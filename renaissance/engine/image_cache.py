"""Which cache of images a run uses, where it is, and when it cannot use one."""

import hashlib
import inspect
import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs
import PIL
import torch
import transformers
from torch import nn

from renaissance.contracts.component import Component
from renaissance.contracts.transform import Transform
from renaissance.data.cache.rows import RowCache
from renaissance.data.collate import Collator
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.engine.run_parts import RunParts
from renaissance.errors import SpecError
from renaissance.files import cache_home
from renaissance.spec.choice import Choice
from renaissance.spec.resolve import encoder_for
from renaissance.spec.sections import ResolvedSpec

# Raised whenever opening or decoding pictures changes.
VERSION = 1
ABOUT = "about.json"


def with_cache(parts: RunParts) -> RunParts:
    """Let a run use its cache, if it has one; its parameters must be final if they are frozen.

    Raises:
        SpecError: If it cannot have one.
        DataError: If the folder cannot be written.
    """
    train = cached_collator(parts.train, parts.spec, parts.network)
    validate = parts.validate and cached_collator(parts.validate, parts.spec, parts.network)
    return attrs.evolve(parts, train=train, validate=validate)


def cached_collator(collator: Collator, spec: ResolvedSpec, network: MultiObjective) -> Collator:
    """Return a collator that uses the cache of `data.cache`, if there is one.

    Args:
        collator: The collator.
        spec: The run spec.
        network: Model and objectives, on the device, with their final parameters as far as they
            are frozen.

    Raises:
        SpecError: If the run cannot have one.
        DataError: If the folder cannot be written.
    """
    if spec.data.cache == "none":
        return collator
    reader = collator.reader
    check_transform(spec, reader.transform)
    cache = open_cache(spec, network, reader.transform, reader.training)
    if spec.data.cache == "pixels":
        reader = attrs.evolve(reader, pixel_cache=cache)
    else:
        reader = attrs.evolve(reader, state_cache=cache)
        network.state_caches[reader.training] = cache
    return Collator(reader, collator.objectives, collator.skip_bad_samples)


def check_transform(spec: ResolvedSpec, transform: Transform) -> None:
    """Check that an image always has the same pixels, if they are to be kept.

    Raises:
        SpecError: If it does not.
    """
    if spec.data.cache != "none" and not transform.is_deterministic:
        raise SpecError(
            f"data.cache: '{spec.data.cache}', but data.transform ('{spec.data.transform.type}') "
            "augments images at random, so they look different in each epoch; expected a "
            "transform without augmentation. Switch augmentation off, or set data.cache = 'none'"
        )


def open_cache(
    spec: ResolvedSpec, network: MultiObjective, transform: Transform, training: bool
) -> RowCache:
    """Open the cache of a run's images, which is made if it is missing."""
    about: dict[str, Any] = {"pixels": _about_pixels(spec, transform, training)}
    if spec.data.cache == "tokens":
        about["tokens"] = _about_states(spec, network)
    text = json.dumps(about, indent=1, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"{spec.data.cache}-{spec.data.transform.type}-{spec.data.image_size}-{digest}"
    folder = cache_folder(spec) / name
    shape, dtype = form_of_row(spec, network)
    cache = RowCache(folder, shape, dtype, int(spec.data.cache_gib * 2**30))
    # For who wonders what the folder is; another rank may be writing it.
    with suppress(OSError), (folder / ABOUT).open("x") as file:
        file.write(text + "\n")
    return cache


def cache_folder(spec: ResolvedSpec) -> Path:
    """Return the folder of all caches of images."""
    return Path(spec.data.cache_folder) if spec.data.cache_folder else cache_home() / "images"


@torch.no_grad()
def form_of_row(spec: ResolvedSpec, network: MultiObjective) -> tuple[tuple[int, ...], torch.dtype]:
    """Return shape and type of what is kept of an image.

    Raises:
        SpecError: If its token states are to be kept, and the encoder masks some.
    """
    shape = (3, spec.data.image_size, spec.data.image_size)
    if spec.data.cache == "pixels":
        return shape, torch.uint8
    device = network.get_buffer("pixel_mean").device
    # The meta device, in `check`, has no autocast: there, states are those of fp32.
    precision = autocast(spec.train.precision, device) if device.type != "meta" else nullcontext()
    with precision:
        pixels = network.normalize(torch.zeros((1, *shape), device=device))
        tokens = network.model.encode_image(pixels)
    # Nor do masks have values there.
    if device.type != "meta" and not tokens.attention_mask.all():
        raise SpecError(
            f"data.cache: 'tokens', but the image encoder ('{encoder_for(spec, 'image').type}') "
            "masks some tokens of an image, and masks are not kept; expected one whose tokens are "
            "all real. Set data.cache = 'pixels'"
        )
    return tuple(tokens.hidden_states.shape[1:]), tokens.hidden_states.dtype


def _about_pixels(spec: ResolvedSpec, transform: Transform, training: bool) -> dict[str, Any]:
    """Return what the pixels of an image depend on, besides the image."""
    choice = spec.data.transform
    return {
        **_about(choice, type(transform)),
        "mean": choice.mean,
        "image_size": spec.data.image_size,
        "training": training,
        "Pillow": PIL.__version__,
        "version": VERSION,
    }


def _about_states(spec: ResolvedSpec, network: MultiObjective) -> dict[str, Any]:
    """Return what the token states of an image depend on, besides its pixels."""
    encoder, choice = network.model.parts()["image_encoder"], encoder_for(spec, "image")
    device = network.get_buffer("pixel_mean").device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        **_about(choice, type(encoder)),
        "parameters": _digest(encoder),
        "mean": spec.data.transform.mean,
        "std": spec.data.transform.std,
        "precision": spec.train.precision,
        "fp32 products": torch.get_float32_matmul_precision(),
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _about(choice: Choice, component: type) -> dict[str, Any]:
    """Return what tells one component from another, and from an earlier state of its code."""
    bases = [b for b in component.__mro__ if issubclass(b, Component) and b is not Component]
    files = filter(None, map(inspect.getsourcefile, bases))
    return {
        "type": choice.type,
        "options": attrs.asdict(choice.options),
        "from": f"{choice.registration.distribution} {choice.registration.version}",
        "source": [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files],
    }


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        data = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        digest.update(data.numpy())
    return digest.hexdigest()
