"""`renaissance plugins doctor`: check all that is installed."""

from collections import Counter

from renaissance.errors import PluginError
from renaissance.plugins import Plugins
from renaissance.registry import Registration
from renaissance.spec.layers import slot_keys
from renaissance.spec.sections import ComponentSpec
from renaissance.spec.structure import option_names


def summarize(plugins: Plugins) -> list[tuple[str, str, str]]:
    """Return each distribution with components, its version, and how many components it has."""
    counts = Counter((r.distribution, r.version) for r in plugins.registry)
    return [(*key, str(counts[key])) for key in sorted(counts)]


def diagnose(plugins: Plugins) -> list[str]:
    """Return what is wrong, each with the distribution it is of and the remedy."""
    broken = [f"{plugin}; mend, upgrade or uninstall it" for plugin in plugins.broken]
    faults = [fault for registration in plugins.registry for fault in faults_of(registration)]
    idle = [
        f"{name}: it has no hook, so it registers nothing and is never called; write @hookimpl "
        "functions into what its entry point names"
        for name, plugin in plugins.manager.list_name_plugin()
        if not plugins.manager.get_hookcallers(plugin)
    ]
    return [*broken, *plugins.registry.clashes(), *faults, *idle]


def faults_of(registration: Registration) -> list[str]:
    """Return what is wrong with a component that loads."""
    where = f"{registration.distribution} {registration.version}: {registration.kind}"
    faults = []
    component = registration.component
    if not (component.__doc__ or "").strip():
        faults.append(
            f"{where} '{registration.name}': {component.__name__} has no docstring, which "
            "`renaissance plugins show` prints; say what it does in one line"
        )
    places = {place.kind: place for place in ComponentSpec.__subclasses__()}
    try:
        option_names(registration, slot_keys(places[registration.kind]))
    except PluginError as error:
        faults.append(str(error))
    return faults
