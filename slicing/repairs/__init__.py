"""Repairs of the cuts that removed blocks leave. A repair is one file and one line here."""

from slicing.repairs import linear, projections, train_block, writers  # noqa: F401 (they register themselves)
from slicing.repairs.base import REPAIRS, CutRepair, Cuts, find_repair

__all__ = ["REPAIRS", "CutRepair", "Cuts", "find_repair"]
