"""What is done with stored runs: naming them, throwing them away and taking them back, carrying them about.

A run's outcome is never changed: its label and note lie in a small file beside it. Makes no runs.
"""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from pathlib import Path

from pydantic import Field

from analysis.details import Details
from analysis.errors import StorageError
from analysis.storage import runs_folder, storage_errors, whole_folder
from analysis.values import Value
from slicing.runs import DETAILS_FILE, RUN_FILE, Run

NOTE_FILE = "note.json"
PACKED = (RUN_FILE, NOTE_FILE, DETAILS_FILE)
"""What leaves with a run: not its model, nor its bases, which are large and can be made again."""
LARGEST = 64 * 2**20
"""Bytes of all files of a run that is brought in, unpacked."""
TRASH = ".trash"
KEPT_IN_TRASH, KEPT_SECONDS = 20, 30 * 86400
"""Runs that can be taken back, and for how long."""


class Note(Value):
    """What a person calls a run, and wrote about it."""

    label: str = Field(default="", max_length=100)
    text: str = Field(default="", max_length=10_000)


def note_of(key: str) -> Note:
    """The note of a run; an empty one where nobody wrote one, or it cannot be read."""
    path = runs_folder() / key / NOTE_FILE
    try:
        return Note.from_json(path.read_bytes(), f"'{path}'")
    except (OSError, StorageError):
        return Note()


def annotate(key: str, note: Note) -> None:
    """Write the note of a stored run (``StorageError``)."""
    folder = _folder(key)
    path, draft = folder / NOTE_FILE, folder / f".{NOTE_FILE}"
    with storage_errors(path):
        draft.write_text(note.to_json(), encoding="utf-8")
        draft.replace(path)


def throw_away(key: str) -> str:
    """Move the folder of a run into the trash; the name it has there takes it back."""
    folder, trash = _folder(key), runs_folder() / TRASH
    name = f"{key}-{time.time_ns()}"
    with storage_errors(folder):
        trash.mkdir(exist_ok=True)
        folder.rename(trash / name)
    _empty(trash)
    return name


def take_back(name: str) -> str:
    """Move a run out of the trash again; its key. ``StorageError`` where it was made anew."""
    left = runs_folder() / TRASH / name
    if name not in trashed():
        raise StorageError(f"There is no '{name}' in the trash: 'slicescope runs trash' lists what there is.")
    key = name.rpartition("-")[0]
    place = runs_folder() / key
    if place.exists():
        raise StorageError(f"The run '{key}' was made again meanwhile: delete that one first.")
    with storage_errors(left):
        left.rename(place)
    return key


def trashed() -> list[str]:
    """The names of what is in the trash, newest first."""
    trash = runs_folder() / TRASH
    with storage_errors(trash):
        found = [each.name for each in trash.iterdir()] if trash.is_dir() else []
    return sorted(found, key=_thrown, reverse=True)


def pack(key: str) -> bytes:
    """A run as a zip file: its outcome, its note, its details."""
    folder, packed = _folder(key), io.BytesIO()
    with storage_errors(folder), zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in PACKED:
            if (folder / name).is_file():
                archive.write(folder / name, name)
    return packed.getvalue()


def bring_in(content: bytes, origin: str) -> Run:
    """Store the run in a zip file as ``pack`` writes it, or in a ``run.json``.

    Everything is checked before anything is stored. Raises ``StorageError`` for what is no run, is too
    large, or is stored already.
    """
    files = _unpacked(content, origin) if content.startswith(b"PK") else {RUN_FILE: content}
    if sum(map(len, files.values())) > LARGEST:
        raise StorageError(_too_large(origin))
    if RUN_FILE not in files:
        raise StorageError(f"{origin} holds no {RUN_FILE}: give a run as slicescope exports it.")
    run = Run.from_json(files[RUN_FILE], origin)
    if NOTE_FILE in files:
        Note.from_json(files[NOTE_FILE], origin)
    with whole_folder(runs_folder() / run.key) as draft:
        for name, data in files.items():
            (draft / name).write_bytes(data)
        if DETAILS_FILE in files:
            Details.load(draft / DETAILS_FILE)
    return run


def _folder(key: str) -> Path:
    """The folder of exactly this key."""
    folder = runs_folder() / key
    with storage_errors(folder):
        if not key or key.startswith(".") or Path(key).name != key or not folder.is_dir():
            raise StorageError(f"There is no run '{key}': 'slicescope runs' lists the keys.")
    return folder


def _unpacked(content: bytes, origin: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            strange = [each.filename for each in entries if each.filename not in PACKED]
            if strange or len(entries) != len({each.filename for each in entries}):
                named = strange[0] if strange else entries[0].filename
                raise StorageError(
                    f"{origin} holds '{named[:80]}', but a run has {', '.join(PACKED)} once each: give a run "
                    "as slicescope exports it."
                )
            files: dict[str, bytes] = {}
            room = LARGEST
            for each in entries:
                with archive.open(each) as file:
                    files[each.filename] = file.read(room + 1)  # never more, whatever the header promises
                room -= len(files[each.filename])
                if room < 0:
                    raise StorageError(_too_large(origin))
            return files
    except StorageError:
        raise
    except Exception as error:  # a zip file can be broken in more ways than its reader names
        raise StorageError(f"{origin} is a damaged zip file: export the run again.") from error


def _too_large(origin: str) -> str:
    return f"{origin} unpacks to more than {LARGEST // 2**20} MiB, which no run does: give another file."


def _thrown(name: str) -> int:
    """When it was thrown away, in nanoseconds."""
    stamp = name.rpartition("-")[2]
    return int(stamp) if stamp.isdecimal() else 0


def _empty(trash: Path) -> None:
    """Let go of what is too old, or too much."""
    oldest = time.time_ns() - KEPT_SECONDS * 10**9
    for place, name in enumerate(trashed()):
        if place >= KEPT_IN_TRASH or _thrown(name) < oldest:
            shutil.rmtree(trash / name, ignore_errors=True)
