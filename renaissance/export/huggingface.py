"""A folder for the Hugging Face hub: the model for Renaissance, each tower for transformers."""

import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import tomli
import torch

import renaissance
from renaissance.data.preprocessor import FILE as PREPROCESSOR
from renaissance.engine.checkpoint import copy_checkpoint
from renaissance.engine.run_folder import RunFolder
from renaissance.errors import RunError
from renaissance.export.card import CARD, Exported, card
from renaissance.export.probe import Probe
from renaissance.export.towers import Tower, encoders, export_towers
from renaissance.inference.loading import REQUIREMENTS, load
from renaissance.inference.model import Model
from renaissance.spec.choice import Choice, EncoderChoice
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import tables_to_toml

PLUGINS = "plugins"
USES = {
    "match_score": 'model.match(["a.jpg"], ["a dog"]).probability  # (images, texts)',
    "embed": 'model.embed(texts=["a dog"])  # unit vectors',
    "predictions": "model.predict(rows)",
    "token_logits": 'model.fill_mask("a.jpg", "a [MASK] on a sofa")',
}


def export_huggingface(
    model: Model, run: RunFolder, folder: Path, name: str, command: Sequence[str]
) -> list[Tower]:
    """Write a model as a folder that `renaissance.load` reads, and its towers for transformers.

    Args:
        model: The model, on the CPU.
        run: The run folder that it was loaded from.
        folder: An empty folder.
        name: Name of the model, for its card.
        command: The command line, without the program, for its card.

    Returns:
        The towers that transformers loads.

    Raises:
        RunError: If what is read back differs from the model.
    """
    write_model(model, run, folder)
    towers = export_towers(model, folder)
    if (folder / "image_encoder" / PREPROCESSOR).is_file():
        shutil.copyfile(folder / "image_encoder" / PREPROCESSOR, folder / PREPROCESSOR)
    exported = Exported(name, command, folder, use(model, name, towers))
    (folder / CARD).write_text(card(model, run, exported), encoding="utf-8")
    return towers


def write_model(model: Model, run: RunFolder, folder: Path) -> None:
    """Write what `renaissance.load` reads, and check that it gives the same model.

    Args:
        model: The model, on the CPU.
        run: The run folder that it was loaded from.
        folder: An empty folder.

    Raises:
        RunError: If what is read back differs from the model.
    """
    copy_checkpoint(model.checkpoint, folder, _spec_text(run, folder))
    kept = RunFolder(folder)
    for source, copy in (
        (run.tokenizer_digest, kept.tokenizer_digest),
        (run.classes, kept.classes),
        (run.plugins, kept.plugins),
        (run.results, kept.results),
    ):
        if source.is_file():
            shutil.copyfile(source, copy)
    if run.encoders.is_dir():
        shutil.copytree(run.encoders, kept.encoders)
    model.tokenizer.save_pretrained(kept.tokenizer)
    (folder / REQUIREMENTS).write_text("".join(f"{r}\n" for r in requirements(model.spec)))
    _check_read_back(model, folder)


def use(model: Model, name: str, towers: Sequence[Tower]) -> str:
    """Return how to use an exported folder, Markdown."""
    calls = [call for method, call in USES.items() if model.network.overriding(method)]
    where = "  # this folder, or its name on the hub"
    lines = ["import renaissance", "", f'model = renaissance.load("{name}"){where}', *calls]
    return "\n".join([*_code(lines), *_use_of_towers(model, name, towers)])


def _use_of_towers(model: Model, name: str, towers: Sequence[Tower]) -> Iterator[str]:
    for tower in towers:
        yield f"`{tower.name}/` alone ({tower.family}), without Renaissance:\n"
        # By subfolder, which works for a folder and for a name on the hub.
        arguments = [f'"{name}"', f'subfolder="{tower.name}"']
        arguments += [f"{argument}={value}" for argument, value in tower.arguments.items()]
        lines = [
            f"from transformers import {tower.loader}",
            "",
            f"{tower.name} = {tower.loader}.from_pretrained({', '.join(arguments)})",
        ]
        yield from _code(lines)
        if tower.note:
            yield f"Of `{tower.name}/`: {tower.note}.\n"
    left_out = sorted(encoders(model.network).keys() - {tower.name for tower in towers})
    if left_out:
        yield (
            f"Only Renaissance loads {', '.join(f'`{table}`' for table in left_out)}: it is not a "
            "model of transformers alone.\n"
        )


def _code(lines: Sequence[str]) -> list[str]:
    return ["```python", *lines, "```", ""]


def _spec_text(run: RunFolder, folder: Path) -> str:
    """Return the spec, with plugin files replaced by the copies that the folder gets."""
    text = run.spec.read_text(encoding="utf-8")
    tables = tomli.loads(text)
    files = [Path(file) for file in tables["run"].get("plugins", [])]
    if not files:
        return text
    (folder / PLUGINS).mkdir()
    copies = [Path(PLUGINS) / f"{index}-{file.name}" for index, file in enumerate(files)]
    for file, copy in zip(files, copies, strict=True):
        shutil.copyfile(run.path / file, folder / copy)
    tables["run"]["plugins"] = [copy.as_posix() for copy in copies]
    return tables_to_toml(tables)


def requirements(spec: RunSpec) -> list[str]:
    """Return the distributions that a spec's components need, as pip takes them."""
    versions = {"renaissance": renaissance.__version__}
    for choice in _choices(spec):
        if isinstance(choice, EncoderChoice) and choice.adapt is not None:
            versions.setdefault("peft", version("peft"))
        registration = choice.registration
        # That of a plugin file is its path, and its version a digest.
        if not registration.version.startswith("sha256:"):
            versions.setdefault(registration.distribution, registration.version)
    return [f"{name}=={version}" for name, version in versions.items()]


def _choices(value: Any) -> list[Choice]:
    """Return all choices of components in a spec."""
    found = [value] if isinstance(value, Choice) else []
    if isinstance(value, tuple | list):
        inner: Sequence[Any] = value
    else:
        fields = attrs.fields_dict(type(value)) if attrs.has(type(value)) else ()
        inner = [getattr(value, name) for name in fields]
    return [*found, *(choice for entry in inner for choice in _choices(entry))]


def _check_read_back(model: Model, folder: Path) -> None:
    """Check that the folder gives the same model, to the bit."""
    loaded = load(folder, device="cpu", trust_plugins=True)
    probe = Probe.of(model)
    actual = probe.outputs(loaded)
    for name, expected in probe.outputs(model).items():
        if not torch.equal(actual[name], expected):
            raise RunError(
                f"{name}: the exported folder gives another output than the run; nothing was "
                "exported. Please report it: this is a bug in Renaissance or in a plugin"
            )
