"""Start a new run from the weights of a checkpoint: strictly, module by module."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import tomli
from rich.table import Table
from torch import Tensor, nn

from renaissance.contracts.encoder import Encoder
from renaissance.engine.checkpoint import aliases, find_checkpoint, load_model_tensors
from renaissance.engine.multi_objective import MultiObjective
from renaissance.errors import CheckpointError, SpecError, did_you_mean
from renaissance.model.build import DEFAULT_FUSION, DEFAULT_POOLER
from renaissance.spec.sections import ComponentSpec, EncoderSpec, ModelSection, RunSpec

MODEL, OBJECTIVES = "model.", "objectives."
DEFAULT_TYPES = {"fusion": DEFAULT_FUSION, "pooler": DEFAULT_POOLER}
NUM_NAMED = 5

Fate = Literal["loaded", "resized", "newly initialized", "left behind"]


@attrs.frozen
class Outcome:
    """What became of some tensors of a module.

    Attributes:
        module: A part of the model, or "objectives.<name>".
        fate: What became of them.
        num_tensors: How many, tied ones counted once.
        num_parameters: How many numbers they hold, those of buffers included.
        note: What else there is to say.
    """

    module: str
    fate: Fate
    num_tensors: int
    num_parameters: int
    note: str


@attrs.frozen
class Start:
    """What a new run starts with.

    Attributes:
        source: The checkpoint's folder.
        outcomes: Module by module.
    """

    source: str
    outcomes: tuple[Outcome, ...]

    def table(self) -> Table:
        """Return the outcomes as a table."""
        title = f"weights from {self.source}"
        table = Table("module", "weights", title=title, title_justify="left", box=None)
        table.add_column("tensors", justify="right")
        table.add_column("parameters", justify="right")
        table.add_column("note")
        for outcome in self.outcomes:
            table.add_row(
                outcome.module,
                outcome.fate,
                f"{outcome.num_tensors:,}",
                f"{outcome.num_parameters:,}",
                outcome.note,
            )
        return table


def start_from(spec: RunSpec, network: MultiObjective) -> Start:
    """Give a new run's model and objectives the weights of `model.init_from`.

    Every tensor of the model must find its like in the checkpoint and the other way round. A module
    of `model.init_allow` may differ, and is then newly initialized as a whole. An objective takes
    the weights of the objective of its name, or else of the first that fits of its type or of
    those in its class's `compatible_heads`; heads that only one side has are as expected.

    Raises:
        CheckpointError: If the checkpoint is missing or damaged, or its weights do not fit.
        SpecError: If `model.init_allow` names what neither side has.
    """
    assert spec.model.init_from is not None
    folder = find_checkpoint(Path(spec.model.init_from), prefer_best=True)
    tensors = load_model_tensors(folder)
    old_spec = tomli.loads((folder / "spec.toml").read_text())
    old_type = old_spec.get("model", {}).get("type", spec.model.type)
    if old_type != spec.model.type:
        raise CheckpointError(
            f"model.init_from: the architectures differ: {folder} is a checkpoint of a {old_type} "
            f"model, but model.type is '{spec.model.type}'; take [model] from the spec.toml in "
            "that folder, or another checkpoint"
        )
    starter = _Starter(spec, old_spec, network, tensors)
    starter.check_allowed(folder)
    starter.add_parts()
    starter.add_objectives()
    starter.raise_faults(folder)
    # What is not given keeps the values that it was built with.
    network.load_state_dict(starter.state, strict=False)
    return Start(str(folder), tuple(starter.outcomes))


def may_keep_encoder(model: ModelSection) -> bool:
    """Return whether `model.init_allow` lets some of an encoder keep its own weights.

    Only then must pretrained weights be read before those of `model.init_from`.
    """
    parts = {entry.partition(".")[0] for entry in model.init_allow}
    return any(isinstance(getattr(model, part, None), EncoderSpec) for part in parts)


@attrs.frozen
class _Fit:
    """How a checkpoint's tensors fit a module's.

    Attributes:
        loaded: The checkpoint's, of the same name and shape.
        resized: The checkpoint's, as the module made them fit.
        new: The module's that have no counterpart.
        left: The checkpoint's that have none.
    """

    loaded: dict[str, Tensor]
    resized: dict[str, Tensor]
    new: dict[str, Tensor]
    left: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        module: nn.Module | None,
        found: Mapping[str, Tensor],
        excluded: Collection[str] = (),
    ) -> "_Fit":
        """Fit the checkpoint's tensors by name, all but the excluded."""
        own: dict[str, Tensor] = dict(module.state_dict()) if module is not None else {}
        # Checkpoints too hold tied tensors once, under the first of their names.
        for name in aliases(own):
            del own[name]
        loaded, resized = {}, {}
        for name, tensor in own.items():
            old = found.get(name)
            if old is None or name in excluded:
                continue
            if old.shape == tensor.shape:
                loaded[name] = old
            elif (
                isinstance(module, Encoder) and (fitted := module.fit_tensor(name, old)) is not None
            ):
                resized[name] = fitted
        taken = loaded | resized
        new = {name: tensor for name, tensor in own.items() if name not in taken}
        left = {name: tensor for name, tensor in found.items() if name not in taken}
        return cls(loaded, resized, new, left)

    def faults(self) -> dict[str, str]:
        """Return what keeps it from fitting wholly, by the name of the tensor."""
        found = {name: "not in the checkpoint" for name in self.new if name not in self.left}
        for name, tensor in self.left.items():
            found[name] = "not in this run"
            if name in self.new:
                found[name] = (
                    f"shape {_shape(tensor)} in the checkpoint, {_shape(self.new[name])} in this "
                    "run"
                )
        return found


class _Starter:
    """Goes through the modules of a network.

    They are named as in `model.init_allow`: parts of the model by their names, objectives as
    "objectives.<name>".

    Attributes:
        state: What the network is given, by the names in its state.
        outcomes: What became of all tensors, module by module.
    """

    def __init__(
        self,
        spec: RunSpec,
        old_spec: Mapping[str, Any],
        network: MultiObjective,
        tensors: Mapping[str, Tensor],
    ) -> None:
        self.state: dict[str, Tensor] = {}
        self.outcomes: list[Outcome] = []
        self._spec = spec
        self._old_spec = old_spec
        self._task = network
        self._found = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items()}
        self._faults: list[str] = []
        self._faulty_modules: list[str] = []

    def check_allowed(self, folder: Path) -> None:
        """Check that each entry of `model.init_allow` is a module of the run or the checkpoint."""
        modules = [*self._task.model.parts(), *(OBJECTIVES + n for n in self._task.objectives)]
        own = (name.removeprefix(MODEL) for name in self._task.state_dict())
        known = {*modules, *own, *self._found}
        faults = [
            f"model.init_allow: '{entry}' is no module of this run, nor of {folder}; expected one "
            f"of {', '.join(modules)}, or a module inside of one{did_you_mean(entry, modules)}"
            for entry in self._spec.model.init_allow
            if not any(_is_in(name, entry) for name in known)
        ]
        if faults:
            raise SpecError(*faults)

    def add_parts(self) -> None:
        """Fit the parts of the model; what does not fit is a fault."""
        parts = self._task.model.parts()
        old_parts = [n.partition(".")[0] for n in self._found if not n.startswith(OBJECTIVES)]
        for name in dict.fromkeys([*parts, *old_parts]):
            part, found = parts.get(name), self._tensors_of(name)
            old_type, own_type = self._types(name)
            if old_type == own_type:
                self._fit(name, part, found)
                continue
            # Between components of two types, equal names and shapes mean nothing.
            difference = f"'{old_type}' in the checkpoint, '{own_type}' in this run"
            if not self._is_allowed(name):
                self._faults.append(f"{name}: {difference}")
                self._faulty_modules.append(name)
            self._add(name, _Fit.of(part, found, excluded=found), found, difference)

    def add_objectives(self) -> None:
        """Fit the objectives; heads that only one side has are as expected."""
        old_types = {
            objective.get("name", objective["type"]): objective["type"]
            for objective in self._old_spec.get("objectives", [])
        }
        sources = set()
        for objective in self._spec.objectives:
            name = objective.name or objective.type
            source = self._source(name, objective.type, old_types)
            module = self._task.objectives[name]
            found = self._tensors_of(OBJECTIVES + source) if source else {}
            if not found:
                self._add(OBJECTIVES + name, _Fit.of(module, found), found)
                continue
            sources.add(source)
            note = f"from objective '{source}'" if source != name else ""
            self._fit(OBJECTIVES + name, module, found, note)
        for name in old_types:
            if name not in sources:
                found = self._tensors_of(OBJECTIVES + name)
                self._add(OBJECTIVES + name, _Fit.of(None, found), found)

    def raise_faults(self, folder: Path) -> None:
        """Raise what does not fit, if anything, with the remedy."""
        if not self._faults:
            return
        num_more = len(self._faults) - NUM_NAMED
        more = f"; and {num_more} more" if num_more > 0 else ""
        allow = dict.fromkeys([*self._spec.model.init_allow, *self._faulty_modules])
        raise CheckpointError(
            f"model.init_from: {folder} does not fit this run: "
            f"{'; '.join(self._faults[:NUM_NAMED])}{more}. Set [model] and [data] as in the "
            "spec.toml in that folder; or, to initialize newly what does not fit and leave its "
            f"weights behind, set model.init_allow = {json.dumps(list(allow))}"
        )

    def _types(self, part: str) -> tuple[str | None, str | None]:
        """Return the component types of a part: the checkpoint's and this run's."""
        default = DEFAULT_TYPES.get(part)
        section = getattr(self._spec.model, part, None)
        own_type = section.type if isinstance(section, ComponentSpec) else default
        old_section = self._old_spec.get("model", {}).get(part, {})
        return old_section.get("type", default), own_type

    def _source(self, name: str, own_type: str, old_types: Mapping[str, str]) -> str | None:
        """Return the name of the checkpoint's objective that an objective starts from, if any."""
        if name in old_types:
            return name
        objective = self._task.named_objectives()[name]
        for old_name, old_type in old_types.items():
            if old_type == own_type or old_type in objective.compatible_heads:
                fit = _Fit.of(objective, self._tensors_of(OBJECTIVES + old_name))
                if fit.loaded and not fit.faults():
                    return old_name
        return None

    def _tensors_of(self, module: str) -> dict[str, Tensor]:
        prefix = f"{module}."
        return {n.removeprefix(prefix): t for n, t in self._found.items() if n.startswith(prefix)}

    def _is_allowed(self, name: str) -> bool:
        return any(_is_in(name, entry) for entry in self._spec.model.init_allow)

    def _fit(
        self, name: str, module: nn.Module | None, found: Mapping[str, Tensor], note: str = ""
    ) -> None:
        faults = {f"{name}.{n}": fault for n, fault in _Fit.of(module, found).faults().items()}
        allow = self._spec.model.init_allow
        # Whole or not at all: half of a module beside another half would be neither.
        given_up = [entry for entry in allow if any(_is_in(fault, entry) for fault in faults)]
        excluded = [n for n in found if any(_is_in(f"{name}.{n}", entry) for entry in given_up)]
        for tensor, fault in faults.items():
            if not self._is_allowed(tensor):
                self._faults.append(f"{tensor}: {fault}")
                self._faulty_modules.append(name)
        self._add(name, _Fit.of(module, found, excluded), found, note)

    def _add(self, module: str, fit: _Fit, found: Mapping[str, Tensor], note: str = "") -> None:
        prefix = "" if module.startswith(OBJECTIVES) else MODEL
        self.state |= {f"{prefix}{module}.{n}": t for n, t in (fit.loaded | fit.resized).items()}
        shapes = [f"{n} {_shape(found[n])} to {_shape(t)}" for n, t in fit.resized.items()]
        more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        fates: dict[Fate, tuple[dict[str, Tensor], str]] = {
            "loaded": (fit.loaded, note),
            "resized": (fit.resized, f"{shapes[0]}{more}" if shapes else ""),
            "newly initialized": (fit.new, note),
            "left behind": (fit.left, ""),
        }
        for fate, (tensors, its_note) in fates.items():
            if tensors:
                size = sum(tensor.numel() for tensor in tensors.values())
                self.outcomes.append(Outcome(module, fate, len(tensors), size, its_note))


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
