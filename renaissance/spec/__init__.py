"""The run spec: what a run.toml may say, how it is read, checked and written."""

from renaissance.spec.read import load_spec
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import spec_to_toml

__all__ = ["RunSpec", "load_spec", "spec_to_toml"]
