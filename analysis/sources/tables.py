"""Find the text in a table: which column holds it, and how rows of a table in text divide into fields."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from analysis.errors import TextError, one_line

if TYPE_CHECKING:
    from analysis.sources.text import TextSource


def text_column(source: TextSource, schema: pa.Schema) -> str:
    """Return the column to read: the one named, else ``text``, else the only one that holds strings.

    Raises ``TextError`` where there is no such column.
    """
    strings = pa.types.is_string, pa.types.is_large_string
    texts = [field.name for field in schema if any(of(field.type) for of in strings)]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    wanted = source.column or ("text" if "text" in schema.names else None)
    if wanted is None and len(texts) == 1:
        return texts[0]
    if wanted is None:
        problem = f"has {len(texts)} columns of strings and none of them is called 'text'"
    elif wanted not in schema.names:
        problem = f"has no column '{wanted}'"
    elif wanted not in texts:
        problem = f"holds no text in its column '{wanted}'"
    else:
        return wanted
    label = source.model_copy(update={"column": None}).label
    raise TextError(
        f"The text '{label}' {problem}: name a column of strings among {columns}, as in 'FILE#COLUMN'."
    )


class Division(NamedTuple):
    """How the rows of a table in text are divided into fields."""

    delimiter: str
    quoted: bool
    """Whether quotes enclose fields; else they are part of the text."""
    names: list[str]
    """The fields of the first row."""
    rows: int
    """How many follow it."""
    again: tuple[str, ...]
    """The names that occur again as values of their own column."""


def divide(text: str, delimiters: str) -> Division:
    """Divide a table by the delimiter that its first row holds, or by the one that divides all rows alike.

    Raises ``ValueError`` where there is none, or more than one.
    """
    held = [each for each in delimiters if len(_first_row(text, each)) > 1] or [delimiters[0]]
    found: list[Division] = []
    problem: Exception | None = None
    for delimiter in held:
        try:
            found.append(_divided_by(text, delimiter))
        except (ValueError, csv.Error) as error:
            problem = problem or error
    if len(found) > 1:
        listed = " and ".join(f"'{each.delimiter}'" for each in found)
        raise ValueError(f"{listed} divide its rows alike")
    if not found:
        assert problem is not None
        raise problem
    return found[0]


def _divided_by(text: str, delimiter: str) -> Division:
    if delimiter != "\t":
        return _parsed(text, delimiter, quoted=True)
    # Tabs hardly stand in text, so that many such tables quote nothing: every line is then a row.
    try:
        plain = _parsed(text, delimiter, quoted=False)
    except ValueError:
        return _parsed(text, delimiter, quoted=True)
    try:
        quoted = _parsed(text, delimiter, quoted=True)
    except (ValueError, csv.Error):
        return plain
    return quoted if quoted.rows == plain.rows or len(plain.names) == 1 else plain


def _parsed(text: str, delimiter: str, quoted: bool) -> Division:
    rows = _rows(text, delimiter, quoted)
    names, count = next(rows), 0
    again: set[str] = set()
    for row in rows:
        count += 1
        if len(row) != len(names):
            raise ValueError(
                f"its first row has {len(names)} fields divided by {delimiter!r} and row {count + 1:,} has "
                f"{len(row)}"
            )
        again.update(name for name, value in zip(names, row, strict=True) if value == name)
    return Division(delimiter, quoted, names, count, tuple(name for name in names if name and name in again))


def _first_row(text: str, delimiter: str) -> list[str]:
    try:
        return next(_rows(text, delimiter, quoted=True))
    except csv.Error:
        return []


def _rows(text: str, delimiter: str, quoted: bool) -> Iterator[list[str]]:
    csv.field_size_limit((1 << 31) - 1)  # a document may be a book
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    return filter(None, csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True))


_LONGEST_NAME = 40, 4
"""Characters and words of a column's name at most, where none is called as the one that is wanted."""


def why_no_names(shape: Division) -> str:
    """Say why the first row of a table is data, or return nothing where it may hold the names of columns."""
    for name in shape.names:
        shown = f"'{shorten(name, 40, placeholder=' ...')}'"
        characters, words = len(name), len(name.split())
        ends = words > 1 and name.rstrip().endswith((".", "!", "?"))
        if _is_number(name):
            return f"it holds the number {name}"
        if ends or (characters, 0) > _LONGEST_NAME or words > _LONGEST_NAME[1]:
            return f"it holds {shown}"
        if name in shape.again:
            return f"it holds {shown}, which stands below too"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def arrow_reason(error: BaseException) -> str:
    """Return the first sentence of another library's error, without the prefixes of Arrow."""
    return one_line(error).rpartition("Invalid: ")[2].partition(". ")[0]
