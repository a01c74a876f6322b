"""Making a model shallower: methods that decide which blocks go, one operator, one repair.

A method is one file and one line here.
"""

from slicing.depth import control, greedy, merging, shortgpt, spans  # noqa: F401 (they register themselves)
from slicing.depth.layout import Gap, Layout, Merge
from slicing.depth.methods import METHODS, RemovalMethod, find_method, make_method
from slicing.depth.operator import reduce_blocks
from slicing.depth.survey import Survey

__all__ = [
    "METHODS",
    "Gap",
    "Layout",
    "Merge",
    "RemovalMethod",
    "Survey",
    "find_method",
    "make_method",
    "reduce_blocks",
]
