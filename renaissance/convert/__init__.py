"""Checkpoints of other tools as run folders."""
