"""Where a training stands, on disk, so that one that was interrupted goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from analysis.late import torch
from analysis.storage import cache_folder, storage_errors, whole_file

EVERY = 60.0
"""Seconds between two times that a training is stored: weights and moments of a large model take a while."""


class Resume:
    """The file of one training. It goes when the training is through."""

    def __init__(self, key: str, every: float = EVERY) -> None:
        """``key`` names all that decides what the training does."""
        self.path, self.every = cache_folder() / "trainings" / f"{key}.pt", every
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
