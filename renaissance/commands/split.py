"""A split of a trained run's data, as `evaluate` and `predict` read it."""

import re
from collections.abc import Sequence
from pathlib import Path

from renaissance.data.concatenation import Concatenation
from renaissance.engine.run_folder import RunFolder, toml_string
from renaissance.engine.run_parts import build_datasets
from renaissance.errors import SpecError
from renaissance.plugins.loading import Plugins
from renaissance.spec.layers import COMMAND_LINE
from renaissance.spec.read import load_spec
from renaissance.spec.recipes import is_recipe
from renaissance.spec.sections import RunSpec


def spec_of_split(
    arguments: Sequence[str], split: str, plugins: Plugins, trust_plugins: bool
) -> RunSpec:
    """Read the spec of a run, with the split that is asked for.

    Args:
        arguments: A run folder or run specs, then settings, as on the command line.
        split: "validate" or "train" for the run's own data; otherwise a split of the validation
            datasets.
        plugins: The plugins.
        trust_plugins: Whether to run the Python files that the run folder names.

    Raises:
        SpecError: If a run folder, a spec or a split is not there, or not right.
    """
    arguments = _spec_arguments(arguments)
    spec = load_spec(arguments, plugins, trust_plugins)
    if split in ("train", "validate"):
        return spec
    if not spec.data.validate:
        raise SpecError(
            f"--split {split}: the run has no [[data.validate]], so no dataset to take "
            "that split from"
        )
    for index, dataset in enumerate(spec.data.validate):
        if not hasattr(dataset.options, "split"):
            raise SpecError(
                f"--split {split}: data.validate[{index}] ('{dataset.type}') has no other "
                "splits; expected validate or train. To evaluate on other data, set data.validate"
            )
    name = toml_string(split)
    splits = [f"data.validate.{i}.split={name}" for i in range(len(spec.data.validate))]
    try:
        return load_spec([*arguments, *splits], plugins, trust_plugins)
    except SpecError as error:
        # Nobody typed that key.
        key = re.compile(rf"{COMMAND_LINE}: (data\.validate\[\d+\])\.split: ")
        raise SpecError(
            *(key.sub(r"--split: for \1, ", fault) for fault in error.faults)
        ) from error


def datasets_of_split(spec: RunSpec, split: str) -> Concatenation:
    """Build the datasets of a split, from the spec that `spec_of_split` returned.

    Raises:
        SpecError: If the run has no validation data.
        DataError: If a dataset cannot be read.
    """
    if split == "train":
        return build_datasets(spec, spec.data.train, "data.train")
    if not spec.data.validate:
        raise SpecError("data.validate: missing; there is nothing to evaluate on")
    return build_datasets(spec, spec.data.validate, "data.validate")


def _spec_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with a run folder replaced by its spec and settings that name it."""
    first, *more = arguments
    if not (Path(first).exists() or "=" in first or first.endswith(".toml") or is_recipe(first)):
        raise SpecError(
            f"{first}: no such folder; expected a run folder (runs/NAME) or a spec (.toml)"
        )
    if not Path(first).is_dir():
        return [first, *more]
    folder = RunFolder(Path(first).resolve())
    if not folder.spec.is_file():
        raise SpecError(f"{first}: no spec.toml there; expected a run folder (runs/NAME) or a spec")
    return [*folder.spec_arguments(), *more]
