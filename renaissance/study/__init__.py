"""Studies: many runs that differ in what is compared, and the tables that compare them."""

from renaissance.study.cells import Cell, Variant
from renaissance.study.results import Result
from renaissance.study.study import Study

__all__ = ["Cell", "Result", "Study", "Variant"]
