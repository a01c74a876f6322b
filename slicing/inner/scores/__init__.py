"""Scores of units, one file each: what a channel, a coordinate of values or a head is worth."""

from importlib import import_module
from pkgutil import iter_modules

from slicing.inner.scores.base import UNIT_SCORES, UnitScore, UnitSite, find_unit_score

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["UNIT_SCORES", "UnitScore", "UnitSite", "find_unit_score"]
