"""Writing a run folder from what a checkpoint became."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import attrs
from torch import Tensor

from renaissance.convert.target import Target
from renaissance.engine.checkpoint import TrainState, save_checkpoint
from renaissance.engine.init_from import InitReport
from renaissance.engine.matching import MODEL, OBJECTIVES, Match, ModuleReport, match_tensors
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.record import write_parts
from renaissance.engine.run_folder import RunFolder, toml_string
from renaissance.engine.run_parts import build_network, build_tokenizer, resolve_spec
from renaissance.engine.tensors import first_few
from renaissance.engine.training_data import TrainingAnswers
from renaissance.errors import CheckpointError, SpecError
from renaissance.export.folder import new_folder
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import record_tables, tables_to_toml


def write_run(source: str, target: Target, output: Path) -> InitReport:
    """Write a run folder; it is there whole or not at all.

    Args:
        source: The checkpoint, for messages.
        target: What it became.
        output: A folder that is new or empty.

    Returns:
        What was loaded, and what was left behind.

    Raises:
        CheckpointError: If the checkpoint lacks weights of a part that it has.
        SpecError: If the folder cannot be written, or the tokenizer not be loaded.
    """
    read = _read_spec(target, output)
    # Of so much data, an epoch is longer than any number of steps.
    spec = resolve_spec(read, num_samples=sys.maxsize, world_size=1)
    tokenizer = build_tokenizer(spec, _no_data)
    answers = TrainingAnswers(_no_data, dict(target.answers))
    network = build_network(spec, tokenizer, load_weights=False, answers=answers)
    report = _load(source, network, target)
    spec_text = tables_to_toml(record_tables(spec))
    with new_folder(output) as folder:
        run = RunFolder(folder)
        write_parts(run, spec, tokenizer, answers, spec_text)
        save_checkpoint(run.checkpoint(0), network, None, TrainState(), spec_text)
    return report


def _read_spec(target: Target, output: Path) -> RunSpec:
    output = output.absolute()
    folder, name = toml_string(str(output.parent)), toml_string(output.name)
    with TemporaryDirectory() as temporary:
        path = Path(temporary, "spec.toml")
        path.write_text(tables_to_toml(target.tables), encoding="utf-8")
        arguments = [str(path), f"run.output_dir={folder}", f"run.name={name}"]
        return load_spec(arguments, load_plugins())


def _no_data() -> NoReturn:
    raise SpecError("data.tokenizer: 'dataset' needs data; name the checkpoint's with --tokenizer")


def _load(source: str, network: MultiObjective, target: Target) -> InitReport:
    """Load the tensors, module by module: a module that the checkpoint has must fit as a whole."""
    state = network.state_dict()
    modules = [f"{MODEL}{part}" for part in network.model.parts()]
    modules += [f"{OBJECTIVES}{name}" for name in network.objectives]
    matches = [
        match_tensors(module, None, _inside(state, module), _inside(target.tensors, module))
        for module in modules
    ]
    differing = [
        f"{name}: {text}"
        for match in matches
        if match.saved
        for name, text in match.differences.items()
    ]
    if differing:
        raise CheckpointError(
            f"{source}: does not fit what was made of it: {first_few(differing)}; give its own "
            "tokenizer with --tokenizer, or download it again"
        )
    taken = {f"{m.name}.{name}": tensor for m in matches for name, tensor in m.taken.items()}
    network.load_state_dict({**state, **taken})
    noted = [attrs.evolve(m, note=target.notes.get(m.name, "")) for m in matches]
    rows = [row for match in noted for row in match.report()]
    return InitReport(source, (*rows, *_left_behind(target.left)))


def _inside(tensors: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    prefix = f"{module}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _left_behind(tensors: Mapping[str, Tensor]) -> Iterator[ModuleReport]:
    for module in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        inside = {n: t for n, t in tensors.items() if n.rpartition(".")[0] == module}
        yield from Match(module, {}, inside).report()
