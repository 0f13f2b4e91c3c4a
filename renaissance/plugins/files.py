"""Plugins named by path, for experiments without a package: `[run] plugins = ["./mine.py"]`."""

import hashlib
import json
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from renaissance.errors import PluginError, shown_path
from renaissance.files import write_whole
from renaissance.plugins.hookspecs import hookimpl
from renaissance.plugins.loading import Plugins, check_api, describe_failure

if TYPE_CHECKING:
    from renaissance.contracts.monitor import RunInfo

RECORD_FILE = "plugins.json"


class FileRecord:
    """Records in the run folder which plugin files a run loaded, with their digests.

    Attributes:
        sha256: Digest of each file, by absolute path.
    """

    def __init__(self) -> None:
        self.sha256: dict[Path, str] = {}

    @hookimpl
    def run_started(self, run: "RunInfo") -> None:
        """Add the files that are new or changed since the run was last started."""
        if run.rank != 0:
            return
        path = run.folder / RECORD_FILE
        entries = _recorded(path) if path.exists() else []
        known = {(entry["path"], entry["sha256"]) for entry in entries}
        for file, sha256 in self.sha256.items():
            if (str(file), sha256) not in known:
                entries.append({"path": str(file), "sha256": sha256, "from_step": run.start_step})
        write_whole(path, json.dumps(entries, indent=2) + "\n")


def recorded_digests(folder: Path) -> frozenset[str] | None:
    """Return the digests of the files that a run loaded; None if its folder does not say.

    Args:
        folder: The run folder.

    Raises:
        PluginError: If the record cannot be read.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None
    return frozenset(str(entry["sha256"]) for entry in _recorded(path))


def _recorded(path: Path) -> list[dict[str, str | int]]:
    """Return the entries of a record, each of a file, with its digest.

    Raises:
        PluginError: If the record cannot be read.
    """
    try:
        return [
            {
                "path": str(entry["path"]),
                "sha256": str(entry["sha256"]),
                "from_step": int(entry["from_step"]),
            }
            for entry in json.loads(path.read_text())
        ]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise PluginError(
            f"{path}: cannot be read: expected a list of files, each with path, sha256 and "
            "from_step, as training writes it; restore it from a copy, or delete it to begin a new "
            "one"
        ) from error


def load_plugin_file(path: Path, plugins: Plugins, expected: Collection[str] | None = None) -> None:
    """Load a plugin from a Python file, unless it is loaded already.

    Args:
        path: The file, absolute.
        plugins: The plugins to add it to.
        expected: Digests of which the file must have one; None for any file.

    Raises:
        PluginError: If there is no such file, it has another digest, it cannot be run, or it breaks
            a contract.
    """
    record = _record(plugins)
    if path in record.sha256:
        return
    try:
        source = path.read_bytes()
    except OSError as error:
        raise PluginError(
            f"{shown_path(path)}: cannot be read: {error.strerror}; name a Python file, "
            "relative to the file that names it"
        ) from error
    sha256 = hashlib.sha256(source).hexdigest()
    if expected is not None and sha256 not in expected:
        raise PluginError(
            f"{path}: not the file that the run used: its sha256 is not in {RECORD_FILE}; restore "
            f"it or, to use it as it is, name it yourself: run.plugins='[\"{path}\"]'"
        )
    # A unique name, so that the file does not shadow an installed module.
    module = ModuleType(f"renaissance_plugin_file_{path.stem}_{sha256[:12]}")
    module.__file__ = str(path)
    # attrs looks up a class's module by name to resolve its types.
    sys.modules[module.__name__] = module
    try:
        # The bytes that were hashed: the file may change in the meantime.
        exec(compile(source, str(path), "exec"), vars(module))
        check_api(module)
        plugins.add(module, path.stem, str(path), f"sha256:{sha256[:12]}")
    # The file's code may raise anything.
    except Exception as error:
        del sys.modules[module.__name__]
        raise PluginError(
            f"{path}: {describe_failure(error)}; fix the file, or remove it from run.plugins"
        ) from error
    record.sha256[path] = sha256


def _record(plugins: Plugins) -> FileRecord:
    name = "plugin-files"
    record: FileRecord | None = plugins.manager.get_plugin(name)
    if record is None:
        record = FileRecord()
        plugins.manager.register(record, name=name)
    return record
