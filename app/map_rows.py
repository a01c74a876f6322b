"""The rows of a map, as plain values: the page makes a frame of them, and the command line a table."""

from __future__ import annotations

from app import wording
from slicing.studies.verdicts import Board, Cell, Map


def map_rows(found: Map, board: Board) -> list[dict[str, str]]:
    """One row per budget, one column per base: the change of perplexity against the baseline."""
    return [
        {
            "target": wording.budgets_line((table.budget,)),
            "constant": f"{table.baseline.perplexity:.2f}" if table.baseline else "",
            **{base_name(base): _told(found.cell(base, table.budget)) for base in found.bases},
        }
        for table in board.tables
    ]


def base_name(base: float) -> str:
    """A base (SB) in the head of its column."""
    return f"SB {100 * base:g} %"


def _told(cell: Cell) -> str:
    if cell.constant:
        return "constant"
    if cell.standing is None or cell.standing.gain is None:
        return ""
    clear = cell.standing.gain.verdict in ("better", "worse")
    return wording.change(cell.standing.gain) + ("*" if clear else "")
