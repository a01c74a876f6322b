"""The column of a table that holds the text: named behind '#', or found by its name in any case."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from analysis.errors import TextError
from analysis.sources.columns import find_column
from analysis.sources.text import TextSource
from slicing.studies.files import text_line

BODIES = ["It is a truth; universally acknowledged.", "A tensor, in want of a basis."]
HEADS = ["one", "two"]


def table(path: Path, names: tuple[str, str] = ("head", "body")) -> Path:
    """A table with two columns of strings, in the format of its suffix."""
    rows = [dict(zip(names, row, strict=True)) for row in zip(HEADS, BODIES, strict=True)]
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind in ("csv", "tsv"):
        where = path.with_name("plain")
        with where.open("w", newline="") as file:
            delimiter = "\t" if kind == "tsv" else ";"
            writer = csv.DictWriter(file, names, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        content = where.read_bytes()
    elif kind == "json":
        content = json.dumps(rows).encode()
    else:
        content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


FORMATS = ["csv", "tsv", "json", "jsonl", "csv.gz", "jsonl.gz"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_column_is_named_behind_the_file(tmp_path, suffix):
    path = table(tmp_path / f"table.{suffix}")
    assert list(TextSource.parse(f"{path}#body", "calibration").documents()) == BODIES
    assert list(TextSource.parse(f"{path}#Head", "calibration").documents()) == HEADS
    with pytest.raises(TextError, match=r"has no column 'tail'.*as in 'FILE#COLUMN'\."):
        list(TextSource.parse(f"{path}#tail", "calibration").documents())


@pytest.mark.parametrize("suffix", FORMATS)
def test_text_is_found_in_any_case(tmp_path, suffix):
    path = table(tmp_path / f"table.{suffix}", ("head", "Text"))
    assert list(TextSource.parse(str(path), "calibration").documents()) == BODIES


def test_two_names_that_differ_in_case_alone_are_not_guessed_between():
    assert find_column("text", ["TEXT", "Text"]) is None
    assert find_column("Text", ["TEXT", "Text"]) == "Text"


def test_a_source_with_a_column_is_written_as_it_is_read(tmp_path):
    path = table(tmp_path / "table.csv")
    for said in (f"{path}#body", "owner/name/config:train#body"):
        source = TextSource.parse(said, "calibration")
        assert (source.column, text_line(source, "calibration")) == ("body", said)
    assert TextSource.parse(f"{path}#body", "calibration").label == "table.csv#body"


def test_a_mark_may_be_a_part_of_a_name(tmp_path):
    path = table(tmp_path / "table#1.csv")
    assert TextSource.parse(str(path), "calibration").column is None
    assert list(TextSource.parse(f"{path}#body", "calibration").documents()) == BODIES


def test_plain_text_has_no_column_and_a_mark_needs_a_name(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(BODIES[0])
    with pytest.raises(TextError, match=r"plain text, which has no column 'body': leave out"):
        list(TextSource.parse(f"{path}#body", "calibration").documents())
    with pytest.raises(TextError, match=r"names no column of a file: write 'FILE#COLUMN'"):
        TextSource.parse(f"{path}#", "calibration")
