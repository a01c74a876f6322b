"""The index of stored runs: what lists show of each, so that none is opened that has not changed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import AwareDatetime

from analysis.errors import StorageError
from analysis.storage import clear_abandoned, runs_folder, storage_errors, write_whole
from analysis.values import Value
from analysis.versions import version_of

RUN_FILE = "run.json"
NOTE_FILE = "note.json"
_INDEX = ".index.json"
_INDEX_FORMAT = 3
"""Count it up when keys of requests change, or what a run has to say, so that the index is made anew."""
Stamp = tuple[int, int, int]
"""Inode, size and time of the last change of a file. Another content has another stamp."""


class Summary(Value):
    """One line of the index: the facts about a stored run that lists show."""

    name: str
    """The name of its folder, which is its key."""
    kind: str
    model: str
    created: AwareDatetime
    seconds: float
    request_key: str
    """The key that the request has now; that of a run made by an earlier version may differ."""
    stamp: Stamp
    """The stamp of the run's file, to notice when that changes."""


class Broken(NamedTuple):
    """A stored run that cannot be read: damaged, edited, or of a later version."""

    name: str
    """The name of its folder."""
    problem: str
    """What is wrong with it, in one sentence."""


class _Index(Value):
    made_by: str
    runs: tuple[Summary, ...]


def summaries() -> tuple[list[Summary], list[Broken]]:
    """List all stored runs, newest first, and those that cannot be read.

    Only the runs that are new or have changed since the last time are opened.
    """
    known = {each.name: each for each in _read_index()}
    found: list[Summary] = []
    broken: list[Broken] = []
    for folder in run_folders():
        try:
            stamp = stamp_of(folder / RUN_FILE)
            earlier = known.get(folder.name)
            found.append(earlier if earlier and earlier.stamp == stamp else _opened(folder.name, stamp))
        except StorageError as error:
            broken.append(Broken(folder.name, str(error)))
    if found != list(known.values()):
        _write_index(found)
    return sorted(found, key=lambda each: each.created, reverse=True), broken


def run_folders() -> list[Path]:
    """List the folders of all stored runs; those that were never finished are deleted."""
    home = runs_folder()
    with storage_errors(home):
        if not home.is_dir():
            return []
        clear_abandoned(home)
        return sorted(f for f in home.iterdir() if f.is_dir() and not f.name.startswith("."))


def label_of(name: str) -> str:
    """Give what a person calls a run; empty where nobody named it, or its note cannot be read."""
    try:
        said = json.loads((runs_folder() / name / NOTE_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    label = said.get("label") if isinstance(said, dict) else None
    return label if isinstance(label, str) else ""


def stamp_of(path: Path) -> Stamp:
    """Give the stamp that a file has now (``StorageError`` where there is none)."""
    with storage_errors(path):
        status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _opened(name: str, stamp: Stamp) -> Summary:
    from slicing.studies.store import (
        summary_of,  # which knows every kind of run, and is not needed for a list
    )

    return summary_of(name, stamp)


def _made_by() -> str:
    return f"{_INDEX_FORMAT} {version_of('slicescope')}"


def _read_index() -> tuple[Summary, ...]:
    try:
        index = _Index.from_json((runs_folder() / _INDEX).read_bytes(), "The index of runs")
    except (OSError, StorageError):  # it is made anew
        return ()
    return index.runs if index.made_by == _made_by() else ()


def _write_index(found: list[Summary]) -> None:
    """Write the index anew. Where that cannot be, all runs are opened the next time too."""
    path = runs_folder() / _INDEX
    with suppress(StorageError):
        write_whole(path, _Index(made_by=_made_by(), runs=tuple(found)).to_json().encode())
