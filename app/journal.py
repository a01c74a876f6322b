"""What was asked for and is not done yet, on disk, so that a restarted server goes on with it.

One small file per job, named after the process that has it: the jobs of a process that is gone are taken over
by the next server. A job whose file somebody takes away is cancelled, which is how another process does it.
Knows nothing about how jobs are done.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from analysis.errors import StorageError
from analysis.storage import abandoned, owned, queue_folder, storage_errors
from analysis.values import Value
from slicing.studies import earlier
from slicing.studies.results import Request


class Entry(Value):
    """A job that is to be done."""

    submitted: datetime
    owner: str
    request: Request

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "recipe" not in data or "request" in data:
            return data
        rest = {name: value for name, value in data.items() if name != "recipe"}
        return {**rest, "request": earlier.read_request(data["recipe"])}


class Journal:
    """The entries of one worker."""

    def __init__(self) -> None:
        self._paths: dict[int, Path] = {}
        self._taken: list[Path] = []

    def note(self, number: int, request: Request, owner: str) -> None:
        """Write the job of this number down, whole or not at all (``StorageError``)."""
        entry = Entry(submitted=datetime.now(UTC), owner=owner, request=request)
        path = queue_folder() / f"{owned('job')}{number}.json"
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".draft")
            draft.write_text(entry.to_json(), encoding="utf-8")
            draft.replace(path)
        self._paths[number] = path

    def begin(self, number: int) -> None:
        """The job of this number runs now; its note says so in its name."""
        if path := self._paths.get(number):
            with suppress(FileNotFoundError):  # it has just been taken away
                self._paths[number] = path.rename(path.with_stem(f"{path.stem}{_RUNS}"))

    def taken_away(self) -> set[int]:
        """The numbers of jobs whose notes somebody took away."""
        return {number for number, path in self._paths.items() if not path.exists()}

    def strike(self, number: int) -> None:
        """The job of this number is over."""
        if path := self._paths.pop(number, None):
            path.unlink(missing_ok=True)

    def take_over(self) -> tuple[list[Entry], list[str]]:
        """The entries of servers that are gone, in their order, and one sentence for each that is lost.

        They stay on disk, for the next server should this one die at once, until they are noted again and
        ``settle`` is called.
        """
        entries: list[Entry] = []
        lost: list[str] = []
        folder = queue_folder()
        with storage_errors(folder):
            left = [path for path, name in abandoned(folder) if name in ("job", "taken")]
        for path in left:
            mine = path.with_name(f"{owned('taken')}{secrets.token_hex(4)}{path.suffix}")
            try:
                os.rename(path, mine)  # noqa: PTH104  (fails where another server was quicker)
            except FileNotFoundError:
                continue
            self._taken.append(mine)
            try:
                if path.suffix == ".json":  # a draft was never promised to anyone
                    entries.append(Entry.from_json(mine.read_bytes(), f"The waiting job '{path.name}'"))
            except StorageError as error:
                lost.append(f"A job that waited when the server ended is lost: {error}")
        return sorted(entries, key=lambda entry: entry.submitted), lost

    def settle(self) -> None:
        """All that was taken over is noted again."""
        for path in self._taken:
            path.unlink(missing_ok=True)
        self._taken.clear()


class Listed(NamedTuple):
    """A job of any server that uses this folder."""

    name: str
    """What ``cancel`` takes."""
    state: Literal["runs", "waits", "waits for a server"]
    entry: Entry


_RUNS = "-runs"
_NOTE = re.compile(rf"job-.+-(?P<name>[0-9a-f]{{8}}-\d+)(?P<runs>{_RUNS})?\.json")


def listed() -> tuple[list[Listed], list[str]]:
    """The jobs of all servers, first asked first, and one sentence for each that cannot be read."""
    found: list[Listed] = []
    broken: list[str] = []
    folder = queue_folder()
    with storage_errors(folder):
        left = {path for path, _ in abandoned(folder)}
        notes = _notes(folder)
    for path, note in notes:
        state = "waits for a server" if path in left else "runs" if note["runs"] else "waits"
        with suppress(FileNotFoundError):  # it has ended meanwhile
            try:
                entry = Entry.from_json(path.read_bytes(), f"The job '{note['name']}'")
                found.append(Listed(note["name"], state, entry))
            except StorageError as error:
                broken.append(str(error))
    return sorted(found, key=lambda job: job.entry.submitted), broken


def cancel(name: str) -> None:
    """Have the server that has it cancel a job that is ``listed``; ``StorageError`` where none is."""
    folder = queue_folder()
    with storage_errors(folder):
        for path, note in _notes(folder):
            if note["name"] == name:
                path.unlink(missing_ok=True)
                return
    raise StorageError(f"There is no job '{name}': 'slicescope queue' lists those that there are.")


def _notes(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(path, note) for path in paths if (note := _NOTE.fullmatch(path.name))]
