"""The Python files that a spec names in `run.plugins`, and whether they may run."""

from pathlib import Path

from renaissance.errors import PluginError, SpecError
from renaissance.files import with_home
from renaissance.plugins.files import load_plugin_file, recorded_digests
from renaissance.plugins.loading import Plugins
from renaissance.spec.layers import COMMAND_LINE, Layers


def load_plugin_files(layers: Layers, plugins: Plugins, trust: bool) -> None:
    """Load the files of `run.plugins`, and make their paths absolute, so that the resolved spec
    names the same files from anywhere.

    Args:
        layers: The tables.
        plugins: The plugins to add them to.
        trust: Whether to run those that the record of a run names, which may be someone else's;
            only as they were in that run.

    Raises:
        SpecError: If one cannot be loaded, or is not trusted.
    """
    run = layers.table.get("run")
    files = run.get("plugins") if isinstance(run, dict) else None
    if not (isinstance(files, list) and all(isinstance(file, str) for file in files)):
        return  # Absent, or a fault that is reported with all others.
    faults = []
    for index, file in enumerate(files):
        origin = layers.origin(("run", "plugins", index))
        folder = Path() if origin == COMMAND_LINE else Path(origin).parent
        is_recorded = origin in layers.records
        try:
            path = (folder / with_home(file)).resolve()
            if is_recorded and not trust:
                raise PluginError(_not_trusted(path))
            load_plugin_file(path, plugins, recorded_digests(folder) if is_recorded else None)
            files[index] = str(path)
        # A path with a NUL byte is a ValueError.
        except (PluginError, OSError, ValueError) as error:
            faults.append(f"{origin}: run.plugins[{index}]: {error}")
    if faults:
        raise SpecError(*faults)


def _not_trusted(path: Path) -> str:
    return (
        f"the run used the Python file {path}, which is not run because a run folder names it, "
        "not you; if you trust it, add --trust-plugins, or name a file of yours: "
        f"run.plugins='[\"{path.name}\"]'"
    )
