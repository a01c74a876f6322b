"""The column of a table that holds the text: named behind ``#``, or found by its name in any case."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.errors import TextError

MARK = "#"
"""Stands between a file and its column: ``reviews.csv#body``."""


def split_column(text: str) -> tuple[str, str | None]:
    """Split what a person wrote into a text and the name of its column; ``None`` where none is named.

    Raises ``TextError`` for a mark with no name behind it.
    """
    place, mark, column = text.rpartition(MARK)
    if not mark:
        return text, None
    if not (place.strip() and column.strip()):
        raise TextError(
            f"'{text}' names no column of a file: write 'FILE{MARK}COLUMN', such as 'reviews.csv{MARK}body'."
        )
    return place.strip(), column.strip()


def find_column(wanted: str, names: Sequence[str]) -> str | None:
    """Find a column by its name, or by its name in another case where exactly one has it."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.lower() == wanted.lower()]
    return alike[0] if len(alike) == 1 else None
