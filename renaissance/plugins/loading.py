"""Find, load and check plugins: entry points of the group `renaissance`, in sorted order."""

import inspect
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, distributions
from types import ModuleType

import attrs
import pluggy

from renaissance.contracts.component import Component
from renaissance.errors import PluginError, did_you_mean, printed
from renaissance.plugins import hookspecs
from renaissance.plugins.contract import check_component
from renaissance.plugins.kinds import KINDS, Kind
from renaissance.plugins.registry import Registration, Registry

ENTRY_POINT_GROUP = "renaissance"
# Version of what plugins may rely on: contracts, hooks, public names. A plugin declares it as
# `renaissance_api = 1` in the module of its entry point.
API_VERSION = 1


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
    """All installed plugins.

    Attributes:
        manager: The pluggy manager, to call lifecycle hooks.
        registry: The components.
        broken: Plugins that failed to load.
    """

    manager: pluggy.PluginManager
    registry: Registry
    broken: tuple[BrokenPlugin, ...] = ()

    def add(
        self,
        plugin: object,
        name: str,
        distribution: str,
        version: str,
        kinds: Collection[Kind] = tuple(KINDS),
    ) -> None:
        """Check a plugin, and register its components and hooks: all of them, or none.

        Args:
            plugin: A module or an object.
            name: Its name within the distribution.
            distribution: The distribution or file it comes from, for messages.
            version: The version of that distribution or file.
            kinds: Kinds of component to register.

        Raises:
            PluginError: On an invalid hook, or a component that breaks its contract.
        """
        check_hooks(plugin)
        registrations = [
            Registration(kind, component_name, component, distribution, version)
            for kind, component_name, component in collect_components(plugin, kinds)
        ]
        for registration in registrations:
            check_component(registration)
        for registration in registrations:
            self.registry.add(registration)
        self.manager.register(plugin, name=f"{distribution}:{name}")

    def require(self, kind: Kind, name: str) -> Registration:
        """Return a component's registration.

        Raises:
            PluginError: If it is unknown; the message also names plugins that failed to load.
        """
        registration = self.registry.find(kind, name)
        if registration is None:
            raise PluginError(self.unknown(kind, name))
        return registration

    def unknown(self, kind: Kind, name: object) -> str:
        """Return the message for an unknown component, with the plugins that failed to load."""
        text = self.registry.unknown(kind, name)
        if self.broken:
            failed = "; ".join(map(str, self.broken))
            text += f" (or fix or uninstall the plugin that failed to load: {failed})"
        return text


def new_manager() -> pluggy.PluginManager:
    """Return a pluggy manager with the hooks, and without plugins."""
    manager = pluggy.PluginManager("renaissance")
    manager.add_hookspecs(hookspecs)
    return manager


def hook_names() -> list[str]:
    """Return the names of all hooks, in the order in which they are declared."""
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "renaissance_spec")]


def load_plugins(kinds: Collection[Kind] = tuple(KINDS)) -> Plugins:
    """Load every installed plugin and collect what it registers.

    A plugin that cannot be imported, or breaks a contract, is set aside as broken, as a whole. It
    stops only runs that name what it would have registered. A name that two plugins register is a
    clash, and stops only runs that use it.

    Args:
        kinds: Kinds of component to collect. A plugin that imports its components inside its hooks,
            as the built-in one does, then imports only these: sources do not need torch.
    """
    plugins = Plugins(new_manager(), Registry())
    broken = []
    points, unreadable = _entry_points()
    for distribution, version, entry_point in points:
        written = f"{entry_point.name} = {entry_point.value}"
        try:
            plugin = entry_point.load()
            check_api(sys.modules[entry_point.module])
            plugins.add(plugin, entry_point.name, distribution, version, kinds)
        except KeyboardInterrupt:
            raise
        # A third-party module may raise anything, or call sys.exit(): runs that do not need it
        # must still start.
        except BaseException as error:
            broken.append(BrokenPlugin(distribution, version, written, describe_failure(error)))
    return attrs.evolve(plugins, broken=(*unreadable, *broken))


def describe_failure(error: BaseException) -> str:
    """Return an exception's message on one line, with its class unless it is a PluginError."""
    text = " ".join(printed(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def check_api(module: ModuleType) -> None:
    """Check that a plugin is written for this version of the plugin interface.

    Raises:
        PluginError: If its `renaissance_api` is of another version.
    """
    declared = getattr(module, "renaissance_api", API_VERSION)
    if declared != API_VERSION:
        newer = isinstance(declared, int) and declared > API_VERSION
        package = "renaissance" if newer else "the plugin"
        raise PluginError(
            f"{module.__name__}: renaissance_api is {declared!r}, expected {API_VERSION}; install "
            f"a matching release of {package}"
        )


def check_hooks(plugin: object) -> None:
    """Check the hooks of a plugin.

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
            raise PluginError(f"'{name}' lacks its decorator; write @hookimpl above it")
        if not marked:
            continue
        if name not in hooks:
            raise PluginError(
                f"unknown hook '{name}'; known: {', '.join(hooks)}{did_you_mean(name, hooks)}"
            )
        given = inspect.signature(getattr(hookspecs, name)).parameters
        for argument in inspect.signature(function).parameters:
            if argument not in given:
                raise PluginError(
                    f"hook '{name}' asks for an argument '{argument}'; "
                    f"it is given: {', '.join(given)}"
                )


def collect_components(
    plugin: object, kinds: Collection[Kind] = tuple(KINDS)
) -> list[tuple[Kind, str, type[Component]]]:
    """Call a plugin's `register_*` hooks and return what they register, in order."""
    components: list[tuple[Kind, str, type[Component]]] = []
    # A separate manager, so that only this plugin's hooks are called.
    manager = new_manager()
    manager.register(plugin)
    for kind in kinds:

        def register(name: str, component: type[Component], kind: Kind = kind) -> None:
            components.append((kind, name, component))

        # The TypeError of a wrong call quotes this name.
        register.__qualname__ = "register"
        getattr(manager.hook, KINDS[kind].hook)(register=register)
    return components


def _entry_points() -> tuple[list[tuple[str, str, EntryPoint]], list[BrokenPlugin]]:
    """Return the entry points with name and version of their distributions, in sorted order.

    One at a time, so that a distribution whose files are damaged hides no other.
    """
    points = []
    unreadable = []
    seen = set()
    for installed in distributions():
        # The first on the import path hides others of its name, as for imports.
        stem = re.sub(r"\.(dist|egg)-info$", "", _folder_name(installed))
        key = re.sub(r"[_.]+", "-", stem.partition("-")[0]).lower()
        if key in seen:
            continue
        seen.add(key)
        # METADATA is read only where there is a plugin: it takes a while for all that is installed.
        try:
            of_group = installed.entry_points.select(group=ENTRY_POINT_GROUP)
            points += [(*_name_and_version(installed), entry_point) for entry_point in of_group]
        except Exception as error:
            cause = describe_failure(error)
            broken = BrokenPlugin(*_name_and_version(installed), "entry_points.txt", cause)
            unreadable.append(broken)
    return sorted(points, key=lambda point: (*point[:2], point[2].name)), unreadable


def _name_and_version(installed: Distribution) -> tuple[str, str]:
    # Python 3.11 returns None for what is missing; later versions and damaged files raise.
    with suppress(Exception):
        name, version = installed.metadata["Name"], installed.version
        if name and version:
            return name, version
    # Without METADATA, as a failed uninstallation leaves it, the folder's name is all there is.
    return _folder_name(installed), "0"


def _folder_name(installed: Distribution) -> str:
    """Return the name of a distribution's folder, such as "some_package-1.0.dist-info"."""
    path = getattr(installed, "_path", None)
    # Other finders of distributions may have no folders.
    return str(path.name if path is not None else installed.metadata["Name"])
