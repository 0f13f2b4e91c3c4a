"""Find, load and check plugins: entry points of the group `renaissance`, in sorted order."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs
import pluggy

from renaissance import hookspecs
from renaissance.contracts import KINDS, Component, Kind
from renaissance.errors import PluginError
from renaissance.registry import Registration, Registry

ENTRY_POINT_GROUP = "renaissance"


@attrs.frozen
class BrokenPlugin:
    """A plugin that failed to load; it stops only a run that needs it.

    Attributes:
        distribution: The distribution it comes from.
        version: That distribution's version.
        entry_point: The entry point, as written: "name = module".
        cause: What went wrong.
    """

    distribution: str
    version: str
    entry_point: str
    cause: str

    def __str__(self) -> str:
        return (
            f"{self.distribution} {self.version} (entry point '{self.entry_point}'): {self.cause}"
        )


@attrs.frozen
class Plugins:
    """Everything that was found.

    Attributes:
        manager: The pluggy manager, to call lifecycle hooks.
        registry: The components.
        broken: Plugins that failed to load.
    """

    manager: pluggy.PluginManager
    registry: Registry
    broken: tuple[BrokenPlugin, ...]

    def require(self, kind: Kind, name: str) -> Registration:
        """Return a component's registration.

        Raises:
            PluginError: If it is unknown; the message also names plugins that failed to load.
        """
        found = self.registry.find(kind, name)
        if found is None:
            raise PluginError(self.unknown(kind, name))
        return found

    def unknown(self, kind: Kind, name: Any) -> str:
        """Say that a component is unknown, and which plugins failed to load."""
        text = self.registry.unknown(kind, name)
        if self.broken:
            failed = "; ".join(map(str, self.broken))
            text += f" (or mend or uninstall the plugin that failed to load: {failed})"
        return text


def load_plugins() -> Plugins:
    """Load every installed plugin and collect what it registers.

    Raises:
        PluginError: On a misspelt hook, a name clash, or a component that breaks its contract.
    """
    manager = pluggy.PluginManager("renaissance")
    manager.add_hookspecs(hookspecs)
    registry = Registry()
    broken = []
    found = entry_points(group=ENTRY_POINT_GROUP)
    for entry_point in sorted(found, key=lambda e: (*_distribution(e), e.name)):
        distribution, version = _distribution(entry_point)
        try:
            plugin = entry_point.load()
        # Whatever a third-party module raises while it is imported is that plugin's fault.
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            written = f"{entry_point.name} = {entry_point.value}"
            broken.append(BrokenPlugin(distribution, version, written, cause))
            continue
        _add_plugin(manager, registry, plugin, entry_point)
    return Plugins(manager, registry, tuple(broken))


def _add_plugin(
    manager: pluggy.PluginManager, registry: Registry, plugin: Any, entry_point: EntryPoint
) -> None:
    distribution, version = _distribution(entry_point)
    where = f"{distribution} {version} (entry point '{entry_point.name} = {entry_point.value}')"
    try:
        manager.register(plugin, name=f"{distribution}:{entry_point.name}")
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = ", ".join(
            name
            for name in vars(hookspecs)
            if hasattr(getattr(hookspecs, name), "renaissance_spec")
        )
        raise PluginError(f"{where}: {error}; the hooks are: {hooks}") from error
    for kind in KINDS:
        for implementation in getattr(manager.hook, f"register_{kind}s").get_hookimpls():
            if implementation.plugin is not plugin:
                continue

            def register(name: str, component: type[Component], kind: Kind = kind) -> None:
                registry.add(Registration(kind, name, component, distribution, version))

            # A hook implementation may leave out arguments that it does not use.
            implementation.function(*([register] if implementation.argnames else []))


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    if entry_point.dist is None:
        return "unknown", "0"
    return entry_point.dist.name, entry_point.dist.version
