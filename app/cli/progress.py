"""How far work is: bars where standard error is a terminal, else lines for a log; nothing with --quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from analysis.sources.hub import FETCHING
from analysis.values import no_progress
from app.cli.terminal import err, loudness

if TYPE_CHECKING:
    from app.job import Job
    from slicing.studies.results import Request

EVERY = 30.0
"""Seconds between two lines on the same phase, at least; and between any two lines while work goes on."""
ALL = "All of it"
"""What the bar of the whole job is called."""


@contextmanager
def progress_bars(request: Request | None = None) -> Iterator[Any]:
    """Give a progress callback that shows on standard error how far each phase is, and the time left.

    With a ``request`` also how far the whole job is.
    """
    job = _job_of(request)
    if loudness.quiet:
        yield no_progress
    elif err.is_terminal:
        with _bars(job) as listen:
            yield listen
    else:
        with _lines(job) as listen:
            yield listen


def _job_of(request: Request | None) -> Job | None:
    """A job that knows the weights of the phases, as that of a server does."""
    if request is None:
        return None
    from app.job import Job

    return Job(number=1, task=request, owner="")


def _note(job: Job | None, phase: str, done: int, total: int) -> None:
    if job:
        (job.fetch if phase == FETCHING else job.advance)(phase, done, total)


# Lines


class Lines:
    """Tell in lines how far work is: one when a phase first begins, then one every 30 seconds at most."""

    def __init__(
        self,
        write: Callable[[str], None],
        job: Job | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._job, self._clock = write, job, clock
        self._lock = threading.Lock()
        self._begun: dict[str, float] = {}
        self._now: tuple[str, int, int] | None = None
        self._last = 0.0

    def tell(self, phase: str, done: int, total: int) -> None:
        """Note how far a phase is, and write a line where one is due."""
        with self._lock:
            _note(self._job, phase, done, total)
            self._now = phase, done, total
            if phase not in self._begun:
                self._begun[phase] = self._clock()
                self._line()
            elif self._clock() - self._last >= EVERY:
                self._line()

    def tick(self) -> None:
        """Write a line where none came for long: a phase may be one long step."""
        with self._lock:
            if self._now and self._clock() - self._last >= EVERY:
                self._line()

    def _line(self) -> None:
        from app.wording.numbers import duration, memory, time_left

        assert self._now
        phase, done, total = self._now
        taken = self._clock() - self._begun[phase]
        told = []
        if phase == FETCHING and total > 1:
            told.append(f"{memory(done)} of {memory(total)}, {done / total:.0%}")
        elif total > 1:
            told.append(f"{done:,} of {total:,}, {done / total:.0%}")
        elif taken >= EVERY:
            told.append(f"for {duration(taken)}")
        if 0 < done < total and taken > 2.0:
            told.append(f"about {duration(taken * (total - done) / done)} left")
        line = f"{phase}: {', '.join(told)}" if told else phase
        if self._job and self._job.fraction and phase != FETCHING:
            line += f"; all of it: {self._job.fraction:.0%}"
            left = self._job.seconds_left  # which finds out whether it is late
            line += f", {said}" if (said := time_left(left, self._job.late)) else ""
        self._write(f"{time.strftime('%H:%M:%S')} {line}")
        self._last = self._clock()


@contextmanager
def _lines(job: Job | None) -> Iterator[Any]:
    def write(line: str) -> None:
        err.print(line, highlight=False, soft_wrap=True)

    lines, ended = Lines(write, job), threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            lines.tick()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield lines.tell
    finally:
        ended.set()
        watching.join()


# Bars


class _Amount(ProgressColumn):
    """How much of a phase is done: bytes where it fetches, a share of the whole job, else a count."""

    _bytes, _count = DownloadColumn(binary_units=True), MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        """Draw it for one phase."""
        if task.description == FETCHING:
            return self._bytes.render(task) if (task.total or 0) > 1 else Text("asking the Hub")
        if task.description == ALL:
            return Text(f"{task.percentage:.0f} %")
        return self._count.render(task)


class _Time(ProgressColumn):
    """The time that is left, or that a phase that is over has taken."""

    _left, _taken = TimeRemainingColumn(), TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        """Draw it for one phase."""
        if task.finished or task.stop_time is not None:
            return self._taken.render(task)
        if task.description == ALL:
            left = task.fields.get("left")
            return Text("" if left is None else f"{_clock(left)} left")
        return Text.assemble(self._left.render(task), " left")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def _bars(job: Job | None) -> Iterator[Any]:
    columns = (TextColumn("{task.description:<28}", markup=False), BarColumn(), _Amount(), _Time())
    with Progress(*columns, console=err) as bars:
        whole = bars.add_task(ALL, total=1.0) if job else None
        tasks: dict[str, Any] = {}

        def listen(phase: str, done: int, total: int) -> None:
            _note(job, phase, done, total)
            for earlier, task in tasks.items():
                if earlier != phase:
                    bars.stop_task(task)
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)
            if job and whole is not None:
                bars.update(whole, completed=job.fraction, left=job.seconds_left)

        yield listen
        if whole is not None:
            bars.update(whole, completed=1.0)
