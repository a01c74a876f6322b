"""What is done with stored runs: naming them, throwing them away and taking them back, carrying them about.

A run's outcome is never changed: its label and note lie in a small file beside it. Makes no runs.
"""

from __future__ import annotations

import io
import time
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from analysis.details import Details
from analysis.errors import StorageError
from analysis.numbers import read_whole
from analysis.profile import LayerProfile
from analysis.storage import (
    clear_abandoned,
    delete_whole,
    runs_folder,
    storage_errors,
    whole_folder,
    write_whole,
)
from analysis.values import Value
from slicing.studies.results import Run
from slicing.studies.sound import require_fitting, require_plain
from slicing.studies.store import (
    DETAILS_FILE,
    NOTE_FILE,
    PROFILE_FILE,
    RUN_FILE,
    clear_profiles,
    find_run,
    free_folder,
    load_run,
    parse_run,
    summaries,
    write_run,
)

PACKED = (RUN_FILE, NOTE_FILE, DETAILS_FILE)
"""What leaves with a run: not its model, nor its bases, which are large and can be made again."""
READABLE = (*PACKED, PROFILE_FILE)
"""Files that may come in. A folder that was packed by hand has its profile in a file of its own."""
LARGEST = 64 * 2**20
"""Bytes of all files of a run that is brought in, unpacked."""
TRASH = ".trash"
KEPT_IN_TRASH, KEPT_SECONDS = 20, 30 * 86400
"""Runs that can be taken back, and for how long."""


LABEL_LENGTH, NOTE_LENGTH, BLOCK_NOTE_LENGTH = 100, 10_000, 200
"""Characters of a run's name, of its note and of the note on one block, at most."""


class Note(Value):
    """What a person calls a run, and wrote about it (``StorageError`` where it is too long to be shown)."""

    label: str = ""
    text: str = ""
    blocks: dict[int, str] = Field(default_factory=dict)
    """What was written about single blocks, by their places in the run's profile; a line each."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        whole = (("name", self.label, LABEL_LENGTH), ("note", self.text, NOTE_LENGTH))
        about = ((f"note on block {block}", text, BLOCK_NOTE_LENGTH) for block, text in self.blocks.items())
        for what, said, most in (*whole, *about):
            if len(said) > most:
                raise StorageError(
                    f"The {what} has {len(said):,} characters, but {most:,} are the most: shorten it."
                )
        return self

    def renamed(self, label: str, text: str) -> Note:
        """The same notes on blocks with another name and note (``StorageError``)."""
        return Note(label=label, text=text, blocks=self.blocks)

    def on_block(self, block: int, text: str) -> Note:
        """The same with this note on a block, or without one where the text is empty (``StorageError``)."""
        others = {place: said for place, said in self.blocks.items() if place != block}
        kept = dict(sorted({**others, block: text}.items())) if text else others
        return Note(label=self.label, text=self.text, blocks=kept)


def note_of(key: str) -> Note:
    """The note of a run; an empty one where nobody wrote one, or it cannot be read."""
    path = runs_folder() / key / NOTE_FILE
    try:
        return Note.from_json(path.read_bytes(), f"'{path}'")
    except (OSError, StorageError):
        return Note()


def annotate(key: str, note: Note) -> None:
    """Write the note of a stored run (``StorageError``, also for a name that import would refuse)."""
    folder = _folder(key)
    # Control characters, and halves of characters: bytes of a command line that are no text.
    for what, said, kinds in (
        ("name is one line of", note.label, ("Cc", "Cs")),
        ("note is", note.text, ("Cs",)),
        *(("note on a block is one line of", said, ("Cc", "Cs")) for said in note.blocks.values()),
    ):
        if wrong := next((each for each in said if unicodedata.category(each) in kinds), None):
            raise StorageError(f"A {what} text, but this one has the character {wrong!a}: leave it out.")
    write_whole(folder / NOTE_FILE, note.to_json().encode())


def annotate_block(key: str, block: int, text: str) -> None:
    """Write the note on one block of a stored run's profile, or take it away where the text is empty.

    Raises ``StorageError`` where there is no such run, or no such block in its profile.
    """
    count = load_run(_folder(key)).result.profile.blocks
    if not 0 <= block < count:
        raise StorageError(f"There is no block {block} in this profile: they go from 0 to {count - 1}.")
    annotate(key, note_of(key).on_block(block, text.strip()))


def block_notes(run: Run) -> dict[int, str]:
    """Give the notes on blocks of a run's profile, by place."""
    count = run.result.profile.blocks
    return {block: text for block, text in note_of(run.key).blocks.items() if 0 <= block < count and text}


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
    """Move a run out of the trash again, and give its key: another one where it was made anew meanwhile."""
    left = runs_folder() / TRASH / name
    if name not in trashed():
        raise StorageError(f"There is no '{name}' in the trash: 'slicescope runs trash' lists what there is.")
    place = free_folder(name.rpartition("-")[0])
    with storage_errors(left):
        left.rename(place)
    return place.name


def trashed() -> list[str]:
    """The names of what is in the trash, newest first."""
    trash = runs_folder() / TRASH
    with storage_errors(trash):
        clear_abandoned(trash)
        found = [each.name for each in trash.glob("[!.]*")]
    return sorted(found, key=_thrown, reverse=True)


def pack(key: str, shown: Callable[[Run], Run] = lambda run: run) -> bytes:
    """A run as a zip file: its outcome as it is ``shown``, its note, its details."""
    folder, packed = _folder(key), io.BytesIO()
    whole = shown(load_run(folder)).to_json()  # with its profile, wherever that is stored
    with storage_errors(folder), zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(RUN_FILE, whole)
        for name in PACKED:
            if name != RUN_FILE and (folder / name).is_file():
                archive.write(folder / name, name)
    return packed.getvalue()


def read_packed(path: Path) -> bytes:
    """The content of a file that is to be brought in (``StorageError`` where it is no file, or too large)."""
    with storage_errors(path):
        if path.exists() and not path.is_file():
            raise StorageError(f"'{path}' is no file: give a run as slicescope exports it.")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise StorageError(_too_large(f"'{path}'"))
    return content


def bring_in(content: bytes, origin: str) -> Run:
    """Store the run in a zip file as ``pack`` writes it, or in a ``run.json``.

    A run keeps its key, unless another run is stored under that. Everything is checked before anything is
    stored. Raises ``StorageError`` for what is no run, is too large, or is stored already.
    """
    files = _unpacked(content, origin) if content.startswith(b"PK") else {RUN_FILE: content}
    if sum(map(len, files.values())) > LARGEST:
        raise StorageError(_too_large(origin))
    if RUN_FILE not in files:
        raise StorageError(f"{origin} holds no {RUN_FILE}: give a run as slicescope exports it.")

    def profile(digest: str) -> LayerProfile:
        if PROFILE_FILE not in files:
            raise StorageError(
                f"{origin} holds a run without its profile: give a zip file of 'slicescope runs export'."
            )
        return LayerProfile.from_json(files[PROFILE_FILE], origin)

    run = parse_run(files[RUN_FILE], origin, profile)
    require_plain(run, origin)
    if NOTE_FILE in files:
        require_plain(Note.from_json(files[NOTE_FILE], origin), origin)
    if _is_stored(run):
        raise StorageError(
            f"The run {run.key} of {origin} is stored here already and stays as it is: look at it with "
            f"'slicescope runs show {run.key}'."
        )
    place = free_folder(run.key)
    with whole_folder(place) as draft:
        write_run(run, draft)
        for name in (NOTE_FILE, DETAILS_FILE):
            if name in files:
                (draft / name).write_bytes(files[name])
        if DETAILS_FILE in files:
            require_fitting(Details.load(draft / DETAILS_FILE), run, origin)
    return find_run(place.name)


def _is_stored(run: Run) -> bool:
    """Whether this very run is stored here: another one of the same key was made at another time."""
    key = run.request.key
    return any(each.request_key == key and each.created == run.created for each in summaries()[0])


def _folder(key: str) -> Path:
    """The folder of exactly this key."""
    folder = runs_folder() / key
    with storage_errors(folder):
        clear_abandoned(runs_folder())  # a killed process can have left it beside its place
        if not key or key.startswith(".") or Path(key).name != key or not folder.is_dir():
            raise StorageError(f"There is no run '{key}': 'slicescope runs' lists the keys.")
    return folder


def _unpacked(content: bytes, origin: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            strange = [each.filename for each in entries if each.filename not in READABLE]
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
    return f"{origin} holds more than {LARGEST // 2**20} MiB, which no run does: give another file."


def _thrown(name: str) -> int:
    """When it was thrown away, in nanoseconds."""
    return read_whole(name.rpartition("-")[2]) or 0


def _empty(trash: Path) -> None:
    """Let go of what is too old, or too much."""
    oldest = time.time_ns() - KEPT_SECONDS * 10**9
    for place, name in enumerate(trashed()):
        if place >= KEPT_IN_TRASH or _thrown(name) < oldest:
            delete_whole(trash / name)
    clear_profiles()
