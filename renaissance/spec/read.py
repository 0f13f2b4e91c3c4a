"""From command line arguments to a run spec: files, what they extend, and overrides."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli

from renaissance.errors import SpecError, quoted, shortened, shown_path
from renaissance.files import with_home
from renaissance.plugins.loading import Plugins
from renaissance.spec.layers import COMMAND_LINE, Layers
from renaissance.spec.plugin_files import load_plugin_files
from renaissance.spec.recipes import is_recipe, recipe_path
from renaissance.spec.sections import RunSpec
from renaissance.spec.structure import structure_spec

RECORD = "spec.toml"  # The name of the record that a run folder keeps.
EXTENDS = "extends"


def load_spec(arguments: Sequence[str], plugins: Plugins, trust_plugins: bool = False) -> RunSpec:
    """Read and check a run spec.

    Args:
        arguments: See `read_layers`.
        plugins: The components that the spec may name; those of the files in `run.plugins` are
            added to them.
        trust_plugins: See `choose_components`.

    Raises:
        SpecError: With the faults of the spec, each naming the file it comes from.
        PluginError: If a component declares options that cannot be written in TOML.
    """
    return choose_components(read_layers(arguments), plugins, trust_plugins)


def read_layers(arguments: Sequence[str]) -> Layers:
    """Read and merge the tables of a run spec.

    Args:
        arguments: TOML files and recipes, of which later ones win, and `section.key=value`
            overrides, which win over all files.

    Raises:
        SpecError: With the faults of files and arguments.
    """
    files = [argument for argument in arguments if _is_file(argument)]
    reader = _Reader()
    for file in files:
        reader.read_named(file, Path(), ())
    overrides = [
        reader.parse_override(argument) for argument in arguments if not _is_file(argument)
    ]
    if reader.faults:
        raise SpecError(*reader.faults)
    layers = Layers(files[-1] if files else COMMAND_LINE, map(str, reader.records))
    for origin, table in reader.tables.items():
        layers.add(table, str(origin))
    for table in overrides:
        layers.add(table, COMMAND_LINE)
    return layers


def choose_components(layers: Layers, plugins: Plugins, trust_plugins: bool = False) -> RunSpec:
    """Turn the layers into a spec, with the components that they name.

    Args:
        layers: The tables.
        plugins: The components that the spec may name; see `load_spec`.
        trust_plugins: Whether to run the Python files that the record of a run names. Those that
            the user names, in a spec or on the command line, are always run.

    Raises:
        SpecError: With every fault, each naming the file it comes from.
        PluginError: If a component declares options that cannot be written in TOML.
    """
    load_plugin_files(layers, plugins, trust_plugins)
    return structure_spec(layers, plugins)


def _is_file(argument: str) -> bool:
    # `model.init_from=old.toml` is an override, but `lr=3/run.toml` may be a file.
    return is_recipe(argument) or (
        argument.endswith(".toml") and ("=" not in argument or Path(argument).is_file())
    )


class _Reader:
    """Reads files, each after those that it extends, and each once.

    Attributes:
        tables: The files' tables, lowest layer first.
        records: Those that are records of runs, or that such a record extends.
        faults: What is wrong with files and arguments.
    """

    def __init__(self) -> None:
        self.tables: dict[Path, dict[str, Any]] = {}
        self.records: set[Path] = set()
        self.faults: list[str] = []
        self._seen: set[Path] = set()

    def read_named(self, name: str, folder: Path, extended_by: tuple[Path, ...]) -> None:
        """Read a recipe, or a file relative to a folder; see `read`."""
        try:
            path = recipe_path(name) if is_recipe(name) else folder / with_home(name)
        except SpecError as error:
            where = f"{extended_by[-1]}: extends" if extended_by else COMMAND_LINE
            self.faults.append(f"{where}: {error}")
        else:
            self.read(path, extended_by)

    def read(self, path: Path, extended_by: tuple[Path, ...]) -> None:
        """Read a file and those it extends.

        Args:
            path: The file.
            extended_by: The files that led to it, to report a cycle.
        """
        if "\0" in str(path):
            self.faults.append(
                f"{extended_by[-1] if extended_by else COMMAND_LINE}: got {quoted(str(path))}, "
                "expected the name of a file"
            )
            return
        if path.resolve() in [file.resolve() for file in extended_by]:
            chain = " -> ".join(map(str, (*extended_by, path)))
            self.faults.append(f"{extended_by[-1]}: extends: a cycle: {chain}; remove one of them")
            return
        if path.resolve() in self._seen:
            return
        self._seen.add(path.resolve())
        table = self._parse(path, extended_by)
        if table is None:
            return
        bases = table.pop(EXTENDS, [])
        if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
            self.faults.append(
                f"{path}: extends: got {quoted(bases)}, expected a list of files, "
                'such as ["base.toml"]'
            )
            return
        for base in bases:
            self.read_named(base, path.parent, (*extended_by, path))
        self.tables[path] = table
        if any(file.name == RECORD for file in (*extended_by, path)):
            self.records.add(path)

    def _parse(self, path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any] | None:
        where = f"{extended_by[-1]}: extends: " if extended_by else ""
        try:
            # Editors on Windows begin files with a byte order mark.
            return tomli.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            self.faults.append(
                f"{where}{shown_path(path)}: there is no such file{_files_near(path)}"
            )
        except UnicodeDecodeError as error:
            self.faults.append(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8")
        except OSError as error:
            self.faults.append(f"{where}{shown_path(path)}: cannot be read: {error.strerror}")
        except tomli.TOMLDecodeError as error:
            fault = f"line {error.lineno}, column {error.colno}: {shortened(error.msg)}"
            self.faults.append(f"{path}: {fault}")
        except RecursionError:
            self.faults.append(f"{path}: its values are nested too deeply; expected a few levels")
        # A date such as 2026-02-30, an integer of thousands of digits, a NUL byte in the path.
        except ValueError as error:
            self.faults.append(
                f"{where}{shown_path(path)}: cannot be read: {shortened(str(error))}"
            )
        return None

    def parse_override(self, argument: str) -> dict[str, Any]:
        """Return `section.key=value` as nested tables; a value that is not TOML is a string."""
        key, equals, text = argument.partition("=")
        # Error messages write `objectives[0].weight`, which users copy.
        names = re.sub(r"\[(\d+)\]", r".\1", key.strip()).split(".")
        if not equals or not all(re.fullmatch(r"[\w-]+", name) for name in names):
            self.faults.append(
                f"{COMMAND_LINE}: got {quoted(argument)}, expected a .toml file or "
                "section.key=value, such as train.max_steps=50"
            )
            return {}
        try:
            argument.encode()  # What is not UTF-8 could not be written to spec.toml.
            value = _parse_value(text)
        except (RecursionError, ValueError) as error:
            self.faults.append(
                f"{COMMAND_LINE}: got {quoted(argument)}, which cannot be read: "
                f"{shortened(str(error))}"
            )
            return {}
        for name in reversed(names):
            value = {name: value}
        return dict(value)


def _parse_value(text: str) -> Any:
    try:
        table = tomli.loads(f"value = {text}")
    except tomli.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _files_near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"; the folder {folder} does not exist either"
    names = sorted(file.name for file in folder.glob("*.toml"))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    if not near:
        return f"; the folder {folder.resolve()} has no .toml files"
    return f"; in {folder.resolve()} there are: {', '.join(near)}"
