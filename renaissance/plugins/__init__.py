"""Plugins: their hooks, the kinds of component, the registry, and how all of it is loaded."""
