"""One task on its way through the worker: what it is, how far it is, and how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from analysis.sources.model import ModelSource
from analysis.writing import Said
from app.engine import Task
from app.time_left import TimeLeft

PATIENCE = 5.0
"""Seconds after which a job that was cancelled and has not stopped may be killed."""

State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(eq=False)
class Job:
    """One task on its way through the worker. Only the worker writes to it."""

    number: int
    task: Task
    owner: str
    """Who asked; any string."""
    state: State = "queued"
    phase: str = "Waiting"
    done: int = 0
    """Units of the phase (windows, sub-layers) that are finished, of ``total``."""
    total: int = 0
    fraction: float = 0.0
    """Share of the whole job that is finished, by the weights of its phases."""
    error: str = ""
    """One sentence when the job failed."""
    key: str | None = None
    """The key of the run it made."""
    came: list[Said] = field(default_factory=list)
    """What it has given so far, of a task that gives something on the way."""
    restarted: bool = False
    """Whether it was taken over from a server that ended, and so begins again."""
    fetching: bool = False
    """Whether its model is on its way here, which is before its turn; ``done`` and ``total`` are bytes."""
    submitted: float = field(default_factory=time.monotonic)
    ended: float | None = None
    _step: int = 0
    _left: TimeLeft | None = None
    _fetch_left: TimeLeft | None = None
    askers: set[str] = field(default_factory=set)
    """The owner, and whoever asked for the same since."""
    _began: float | None = None
    _cancelled: float | None = None
    _late: bool = False

    @property
    def active(self) -> bool:
        """Tell whether it waits or runs."""
        return self.state in ("queued", "running")

    @property
    def cancelling(self) -> bool:
        """Tell whether it was told to stop and has not stopped yet."""
        return self.active and self._cancelled is not None

    @property
    def seconds(self) -> float:
        """Tell how long it has run."""
        return time.monotonic() - self._began if self._began is not None else 0.0

    @property
    def stuck(self) -> bool:
        """Tell whether it was told to stop some time ago and has not stopped yet."""
        told = self._cancelled
        return self.active and told is not None and time.monotonic() - told > PATIENCE

    @property
    def seconds_left(self) -> float | None:
        """The time left, never more than was said before, or ``None`` while that would be a guess."""
        left = self._fetch_left if self.fetching else self._left
        return left.seconds() if left else None

    @property
    def late(self) -> bool:
        """Tell whether it takes much longer than was said last."""
        left = self._fetch_left if self.fetching else self._left
        return bool(left and left.late)

    @property
    def share(self) -> float:
        """Tell how much is done of the whole job, or of fetching its model while that goes on."""
        return min(self.done / max(self.total, 1), 1.0) if self.fetching else self.fraction

    def fetch(self, phase: str, done: int, total: int) -> None:
        """Note how many bytes of its model have come; a total of 1 stands for one that is not known yet."""
        if total > 1:
            self._fetch_left = self._fetch_left or TimeLeft([1.0])
            self._fetch_left.advance(0, phase, done, total)
        self.phase, self.done, self.total = phase, done, total

    def advance(self, phase: str, done: int, total: int) -> None:
        """Note how far the job is."""
        steps = self.task.phases()
        names = [name for name, _ in steps]
        if phase in names[self._step :]:
            self._step = names.index(phase, self._step)
        weights = [weight for _, weight in steps]
        self._left = self._left or TimeLeft(weights)
        self._left.advance(self._step, phase, done, total)
        self.phase, self.done, self.total = phase, done, total
        # A phase that is not named there is a part of the one before it.
        within = done / max(total, 1) if phase == names[self._step] else 1.0
        finished = sum(weights[: self._step]) + weights[self._step] * within
        if sum(weights):
            self.fraction = max(self.fraction, min(finished / sum(weights), 1.0))


def model_of(task: Task) -> ModelSource | None:
    """The model that a task is about."""
    if task.kind == "unload":
        return None
    return task.source if task.kind == "load" else task.model
