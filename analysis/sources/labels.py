"""Read texts with their labels: two columns of one table. Only healing takes such a text.

Knows nothing about tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.errors import TextError
from analysis.late import pa
from analysis.sources.columns import MARK, find_column
from analysis.sources.files import existing_path, file_documents
from analysis.sources.hub_text import hub_rows
from analysis.sources.tables import text_column

if TYPE_CHECKING:
    from pyarrow import dataset

    from analysis.sources.text import TextSource

BETWEEN = ":"
"""Stands between the column of the texts and that of their labels: ``reviews.csv#body:stars``."""


class Labelled(NamedTuple):
    """A text and the label that it has."""

    text: str
    label: str


def split_label(text: str) -> tuple[str, str | None]:
    """Split what a person wrote into a text with its column and the name of the column of labels.

    The name is ``None`` where none is given. Raises ``TextError`` where one of the two names is empty.
    """
    place, mark, columns = text.rpartition(MARK)
    column, between, label = columns.rpartition(BETWEEN)
    if not (mark and between) or existing_path(text):  # a mark may also be part of a file's own name
        return text, None
    if not (column.strip() and label.strip()):
        raise TextError(
            f"'{text}' names only one of two columns: write 'FILE{MARK}TEXT{BETWEEN}LABEL', such as "
            f"'reviews.csv{MARK}body{BETWEEN}stars'."
        )
    return f"{place}{MARK}{column.strip()}", label.strip()


def labelled_texts(source: TextSource) -> list[Labelled]:
    """Read the texts of a source that has a column of labels, and their labels, in the order of the rows.

    A number is a label in its digits; the classes of a data set on the Hub have the names that it gives them.
    Raises ``TextError`` for a column that is not there or holds no labels, for a row without a text or a
    label, and for fewer than two labels.
    """
    rows = _hub_pairs(source) if source.kind == "hub" else file_documents(source, _table_pairs)
    found = []
    for number, (text, label) in enumerate(islice(rows, source.max_documents), start=1):
        for what, value in (("text", text), ("label", label)):
            if value is None or not str(value).strip():
                raise TextError(
                    f"Row {number:,} of '{source.label}' has no {what}: every row needs a text and a label, "
                    "so fill it in or leave the row out."
                )
        found.append(Labelled(text, str(label).strip()))
    names = {each.label for each in found}
    if len(names) < 2:
        told = f"only the label '{names.pop()}'" if names else "no rows"
        raise TextError(
            f"'{source.label}' has {told}, and a task needs two labels or more: give a table with several, "
            "or name another column of labels."
        )
    return found


def label_column(source: TextSource, schema: pa.Schema) -> str:
    """Return the column of labels of a table (``TextError`` where there is none, or it holds no labels)."""
    wanted = source.label_column or ""
    column = find_column(wanted, schema.names)
    if column is not None and _holds_labels(schema.field(column).type):
        return column
    problem = (
        f"has no column '{wanted}'" if column is None else f"holds no names or whole numbers in '{column}'"
    )
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise TextError(
        f"The text '{source.label}' {problem}: name a column of labels among {columns}, as in "
        f"'FILE{MARK}TEXT{BETWEEN}LABEL'."
    )


def _holds_labels(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    allowed = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(each(kind) for each in allowed)


def _table_pairs(source: TextSource, table: dataset.Dataset) -> Iterator[tuple[Any, Any]]:
    columns = [text_column(source, table.schema), label_column(source, table.schema)]
    for batch in table.to_batches(columns=columns):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _hub_pairs(source: TextSource) -> Iterator[tuple[Any, Any]]:
    rows = hub_rows(source)
    schema = rows.features.arrow_schema
    columns = [text_column(source, schema), label_column(source, schema)]
    names = getattr(rows.features[columns[1]], "names", None)
    for batch in rows.select_columns(columns).iter(batch_size=1000):
        for text, label in zip(*(batch[name] for name in columns), strict=True):
            # A class that is not known, as in the test splits of GLUE, is -1.
            yield text, label if names is None or label is None else names[label] if label >= 0 else None
