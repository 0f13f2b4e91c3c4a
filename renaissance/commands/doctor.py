"""`renaissance plugins doctor`: check everything that is installed."""

from collections import Counter

from renaissance.plugins.contract import minor_faults_of
from renaissance.plugins.loading import Plugins


def summarize(plugins: Plugins) -> list[tuple[str, str, str]]:
    """Return each distribution with components, its version, and how many components it has."""
    counts = Counter((r.distribution, r.version) for r in plugins.registry)
    return [(*key, str(counts[key])) for key in sorted(counts)]


def diagnose(plugins: Plugins) -> list[str]:
    """Return what is wrong, each fault with its distribution and the remedy."""
    broken = [f"{plugin}; fix, upgrade or uninstall it" for plugin in plugins.broken]
    faults = [fault for registration in plugins.registry for fault in minor_faults_of(registration)]
    idle = [
        f"{name}: it has no hook, so it registers nothing and is never called; add @hookimpl "
        "functions to what its entry point names"
        for name, plugin in plugins.manager.list_name_plugin()
        if not plugins.manager.get_hookcallers(plugin)
    ]
    return [*broken, *plugins.registry.clashes(), *faults, *idle]
