"""Read texts from files: plain text, and tables in JSON, CSV, TSV and parquet, packed with gzip or not."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.errors import TextError
from analysis.late import arrow_csv, arrow_json, dataset, pa
from analysis.sources.columns import find_column
from analysis.sources.tables import arrow_reason, divide, text_column, why_no_names

if TYPE_CHECKING:
    from analysis.sources.text import TextSource


class FileFormat(NamedTuple):
    """How files of one suffix are read."""

    name: str
    table: Callable[[Path, str], dataset.Dataset] | None = None
    """For a table: the function that reads it, given the name of the wanted column."""


def _json_lines(path: Path, _: str) -> dataset.Dataset:
    text = _decoded(path)
    _require_shallow(text)
    if text.lstrip().startswith("["):  # one array of objects, which Arrow does not read
        text = "\n".join(map(json.dumps, json.loads(text)))
    content = text.encode()
    return dataset.dataset(
        arrow_json.read_json(
            pa.BufferReader(content), read_options=arrow_json.ReadOptions(block_size=_one_block(content))
        )
    )


_DEEPEST = 100
"""Brackets inside one another in JSON; some readers take each for a call, and end the interpreter."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def _require_shallow(text: str) -> None:
    outside = np.frombuffer(_STRING.sub(b"", text.encode()), dtype=np.uint8)
    opened = np.isin(outside, list(b"[{")).astype(np.int32)
    closed = np.isin(outside, list(b"]}")).astype(np.int32)
    if (opened - closed).cumsum().max(initial=0) > _DEEPEST:
        raise ValueError(f"its brackets are nested more than {_DEEPEST} deep")


def _parquet(path: Path, _: str) -> dataset.Dataset:
    return dataset.dataset(path, format="parquet")


def _delimited(path: Path, column: str, delimiters: str = ",;\t|") -> dataset.Dataset:
    """Read a table whose first line names its columns, by the one delimiter that divides every row alike, or
    by the first delimiter where there is one column.

    Python's parser checks the rows before Arrow's reads them: it tells a stray quote from one that encloses
    a field, and counts what has to come out.
    """
    text = _decoded(path)
    shape = divide(text, delimiters)
    if find_column(column, shape.names) is None and (told := why_no_names(shape)):
        raise TextError(
            f"The first line of '{path.name}' looks like data rather than names of columns, since {told}: "
            "write a line of names above it, with 'text' for the column to read."
        )
    content = text.encode()
    table = arrow_csv.read_csv(
        pa.BufferReader(content),
        read_options=arrow_csv.ReadOptions(block_size=_one_block(content)),
        parse_options=arrow_csv.ParseOptions(
            delimiter=shape.delimiter, quote_char='"' if shape.quoted else False, newlines_in_values=True
        ),
    )
    if table.num_rows != shape.rows:
        raise ValueError(f"it can be read as {shape.rows:,} rows and as {table.num_rows:,}")
    return dataset.dataset(table)


def _one_block(content: bytes) -> int:
    """One block for the whole file: types are then inferred from every row, and no row is cut."""
    return min(max(len(content), 1 << 20), (1 << 31) - 1)


FILE_FORMATS: dict[str, FileFormat] = {
    ".txt": FileFormat("text"),
    ".md": FileFormat("text"),
    ".jsonl": FileFormat("JSON with one object on each line", _json_lines),
    ".json": FileFormat("JSON with one object on each line, or an array of objects", _json_lines),
    ".csv": FileFormat("CSV", _delimited),
    ".tsv": FileFormat("TSV", partial(_delimited, delimiters="\t,;|")),
    ".parquet": FileFormat("parquet", _parquet),
}
"""By suffix, each but parquet also with ``.gz`` behind it; a file with any other suffix is read as text."""

TOKENS = ".safetensors"
"""The suffix of a file of tokens, which ``analysis.sources.ids`` reads."""
_AS_TEXT, _AS_TABLE, _UNPACKED = "save its text as .txt", "save its table as .csv", "unpack it"
NO_TEXT: dict[str, str] = {
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".html", ".htm", ".xml"), _AS_TEXT),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), _AS_TABLE),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"), _UNPACKED),
}
"""Suffixes of files that hold text among other things, and what to do with such a file."""


def _suffix(path: Path) -> str:
    """Return the suffix that tells the format: the one before ``.gz``."""
    path = Path(path.name.lower())
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def looks_like_path(text: str) -> bool:
    """Tell whether a text can only be meant as a path."""
    ends = (*FILE_FORMATS, ".gz", TOKENS)
    return text.startswith(("/", "./", "../", "~")) or text.lower().endswith(ends)


def existing_path(text: str) -> Path | None:
    """Return the absolute path of what lies at ``text``, or ``None``: not every text can be a path at all."""
    try:
        path = Path(text).expanduser().resolve()
        return path if text and path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def require_file(text: str) -> Path:
    """Return the absolute path of a file (``TextError`` where there is none)."""
    path = existing_path(text)
    if path is None:
        raise TextError(f"The text file '{text}' does not exist: check the path.")
    if not path.is_file():
        raise TextError(f"'{text}' is not a file: give one file ({', '.join(FILE_FORMATS)}), not a folder.")
    return path


def _table_rows(source: TextSource, table: dataset.Dataset) -> Iterator[str]:
    column = text_column(source, table.schema)
    for batch in table.to_batches(columns=[column]):
        yield from (text for text in batch.column(0).to_pylist() if text is not None)


def file_documents(
    source: TextSource, rows: Callable[[TextSource, dataset.Dataset], Iterator[Any]] = _table_rows
) -> Iterator[Any]:
    """Read the documents of a file: the rows of a table, or all of a plain text as one document.

    ``rows`` reads those of a table, by default its texts. Raises ``TextError`` where it cannot be read.
    """
    path = require_file(source.location)
    suffix = _suffix(path)
    if advice := NO_TEXT.get(suffix):
        raise TextError(f"The file '{path.name}' is not plain text: {advice}, and give that.")
    file_format = FILE_FORMATS.get(suffix, FileFormat("text"))
    try:
        if path.stat().st_size == 0:
            raise TextError(f"The text file '{path.name}' is empty: give a file with text in it.")
        if file_format.table:
            yield from rows(source, file_format.table(path, source.column or "text"))
        elif source.column:
            raise TextError(
                f"The file '{path.name}' is read as plain text, which has no column '{source.column}': leave "
                "out what stands behind '#', or give a table."
            )
        else:
            yield _decoded(path).replace("\r\n", "\n").replace("\r", "\n")
    except (ValueError, OSError, EOFError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise TextError(
            f"The file '{path.name}' cannot be read as {file_format.name} "
            f"({arrow_reason(error)}): correct it, or give another file."
        ) from error


def _decoded(path: Path) -> str:
    """Read all of a file that is text in UTF-8, or in UTF-16 that says so, packed or not."""
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise TextError(
            f"The file '{path.name}' is not text in UTF-8: save it as UTF-8, or give another file."
        ) from None
    if "\0" in text:
        raise TextError(f"The file '{path.name}' is binary, not text: give a text file or a table.")
    if not text.strip():
        raise TextError(f"The text file '{path.name}' holds only blank space: give a file with text in it.")
    return text
