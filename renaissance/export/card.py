"""The model card: what a model is, what was measured of it, and how to check both.

It says nothing that is not in the run folder or in the exported files, and has no date, so the same
run gives the same card.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

import renaissance
from renaissance.data.verification import manifest_entries
from renaissance.engine.manifest import model_sha256
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import build_datasets
from renaissance.errors import RenaissanceError
from renaissance.export.towers import encoders
from renaissance.files import read_json, sha256_of
from renaissance.inference.model import Model
from renaissance.spec.choice import DatasetChoice
from renaissance.spec.sections import ResolvedSpec

CARD = "README.md"
HEADING = """---
library_name: {library}
tags: [{tags}]
---

# {name}

A {architecture} vision-language encoder, trained with
[Renaissance](https://pypi.org/project/renaissance/) {version}. This card was written by
`{command}` from the run's own files; `spec.toml` is the whole record of the run.

## Use

{use}
"""


@attrs.frozen
class Exported:
    """What an export made of a run.

    Attributes:
        name: Name of the model.
        command: The command line that made it, without the program.
        folder: Where the files are while the card is written.
        use: How to load and use it, Markdown.
        library: The library that loads it, as the hub names it.
    """

    name: str
    command: Sequence[str]
    folder: Path
    use: str
    library: str = "renaissance"


def card(model: Model, run: RunFolder, exported: Exported) -> str:
    """Return the card as Markdown.

    Args:
        model: The model.
        run: The run folder that it was loaded from.
        exported: What was made of it.
    """
    digest = model_sha256(model.checkpoint)
    sections = [
        _heading(model, exported),
        *_parts(model),
        *_results(run, digest),
        *_training(model.spec),
        *_data(model.spec),
        *_files(exported.folder),
    ]
    return "\n".join(sections)


def _heading(model: Model, exported: Exported) -> str:
    return HEADING.format(
        library=exported.library,
        tags=", ".join(["vision-language", model.spec.model.type, *_types(model.spec)]),
        name=exported.name,
        architecture=model.spec.model.type,
        version=renaissance.__version__,
        command=shlex.join(["renaissance", *exported.command]),
        use=exported.use,
    )


def _types(spec: ResolvedSpec) -> list[str]:
    return list(dict.fromkeys(objective.type for objective in spec.objectives))


def _parts(model: Model) -> Iterator[str]:
    yield "## Parts\n\nCounted by the command that wrote this card:\n"
    modules = {**model.network.model.parts(), **model.network.named_objectives()}
    rows = []
    for name, module in modules.items():
        count = sum(parameter.numel() for parameter in module.parameters())
        origin = getattr(encoders(model.network).get(name), "weights_source", "")
        rows.append((name, type(module).__name__, f"{count:,}", origin))
    yield _table(("part", "class", "parameters", "started from"), rows)


def _results(run: RunFolder, digest: str) -> Iterator[str]:
    yield "## Results\n"
    others = []
    measured = False
    for name, record in read_json(run.results).items():
        if not isinstance(record, dict) or record.get("checkpoint_sha256") != digest:
            others.append(name)
            continue
        measured = True
        yield from _result(name, record)
    if not measured:
        yield "Nothing was measured of this checkpoint. `renaissance evaluate` does.\n"
    if others:
        names = ", ".join(f"`{name}`" for name in others)
        yield f"Left out, since they were measured with another checkpoint: {names}.\n"


def _result(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"Printed by `{record.get('command')}`, of {record.get('num_samples', 0):,} samples:\n"
    columns: dict[str, Mapping[str, Any]] = {name: record.get("metrics", {})}
    columns |= record.get("controls", {})
    if "chance" in record:
        columns["chance"] = record["chance"]
    rows = [
        (metric, *(_figure(column.get(metric)) for column in columns.values()))
        for metric in columns[name]
    ]
    yield _table(("metric", *columns), rows)
    for path, values in (record.get("changed_settings") or {}).items():
        yield f"Not as in `spec.toml`: `{path}` = `{values.get('evaluation')}`.\n"
    yield f"SHA-256 of the parameters that it was measured with: `{record['checkpoint_sha256']}`\n"


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _training(spec: ResolvedSpec) -> Iterator[str]:
    train = spec.train
    rows = [
        ("objectives", ", ".join(_types(spec))),
        ("steps", f"{train.max_steps:,}"),
        ("samples per step", f"{train.global_batch_size:,}"),
        ("optimizer", spec.optimizer.type),
        ("precision", train.precision),
        ("image size", f"{spec.data.image_size} pixels, {spec.data.transform.type}"),
        ("longest text", f"{spec.data.max_text_length} tokens"),
        ("seed", str(spec.run.seed)),
    ]
    yield "## Training\n\nFrom `spec.toml`:\n"
    yield _table(("setting", "value"), rows)


def _data(spec: ResolvedSpec) -> Iterator[str]:
    yield "## Data\n"
    splits = {"data.train": spec.data.train, "data.validate": spec.data.validate}
    rows: list[tuple[str, ...]] = []
    for where, choices in splits.items():
        for index, choice in enumerate(choices):
            rows += _dataset(spec, f"{where}[{index}]", choice)
    yield _table(("dataset", "type", "file", "bytes", "SHA-256"), rows)
    yield "Sizes and digests are those of the manifests that `renaissance data prepare` writes.\n"


def _dataset(spec: ResolvedSpec, where: str, choice: DatasetChoice) -> Iterator[tuple[str, ...]]:
    try:
        paths = build_datasets(spec, (choice,), "data.train").datasets[0].files
    except RenaissanceError:
        yield where, choice.type, "not on the machine that wrote this card", "", ""
        return
    entries = manifest_entries(paths)
    for path in paths:
        entry = entries.get(path, {})
        yield where, choice.type, path.name, f"{entry.get('size', '')}", entry.get("sha256", "")
    if not paths:
        yield where, choice.type, "none", "", ""


def _files(folder: Path) -> Iterator[str]:
    yield "## Files\n"
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD)
    rows = [
        (str(path.relative_to(folder)), f"{path.stat().st_size:,}", sha256_of(path))
        for path in paths
    ]
    yield _table(("file", "bytes", "SHA-256"), rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, with a blank line after it."""
    lines = [titles, ["-"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    # A bar in a name would begin another cell.
    return text.replace("|", "\\|").replace("\n", " ")
