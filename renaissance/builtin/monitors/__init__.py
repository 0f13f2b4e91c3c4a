"""Plugins that follow a run through the lifecycle hooks."""
