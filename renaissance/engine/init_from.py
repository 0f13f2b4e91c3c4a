"""Initialize a new run from a checkpoint: strictly, module by module."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from renaissance.contracts.classification import Classification
from renaissance.contracts.objective import Objective
from renaissance.engine.average import averaged
from renaissance.engine.checkpoint import load_model_tensors, load_spec_tables
from renaissance.engine.labels import few
from renaissance.engine.matching import (
    MODEL,
    OBJECTIVES,
    Match,
    ModuleReport,
    Side,
    is_in,
    match_tensors,
)
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_folder import find_checkpoint, run_of
from renaissance.engine.tensors import first_few, without_aliases
from renaissance.engine.training_data import read_records
from renaissance.errors import CheckpointError, SpecError, did_you_mean
from renaissance.hub import local_folder
from renaissance.model.lora import merged, plain_names
from renaissance.spec.choice import EncoderChoice
from renaissance.spec.sections import ModelSection, RunSpec
from renaissance.spec.write import spec_tables


@attrs.frozen
class InitReport:
    """How a new run was initialized.

    Attributes:
        source: The checkpoint's folder.
        modules: What was done with each module, one entry per status.
    """

    source: str
    modules: tuple[ModuleReport, ...]

    def lines(self) -> list[str]:
        """Return the report as the lines of a table."""
        rows = [("module", "status", "tensors", "parameters", "note")]
        rows += [
            (m.module, m.status, f"{m.num_tensors:,}", f"{m.num_parameters:,}", m.note)
            for m in self.modules
        ]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        return [f"parameters from {self.source}"] + [
            f" {module:<{widths[0]}}  {status:<{widths[1]}}  {tensors:>{widths[2]}}  "
            f"{parameters:>{widths[3]}}  {note}".rstrip()
            for module, status, tensors, parameters, note in rows
        ]


def initialize(network: MultiObjective, source: str | Path, spec: RunSpec) -> InitReport:
    """Load a new run's model and objectives from a checkpoint of another run.

    The tensors of the model and those of the checkpoint must match one to one. A module named in
    `model.init_allow` may differ, and is then newly initialized as a whole. An objective takes its
    head from the checkpoint's objective of the same name; failing that, from the first one that
    matches and whose type is the same or in `compatible_heads`. Heads that only the run or only the
    checkpoint has are not errors.

    Args:
        network: The new run's model and objectives.
        source: The checkpoint, or a run folder: its best checkpoint, or else its last; or the name
            of an exported model on the hub, which is downloaded once.
        spec: The new run's spec.

    Raises:
        CheckpointError: If the checkpoint is missing or damaged, or does not match.
        SpecError: If `model.init_allow` names a module that neither side has.
    """
    folder = _find(source)
    tables = load_spec_tables(folder)
    tensors = merged(averaged(load_model_tensors(folder)), tables["model"])
    checkpoint = Side(
        {name.removeprefix(MODEL): tensor for name, tensor in tensors.items()},
        tables,
        _kept_classes(folder),
    )
    state = averaged(without_aliases(network.state_dict()))
    # Adapters begin anew, on top of what is loaded.
    names = plain_names(state)
    run = Side(
        {plain.removeprefix(MODEL): state[name] for plain, name in names.items()},
        spec_tables(spec),
        {
            n: o.classes
            for n, o in network.named_objectives().items()
            if isinstance(o, Classification)
        },
    )
    _check_architecture(run, checkpoint, folder)
    allow = spec.model.init_allow
    _check_allow(allow, network, [*run.tensors, *checkpoint.tensors], folder)
    matches = [*_parts(network, run, checkpoint), *_objectives(network, run, checkpoint)]
    _check_differences(matches, allow, folder)
    matches = [match.without_differing(allow) for match in matches]
    # Not strict: tensors that nothing matches keep their initial values.
    network.load_state_dict(
        {names[plain]: t for match in matches for plain, t in match.state().items()},
        strict=False,
    )
    if network.average is not None:
        network.average.restart(network)
    return InitReport(str(folder), tuple(row for match in matches for row in match.report()))


def _find(source: str | Path) -> Path:
    try:
        folder = local_folder(source)
    except CheckpointError as error:
        raise CheckpointError(f"model.init_from: {error}") from error
    return find_checkpoint(folder, prefer_best=True)


def may_keep_encoder(model: ModelSection) -> bool:
    """Return whether `model.init_allow` lets an encoder, or part of one, keep its initial values.

    Only then are its pretrained weights read when there is a `model.init_from`.
    """
    parts = {entry.partition(".")[0] for entry in model.init_allow}
    return any(isinstance(getattr(model, part, None), EncoderChoice) for part in parts)


def _parts(network: MultiObjective, run: Side, checkpoint: Side) -> Iterator[Match]:
    """Match the parts of the model."""
    parts = network.model.parts()
    saved_names = [name for name in checkpoint.tensors if not name.startswith(OBJECTIVES)]
    for part in dict.fromkeys([*parts, *(name.partition(".")[0] for name in saved_names)]):
        expected, saved = run.inside(part), checkpoint.inside(part)
        types = checkpoint.part_type(part), run.part_type(part)
        if types[0] == types[1]:
            yield match_tensors(part, parts.get(part), expected, saved)
        else:
            # In components of different types, equal names and shapes mean nothing.
            text = f"{types[0]!r} in the checkpoint, {types[1]!r} in this run"
            yield Match(part, expected, saved, differences={part: text}, note=text)


def _objectives(network: MultiObjective, run: Side, checkpoint: Side) -> Iterator[Match]:
    """Match the objectives; those that only one side has do not count as different."""
    types, saved_types = run.objective_types(), checkpoint.objective_types()
    used = set()
    for name, objective in network.named_objectives().items():
        if name in saved_types:
            candidates = [name]
        else:
            candidates = [
                saved_name
                for saved_name, saved_type in saved_types.items()
                if saved_type in (types[name], *objective.compatible_heads)
            ]
        source, match = _head(name, candidates, objective, run, checkpoint)
        used.add(source)
        yield match
    for name in saved_types:
        if name not in used:
            yield Match(OBJECTIVES + name, {}, checkpoint.inside(OBJECTIVES + name))


def _head(
    name: str, candidates: Sequence[str], objective: Objective, run: Side, checkpoint: Side
) -> tuple[str | None, Match]:
    """Match an objective with the first of the checkpoint's that fits, or else with none."""
    expected = run.inside(OBJECTIVES + name)
    for source in candidates:
        saved = checkpoint.inside(OBJECTIVES + source)
        known = checkpoint.classes.get(source)
        if known is not None and list(known) != list(run.classes.get(name, known)):
            # A head of the same shape would mean other classes.
            if source != name:
                continue
            text = f"classes {few(known)} in the checkpoint, {few(run.classes[name])} in this run"
            return source, Match(OBJECTIVES + name, expected, saved, {}, {OBJECTIVES + name: text})
        match = match_tensors(OBJECTIVES + name, objective, expected, saved)
        if source == name and saved:
            return source, match
        if match.taken and not match.differences:
            return source, attrs.evolve(match, note=f"from objective '{source}'")
    return None, Match(OBJECTIVES + name, expected, {})


def _kept_classes(checkpoint: Path) -> dict[str, list[str]]:
    """Return the classes of each objective, if the checkpoint is in its run folder."""
    records = read_records(run_of(checkpoint).classes)
    return {
        name: list(label["classes"])
        for name, record in records.items()
        for label in record.get("labels", {}).values()
        if "classes" in label
    }


def _check_architecture(run: Side, checkpoint: Side, folder: Path) -> None:
    expected, saved = run.spec["model"]["type"], checkpoint.spec["model"]["type"]
    if expected != saved:
        raise CheckpointError(
            f"model.init_from: {folder} is a checkpoint of a {saved} model, but model.type is "
            f"'{expected}'; take [model] from the spec.toml in that folder, or choose another "
            "checkpoint"
        )


def _check_allow(
    allow: Sequence[str], network: MultiObjective, tensors: Sequence[str], folder: Path
) -> None:
    """Check that the entries of `model.init_allow` are modules of the run or the checkpoint."""
    modules = [*network.model.parts(), *(OBJECTIVES + name for name in network.objectives)]
    faults = [
        f"model.init_allow: '{entry}' is not a module of this run or of {folder}; expected one of "
        f"{', '.join(modules)}, or a module inside one of them{did_you_mean(entry, modules)}"
        for entry in allow
        if not any(is_in(name, entry) for name in [*modules, *tensors])
    ]
    if faults:
        raise SpecError(*faults)


def _check_differences(matches: Sequence[Match], allow: Sequence[str], folder: Path) -> None:
    """Check that `model.init_allow` allows every difference."""
    differing = [
        (match.name, f"{name}: {text}")
        for match in matches
        for name, text in match.differences.items()
        if not any(is_in(name, entry) for entry in allow)
    ]
    if differing:
        enough = dict.fromkeys([*allow, *(module for module, _ in differing)])
        raise CheckpointError(
            f"model.init_from: {folder} does not fit this run: "
            f"{first_few([text for _, text in differing])}. Set [model] and [data] as in the "
            "spec.toml in that folder; or, to newly initialize the modules that do not fit, set "
            f"model.init_allow = {json.dumps(list(enough))}"
        )
