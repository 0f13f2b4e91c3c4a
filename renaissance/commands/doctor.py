"""`renaissance plugins doctor`: check all that is installed."""

from collections import Counter

from renaissance.plugins.contract import weaknesses_of
from renaissance.plugins.loading import Plugins


def summarize(plugins: Plugins) -> list[tuple[str, str, str]]:
    """Return each distribution with components, its version, and how many components it has."""
    counts = Counter((r.distribution, r.version) for r in plugins.registry)
    return [(*key, str(counts[key])) for key in sorted(counts)]


def diagnose(plugins: Plugins) -> list[str]:
    """Return what is wrong, each with the distribution it is of and the remedy."""
    broken = [f"{plugin}; fix, upgrade or uninstall it" for plugin in plugins.broken]
    faults = [fault for registration in plugins.registry for fault in weaknesses_of(registration)]
    idle = [
        f"{name}: it has no hook, so it registers nothing and is never called; write @hookimpl "
        "functions into what its entry point names"
        for name, plugin in plugins.manager.list_name_plugin()
        if not plugins.manager.get_hookcallers(plugin)
    ]
    return [*broken, *plugins.registry.clashes(), *faults, *idle]
