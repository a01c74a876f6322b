"""Text in the cells of tables, which comes from anybody: shown as it is, and never taken for a formula.

Knows nothing about what the tables say.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from analysis.errors import visible

APOSTROPHE = "'"
"""Stands before a text in a file that a spreadsheet would compute; spreadsheets show it to nobody."""
UNSEEN = "\N{WORD JOINER}"
"""The same on a page, whose tables streamlit saves as files too."""
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[\d.,]+(\s*%)?\*?")


def harmless(table: pd.DataFrame, before: str = APOSTROPHE) -> pd.DataFrame:
    """The table with control characters written out, and ``before`` in front of texts that begin as formulas
    do, also in its head. Numbers stay as they are.
    """

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        formula = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
        return visible(before + value if formula else value)

    safe = table.set_axis([cell(name) for name in table.columns], axis="columns")
    for place in range(safe.shape[1]):
        column = safe.iloc[:, place]
        if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            safe.isetitem(place, column.map(cell, na_action="ignore"))
    return safe


def csv(table: pd.DataFrame) -> bytes:
    """The table as a file that a spreadsheet may open."""
    return harmless(table).to_csv(index=False).encode()


def html_table(table: pd.DataFrame) -> str:
    """The table as a piece of a page."""
    return harmless(table, before="").to_html(index=False, border=0, escape=True, na_rep="")
