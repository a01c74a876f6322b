"""What a training that runs has come to, left where another process can read it, such as that of a page.

Knows no torch, and nothing about how training goes.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from analysis.errors import StorageError
from analysis.storage import cache_folder, write_whole
from analysis.values import Value
from slicing.healing.record import Look

EVERY = 1.0
"""Seconds between two times that it is written, unless a look was added."""


class Underway(Value):
    """Tell how far a training is."""

    step: str
    """The name of the step that trains."""
    windows: int
    """Held out of the training, for the looks."""
    looks: tuple[Look, ...]
    """So far, in their order; the first is in front of all training."""
    tokens: int
    """Trained on so far."""
    used: float
    """The share of its budget, of tokens or of minutes, that is used up."""

    @property
    def expected(self) -> int | None:
        """How many tokens it will come to at its pace; ``None`` before it has begun."""
        return round(self.tokens / self.used) if self.used > 0.0 else None


Note = Callable[[Sequence[Look], int, float], None]
"""Gets the looks so far, the tokens trained on, and the share of the budget that is used."""


@contextmanager
def shown(step: str, windows: int) -> Iterator[Note]:
    """Yield what writes the state of a training to a file of this process, which goes when the block ends.

    Files of processes that are gone go first. Where the file cannot be written nothing is shown.
    """
    path, last = _file(os.getpid()), (0, 0.0)

    def note(looks: Sequence[Look], tokens: int, used: float) -> None:
        nonlocal last
        now = time.monotonic()
        if len(looks) == last[0] and now - last[1] < EVERY:
            return
        last = len(looks), now
        found = Underway(step=step, windows=windows, looks=tuple(looks), tokens=tokens, used=min(used, 1.0))
        with suppress(StorageError):  # a training does not end because it cannot be looked at
            write_whole(path, found.to_json().encode())

    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_gone(path.parent)
    try:
        yield note
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def training_of(process: int | None) -> Underway | None:
    """Read how far the training is that a process of this machine runs; ``None`` where it runs none."""
    if process is None:
        return None
    path = _file(process)
    try:
        return Underway.from_json(path.read_bytes(), f"'{path}'")
    except (OSError, StorageError):  # it has just ended, or another version wrote it
        return None


def _file(process: int) -> Path:
    return cache_folder() / "trainings" / f"looks-{platform.node()}-{process}.json"


def _clear_gone(folder: Path) -> None:
    """Delete the files of processes of this machine that were killed."""
    begin = f"looks-{platform.node()}-"
    for path in folder.glob(f"{begin}*.json"):
        number = path.stem.removeprefix(begin)
        if number.isdigit() and not psutil.pid_exists(int(number)):
            path.unlink(missing_ok=True)
