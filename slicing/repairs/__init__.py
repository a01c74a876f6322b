"""What closes the gaps that removed blocks leave. A repair is one file and one line here."""

from slicing.repairs import block, matrix, writers  # noqa: F401 (they register themselves)
from slicing.repairs.base import REPAIRS, GapRepair, Gaps, find_repair

__all__ = ["REPAIRS", "GapRepair", "Gaps", "find_repair"]
