"""The run spec: what a run.toml may say, how it is read, checked, resolved and written."""

from renaissance.spec.read import load_spec
from renaissance.spec.resolve import resolve
from renaissance.spec.sections import ResolvedSpec, RunSpec
from renaissance.spec.write import spec_to_toml

__all__ = ["ResolvedSpec", "RunSpec", "load_spec", "resolve", "spec_to_toml"]
