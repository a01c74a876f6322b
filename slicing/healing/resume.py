"""Where a training stands, on disk, so that one that was interrupted goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis.late import torch
from analysis.storage import cache_folder, clear_abandoned, storage_errors, whole_file

EVERY = 60.0
"""Seconds between two times that a training is stored: weights and moments of a large model take a while."""
DAYS = 14
"""That an interrupted training is kept for; then it goes when another one begins."""
_DAY = 86_400.0


def trainings_folder() -> Path:
    """One file for each training that was interrupted, and for those that run."""
    return cache_folder() / "trainings"


def clear_old_trainings() -> None:
    """Take away what nobody went on with for ``DAYS`` days, and what killed processes left half written."""
    with storage_errors(trainings_folder()):
        clear_abandoned(trainings_folder())
        for path in trainings_folder().glob("*.*"):
            with suppress(FileNotFoundError):  # another process has taken it away
                if path.is_file() and time.time() - path.stat().st_mtime > DAYS * _DAY:
                    path.unlink()


def trainings_told() -> str:
    """Say in a sentence what interrupted trainings take on disk, and how long; empty where there are none."""
    sizes = []
    for path in trainings_folder().glob("*.pt"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    if not sizes:
        return ""
    count = (
        "One training that runs or was interrupted takes"
        if len(sizes) == 1
        else (f"{len(sizes)} trainings that run or were interrupted take")
    )
    return (
        f"{count} {sum(sizes) / 1e9:.2f} GB in '{trainings_folder()}': the same request goes on with it. A "
        f"file goes when its training is through, or {DAYS} days after its last change when another begins."
    )


class Resume:
    """The file of one training. It goes when the training is through."""

    def __init__(self, key: str, every: float = EVERY) -> None:
        """``key`` names all that decides what the training does."""
        self.path, self.every = trainings_folder() / f"{key}.pt", every
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Give what was stored last, or ``None``; a file that cannot be read is as good as none."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, weights_only=True)
        except Exception:  # cut short, or of another version: training begins anew
            return None

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Store the state, whole or not at all, unless that was done just now."""
        if time.monotonic() - self._last < self.every:
            return
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            following = self.path.with_suffix(".next")
            following.unlink(missing_ok=True)
            with whole_file(following) as draft:
                torch.save(state(), draft)
            following.replace(self.path)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Take the file away."""
        self.path.unlink(missing_ok=True)
