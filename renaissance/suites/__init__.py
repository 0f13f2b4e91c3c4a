"""Diagnostic suites: items of a few images and texts, which a model must bring together."""
