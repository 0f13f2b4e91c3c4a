"""Each tower of a model as a folder that transformers loads without Renaissance."""

import copy
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import attrs
import torch
import transformers
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from renaissance.builtin.encoders.huggingface.image_input import (
    image_form,
    image_states,
    token_states,
)
from renaissance.contracts.encoder import Encoder
from renaissance.contracts.transform import TransformContext
from renaissance.data.preprocessor import FILE as PREPROCESSOR
from renaissance.engine.multi_objective import MultiObjective
from renaissance.errors import RunError
from renaissance.export.image_processor import (
    MAX_PIXEL_DIFFERENCE,
    pixel_difference,
    write_image_processor,
)
from renaissance.export.probe import TEXTS, Probe, check_close
from renaissance.inference.model import Model


@attrs.frozen
class Tower:
    """An encoder that was exported.

    Attributes:
        name: Its table in the run spec, and its folder.
        loader: The class of transformers that loads the folder.
        family: Its model_type.
        arguments: Arguments of `from_pretrained` besides the folder.
        note: What does not work as in the model, in words; empty if all does.
    """

    name: str
    loader: str
    family: str
    arguments: Mapping[str, bool]
    note: str = ""


def export_towers(model: Model, folder: Path) -> list[Tower]:
    """Write each encoder that is a Hugging Face model, with its tokenizer or image processor.

    Args:
        model: The model, on the CPU.
        folder: Where to put the folders, named after the encoders' tables.

    Raises:
        RunError: If what transformers loads differs from the model.
    """
    towers = []
    for name, encoder in encoders(model.network).items():
        plain = encoder.transformers_model()
        if plain is not None:
            write = _export_text if "text" in encoder.modalities else _export_image
            towers.append(write(model, name, plain, folder / name))
    return towers


def encoders(network: MultiObjective) -> dict[str, Encoder]:
    """Return the encoders of a model, by their tables in the run spec."""
    parts = network.model.parts().items()
    return {name: part for name, part in parts if isinstance(part, Encoder)}


def _export_text(model: Model, name: str, plain: PreTrainedModel, folder: Path) -> Tower:
    plain.save_pretrained(folder)
    write_tokenizer(model, folder)
    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    encoded = loaded(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
    mask = encoded["attention_mask"].bool()
    # Calling the tokenizer itself would turn its truncation off, from then on.
    expected = [model.tokenizer.backend_tokenizer.encode(text).ids for text in TEXTS]
    actual = [ids[real].tolist() for ids, real in zip(encoded["input_ids"], mask, strict=True)]
    if actual != expected:
        raise RunError(
            f"{name}: the tokenizer that transformers loads gives the ids {actual[0]} for "
            f"{TEXTS[0]!r}, expected {expected[0]}; nothing was exported"
        )
    tower = _tower(name, plain)
    with torch.no_grad():
        states = _load(tower, folder)(**encoded).last_hidden_state
        ours = model.network.model.encode_text(encoded["input_ids"], mask).hidden_states
    check_close(name, states[mask], ours[mask])
    return tower


def _export_image(model: Model, name: str, plain: PreTrainedModel, folder: Path) -> Tower:
    plain.save_pretrained(folder)
    tower = _tower(name, plain)
    pixels = Probe.of(model).pixel_values
    with torch.no_grad():
        loaded = _load(tower, folder)
        states = token_states(image_states(loaded, pixels, image_form(loaded)))
        ours = model.network.model.encode_image(pixels).hidden_states
    check_close(name, states, ours)
    return attrs.evolve(tower, note=write_processor(model, folder))


def write_tokenizer(model: Model, folder: Path) -> None:
    """Write the tokenizer, which cuts texts where the model does if it is asked to truncate."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.model_max_length = model.spec.data.max_text_length
    tokenizer.save_pretrained(folder)


def write_processor(model: Model, folder: Path) -> str:
    """Write the image processor, if there is one that does the same; return what is to be said.

    Raises:
        RunError: If its pixels differ from the model's.
    """
    choice = model.spec.data.transform
    context = TransformContext(model.spec.data.image_size, False, choice.mean)
    transform = choice.build(context)
    config = transform.image_processor()
    if config is None:
        return (
            f"no image processor of transformers does the same as the transform '{choice.type}', "
            f"so there is no {PREPROCESSOR}"
        )
    write_image_processor(config, choice.mean, choice.std, folder)
    size = model.spec.data.image_size
    difference = pixel_difference(transform, choice.mean, choice.std, folder, size)
    if difference > MAX_PIXEL_DIFFERENCE:
        raise RunError(
            f"image_encoder: the pixels of transformers' image processor differ from those of "
            f"'{choice.type}' by {difference:.1f} of 255 levels on average, expected at most "
            f"{MAX_PIXEL_DIFFERENCE}; nothing was exported"
        )
    return ""


def _tower(name: str, plain: PreTrainedModel) -> Tower:
    config = plain.config
    is_auto = transformers.MODEL_MAPPING.get(type(config), None) is type(plain)
    # Encoders have no pooler. Loading would make a random one, and warn of it.
    has_pooler = "add_pooling_layer" in signature(type(plain)).parameters
    return Tower(
        name,
        "AutoModel" if is_auto else type(plain).__name__,
        config.model_type,
        {"add_pooling_layer": False} if has_pooler else {},
    )


def _load(tower: Tower, folder: Path) -> Callable[..., Any]:
    """Load a folder by its public class."""
    loader = AutoModel if tower.loader == "AutoModel" else getattr(transformers, tower.loader)
    loaded: nn.Module = loader.from_pretrained(folder, trust_remote_code=False, **tower.arguments)
    return loaded.eval()
