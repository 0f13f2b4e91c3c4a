"""Find, load and check plugins: entry points of the group `renaissance`, in sorted order."""

import difflib
import inspect
from importlib.metadata import EntryPoint, entry_points

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
    broken: tuple[BrokenPlugin, ...] = ()

    def require(self, kind: Kind, name: str) -> Registration:
        """Return a component's registration.

        Raises:
            PluginError: If it is unknown; the message also names plugins that failed to load.
        """
        found = self.registry.find(kind, name)
        if found is None:
            raise PluginError(self.unknown(kind, name))
        return found

    def unknown(self, kind: Kind, name: object) -> str:
        """Say that a component is unknown, and which plugins failed to load."""
        text = self.registry.unknown(kind, name)
        if self.broken:
            failed = "; ".join(map(str, self.broken))
            text += f" (or mend or uninstall the plugin that failed to load: {failed})"
        return text


def new_manager() -> pluggy.PluginManager:
    """Return a pluggy manager that knows the hooks, and no plugin yet."""
    manager = pluggy.PluginManager("renaissance")
    manager.add_hookspecs(hookspecs)
    return manager


def hook_names() -> list[str]:
    """Return the names of all hooks, in the order in which they are declared."""
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "renaissance_spec")]


def load_plugins() -> Plugins:
    """Load every installed plugin and collect what it registers.

    A plugin that fails while it is imported or registers its components is set aside as broken.

    Raises:
        PluginError: On a misspelt hook, a name clash, or a component that breaks its contract.
    """
    manager = new_manager()
    registry = Registry()
    broken = []
    found = entry_points(group=ENTRY_POINT_GROUP)
    for entry_point in sorted(found, key=lambda point: (*_distribution(point), point.name)):
        distribution, version = _distribution(entry_point)
        written = f"{entry_point.name} = {entry_point.value}"
        where = f"{distribution} {version} (entry point '{written}')"
        try:
            plugin = entry_point.load()
            check_hooks(plugin, where)
            components = collect_components(plugin)
        except PluginError:
            raise
        # Whatever else a third-party module raises stops only the runs that need it.
        except Exception as error:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
            broken.append(BrokenPlugin(distribution, version, written, cause))
            continue
        for kind, name, component in components:
            registry.add(Registration(kind, name, component, distribution, version))
        manager.register(plugin, name=f"{distribution}:{entry_point.name}")
    return Plugins(manager, registry, tuple(broken))


def check_hooks(plugin: object, where: str) -> None:
    """Check that what a plugin means as a hook is one.

    Args:
        plugin: A module or an object.
        where: Where the plugin is from, for messages.

    Raises:
        PluginError: On a hook that does not exist, lacks its decorator, or asks for arguments that
            it is not given.
    """
    hooks = hook_names()
    manager = new_manager()
    for name in dir(plugin):
        function = getattr(plugin, name)
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if not marked and name in hooks and inspect.isroutine(function):
            raise PluginError(f"{where}: '{name}' lacks its decorator; write @hookimpl above it")
        if not marked:
            continue
        if name not in hooks:
            near = difflib.get_close_matches(name, hooks, n=1)
            meant = f"; did you mean '{near[0]}'?" if near else ""
            raise PluginError(f"{where}: unknown hook '{name}'; known: {', '.join(hooks)}{meant}")
        given = inspect.signature(getattr(hookspecs, name)).parameters
        for argument in inspect.signature(function).parameters:
            if argument not in given:
                raise PluginError(
                    f"{where}: hook '{name}' asks for an argument '{argument}'; "
                    f"it is given: {', '.join(given)}"
                )


def collect_components(plugin: object) -> list[tuple[Kind, str, type[Component]]]:
    """Call a plugin's `register_*` hooks and return what they register, in order."""
    components: list[tuple[Kind, str, type[Component]]] = []
    # A manager of its own, so that the hooks of no other plugin are called.
    manager = new_manager()
    manager.register(plugin)
    for kind in KINDS:

        def register(name: str, component: type[Component], kind: Kind = kind) -> None:
            components.append((kind, name, component))

        getattr(manager.hook, f"register_{kind}s")(register=register)
    return components


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    if entry_point.dist is None:
        return "unknown", "0"
    return entry_point.dist.name, entry_point.dist.version
