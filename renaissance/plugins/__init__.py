"""Plugins: hooks, kinds of component, the registry, and loading."""
