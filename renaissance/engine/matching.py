"""Match a run's modules with a checkpoint's, by the names and shapes of their tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
from torch import Tensor, nn

from renaissance.contracts.encoder import Encoder

MODEL, OBJECTIVES = "model.", "objectives."

Status = Literal["loaded", "resized", "newly initialized", "left behind"]


@attrs.frozen
class ModuleReport:
    """What was done with some of a module's tensors.

    Attributes:
        module: A part of the model, or "objectives.<name>".
        status: What was done with them.
        num_tensors: How many there are; tied ones count once.
        num_parameters: How many values they hold, buffers included.
        note: Where they come from, or why they differ; may be empty.
    """

    module: str
    status: Status
    num_tensors: int
    num_parameters: int
    note: str


@attrs.frozen
class Side:
    """The new run, or the checkpoint.

    Attributes:
        tensors: Its tensors, named as in `model.init_allow`: those of a part of the model begin
            with the part's name, those of an objective with "objectives.<name>".
        spec: Its resolved spec, as nested tables.
        classes: The classes of its objectives by name, where they are known.
    """

    tensors: Mapping[str, Tensor]
    spec: Mapping[str, Any]
    classes: Mapping[str, Sequence[str]] = attrs.field(factory=dict)

    def inside(self, module: str) -> dict[str, Tensor]:
        """Return a module's tensors, by their names in it."""
        prefix = f"{module}."
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}

    def part_type(self, part: str) -> str | None:
        """Return the component type of a part of the model; None if it is not a component."""
        component_type: str | None = self.spec["model"].get(part, {}).get("type")
        return component_type

    def objective_types(self) -> dict[str, str]:
        """Return the types of the objectives by name."""
        return {o.get("name", o["type"]): o["type"] for o in self.spec["objectives"]}


@attrs.frozen
class Match:
    """A module of the run, of the checkpoint, or of both, and what the run takes from it.

    Attributes:
        name: Its name, as in `model.init_allow`.
        expected: The run's tensors.
        saved: The checkpoint's tensors.
        taken: What the run takes from the checkpoint, in the run's shapes.
        differences: What does not match, by full name: tensors, or the module as a whole.
        note: The note about its tensors in the report.
    """

    name: str
    expected: Mapping[str, Tensor]
    saved: Mapping[str, Tensor]
    taken: Mapping[str, Tensor] = attrs.field(factory=dict)
    differences: Mapping[str, str] = attrs.field(factory=dict)
    note: str = ""

    def without_differing(self, allow: Sequence[str]) -> "Match":
        """Return the match without the tensors of allowed modules that differ."""
        # As a whole: trained and new layers within one module would not work together.
        renewed = [entry for entry in allow if any(is_in(n, entry) for n in self.differences)]
        taken = {
            name: tensor
            for name, tensor in self.taken.items()
            if not any(is_in(f"{self.name}.{name}", entry) for entry in renewed)
        }
        return attrs.evolve(self, taken=taken)

    def state(self) -> dict[str, Tensor]:
        """Return what is taken, by the names in the network's state dict."""
        prefix = "" if self.name.startswith(OBJECTIVES) else MODEL
        return {f"{prefix}{self.name}.{name}": tensor for name, tensor in self.taken.items()}

    def report(self) -> Iterator[ModuleReport]:
        """Report what is done with its tensors."""
        taken, saved = self.taken, self.saved
        resized = {n: t for n, t in taken.items() if t.shape != saved[n].shape}
        loaded = {n: t for n, t in taken.items() if n not in resized}
        new = {n: t for n, t in self.expected.items() if n not in taken}
        left = {n: t for n, t in saved.items() if n not in taken}
        shapes = [f"{n} {_shape(saved[n])} to {_shape(t)}" for n, t in resized.items()]
        more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        groups: list[tuple[Status, dict[str, Tensor], str]] = [
            ("loaded", loaded, self.note),
            ("resized", resized, f"{shapes[0]}{more}" if shapes else ""),
            ("newly initialized", new, self.note),
            ("left behind", left, ""),
        ]
        for status, tensors, note in groups:
            if tensors:
                size = sum(tensor.numel() for tensor in tensors.values())
                yield ModuleReport(self.name, status, len(tensors), size, note)


def match_tensors(
    name: str, module: nn.Module | None, expected: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> Match:
    """Match a module's tensors with the checkpoint's, by name."""
    taken = {}
    for tensor_name, tensor in expected.items():
        fitting = saved.get(tensor_name)
        if fitting is not None and fitting.shape != tensor.shape:
            # Position embeddings of another image size, say: encoders may know how to resize them.
            encoder = module if isinstance(module, Encoder) else None
            fitting = None if encoder is None else encoder.fit_tensor(tensor_name, fitting)
        if fitting is not None:
            taken[tensor_name] = fitting
    differences = {}
    for tensor_name, tensor in expected.items():
        if tensor_name not in taken:
            other = saved.get(tensor_name)
            differences[f"{name}.{tensor_name}"] = (
                "not in the checkpoint"
                if other is None
                else f"shape {_shape(other)} in the checkpoint, {_shape(tensor)} in this run"
            )
    for tensor_name in saved:
        if tensor_name not in expected:
            differences[f"{name}.{tensor_name}"] = "not in this run"
    return Match(name, expected, saved, taken, differences)


def is_in(name: str, module: str) -> bool:
    """Return whether a tensor or module is, or is inside, a module; both named in full."""
    return name == module or name.startswith(f"{module}.")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
