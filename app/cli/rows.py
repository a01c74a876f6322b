"""Tables of the terminal: every row has a name, and no table is wider than the terminal.

Columns that do not fit stand in a further table below, beside the names once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from app.cli.terminal import cell, out

NAME, TEXT = 30, 28
"""Characters of a name and of another text in one line of its cell, at most."""
GAP = 2
"""Characters between two columns."""
_PIECES = re.compile(r"[^\s(,|]*[(,|]*\s*")
"""Of a name: what stays together, a word with the bracket or the comma behind it."""
NARROW = 60
"""The fewest characters of a terminal that tables are made to fit."""
Row = Mapping[str, Any]
"""Values by the names of their columns; the first is the name of the row."""


def print_rows(rows: Sequence[Row]) -> None:
    """Print rows as one table, or as several below one another."""
    for place, table in enumerate(tables(rows, max(out.width, NARROW))):
        if place:
            out.print()
        out.print(table)


def tables(rows: Sequence[Row], width: int) -> Iterator[Table]:
    """Lay rows out as tables of ``width`` characters at most; columns without a value are left out."""
    shown = [{name: _text(value) for name, value in row.items()} for row in rows]
    columns = [name for name in dict.fromkeys(name for row in shown for name in row) if _filled(name, shown)]
    if not columns:
        return
    first, *others = columns
    cells = {name: [row.get(name, "") for row in shown] for name in columns}
    sizes = {name: max(_size(name, cells[name]), len(name)) for name in columns}
    if sum(sizes.values()) + GAP * len(others) > width:  # headings break, so that more stand side by side
        sizes = {name: _size(name, cells[name]) for name in columns}
    names = [row.get(first, "") for row in shown]
    widest = max(len(first), *map(len, names))
    sizes[first] = min(widest, max(NAME, *map(_longest_piece, names)), max(NAME, width // 2))
    while True:
        room, some = width - sizes[first], list[str]()
        while others and (not some or sizes[others[0]] + GAP <= room):
            room -= sizes[others[0]] + GAP
            some.append(others.pop(0))
        yield _table([first, *some], sizes, shown)
        if not others:
            return


def _table(columns: list[str], sizes: dict[str, int], rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for place, name in enumerate(columns):
        text = place == 0 or any(_is_text(row.get(name, "")) for row in rows)
        size = sizes[name]
        table.add_column(
            name, justify="left" if text else "right", width=size, overflow="fold", vertical="bottom"
        )
    for row in rows:
        table.add_row(*(_folded(row.get(name, ""), sizes[name]) for name in columns))
    return table


def _longest_piece(name: str) -> int:
    return max((len(piece.rstrip()) for piece in _PIECES.findall(name)), default=0)


def _folded(said: str, size: int) -> str:
    """A cell in lines of ``size`` characters at most, of whole words and whole settings where these fit."""
    lines = [""]
    for piece in _PIECES.findall(said):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > size:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return cell(f"{value:,}" if type(value) is int else str(value))


def _filled(name: str, rows: Sequence[Mapping[str, str]]) -> bool:
    return any(row.get(name) for row in rows)


def _size(name: str, cells: Sequence[str]) -> int:
    """A heading may break between words; a number never breaks, and a text between words where it is long."""
    longest = max(map(len, cells))
    if any(map(_is_text, cells)):
        longest = min(longest, max(TEXT, *map(_longest_piece, cells)), NARROW // 2)
    return max(*map(len, name.split()), longest)


def _is_text(said: str) -> bool:
    """Whether a cell holds words rather than a number, which begins with a sign or a digit."""
    return said.lstrip("+-−.")[:1].isalpha()
