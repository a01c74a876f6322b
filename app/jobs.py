"""Long work, one job at a time: the queue, its progress, and the engine that does it.

What a job needs from the Hub is fetched before its turn, while other jobs run.

The engine is a process of its own (``app.engine``), so a job outlives the browser tab that asked for it, can
be killed at any moment, and takes nothing with it when it dies. What waits is written down (``app.journal``),
so that it outlives the server too. Knows nothing about streamlit or pages: whoever wants to know how a job is
doing looks at it.
"""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from analysis.errors import Cancelled, SlicescopeError, StorageError, one_line
from analysis.sources.model import ModelSource, must_fetch
from analysis.sources.opening import fetch_missing
from app.engine import Advanced, Came, Child, Do, Ended, Report, Stop, Task, launch
from app.job import Job, State, model_of
from app.journal import Journal
from slicing.preview import Preview, PreviewRequest
from slicing.studies.run import fetch_for

log = logging.getLogger(__name__)

QUEUE_LIMIT = 8
"""Jobs that may wait; more than that is a mistake rather than a plan."""
OWNER_LIMIT = 4
"""Of these, jobs of one person."""
HISTORY = 50


@dataclass
class Opened:
    """The model that is open, and for whom."""

    source: ModelSource
    owner: str
    """Who had it opened."""
    since: float = field(default_factory=time.monotonic)
    users: set[str] = field(default_factory=set)
    """Who has used it since."""


class Closed(NamedTuple):
    """A model that somebody used and another person's task closed."""

    source: ModelSource
    instead: ModelSource | None
    """What was opened in its place, if anything was."""


class Worker:
    """The queue, and the engine that works it off."""

    def __init__(
        self,
        launch: Callable[[], Child] = launch,
        limit: int = QUEUE_LIMIT,
        seconds: float | None = None,
    ) -> None:
        """``limit`` jobs may wait, and each may run for so many ``seconds``; ``None`` is no limit."""
        self._launch, self._limit, self._seconds = launch, limit, seconds
        self._changed = threading.Condition(threading.RLock())
        self._numbers = itertools.count(1)
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._ended: deque[Job] = deque(maxlen=HISTORY)
        self._wishes: OrderedDict[str, PreviewRequest] = OrderedDict()
        self._previewing: tuple[int, str, PreviewRequest] | None = None
        self._previewed: OrderedDict[str, Preview | str] = OrderedDict()
        self._stopping = False
        self._report: Report | None = None
        self._opened: Opened | None = None
        self._closed: OrderedDict[str, list[Closed]] = OrderedDict()
        self._journal = Journal()
        self.lost: tuple[str, ...] = ()
        """One sentence for each job of an earlier server that cannot be taken over."""
        with self._changed:
            self._child: Child | None = self._start()
            self._take_over()

    def submit(self, task: Task, owner: str = "") -> Job:
        """Queue a task, or find the waiting or running job that does the same.

        Raises ``SlicescopeError`` when the queue is full or the worker has been stopped.
        """
        with self._changed:
            if self._stopping:
                raise SlicescopeError("The server is shutting down: start it again, then repeat the request.")
            for job in self.active:
                if job.task == task and not job.cancelling:
                    job.askers.add(owner)
                    return job
            if len(self._queue) >= self._limit:
                raise SlicescopeError(
                    f"{self._limit} jobs are waiting already: wait for one to end, or cancel one."
                )
            if sum(job.owner == owner for job in self._queue) >= OWNER_LIMIT:
                raise SlicescopeError(
                    f"{OWNER_LIMIT} jobs of yours are waiting already: wait for one to end, or cancel one."
                )
            job = Job(next(self._numbers), task, owner)
            self._enter(job)
            return job

    def cancel(self, job: Job) -> None:
        """Take the job out of the queue, or stop it at its next batch."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, "cancelled")
            elif job is self._running and job._cancelled is None:
                job._cancelled = time.monotonic()
                self._say(Stop(job.number))

    def stop_now(self, job: Job) -> None:
        """End the job at once: a running one by killing the engine, in place of which a fresh one starts."""
        with self._changed:
            if job is self._running:
                self._running = None
                self._end(job, "cancelled")
                self._restart(job.owner)
            else:
                self.cancel(job)

    def tend(self, gone: Callable[[str], bool]) -> None:
        """Look after the queue: to be called every second or so.

        A job is cancelled when its note was taken away. One that waits is withdrawn when all who asked for
        it are ``gone``; one that runs goes on then, since it ends in time and whoever asks for the same again
        finds its result. What runs longer than it may is stopped at its next batch or, when it does not stop,
        with its engine.
        """
        with self._changed:
            taken_away = self._journal.taken_away()
            for job in self.active:
                forsaken = job in self._queue and all(gone(asker) for asker in job.askers)
                if forsaken or job.number in taken_away:
                    self.cancel(job)
            job = self._running
            if job and self._seconds is not None and job.seconds > self._seconds:
                job._late = job._late or not job.cancelling
                if job.stuck:
                    self.stop_now(job)
                else:
                    self.cancel(job)

    @property
    def active(self) -> tuple[Job, ...]:
        """The running job, if there is one, then those that wait, in their order."""
        with self._changed:
            return ((self._running,) if self._running else ()) + tuple(self._queue)

    @property
    def ended(self) -> tuple[Job, ...]:
        """The last jobs that are done, failed or cancelled, newest last."""
        with self._changed:
            return tuple(self._ended)

    def position(self, job: Job) -> int:
        """Count the jobs that are ahead of this one: 0 when it runs or has ended."""
        active = self.active
        return active.index(job) if job in active else 0

    @property
    def report(self) -> Report | None:
        """Give what is open and the memory there is, as the engine said last; ``None`` before it did."""
        return self._report

    @property
    def opened(self) -> Opened | None:
        """The model that is open and for whom; ``None`` where none is."""
        return self._opened

    def take_closed(self, owner: str) -> list[Closed]:
        """The models that this person used and others closed since this was asked last."""
        with self._changed:
            return self._closed.pop(owner, [])

    @property
    def pid(self) -> int | None:
        """The process of the engine."""
        child = self._child
        return child.pid if child else None

    def wait(self, job: Job, timeout: float | None = None) -> bool:
        """Block until the job has ended; false when the timeout came first."""
        with self._changed:
            return self._changed.wait_for(lambda: not job.active, timeout)

    def stop(self) -> None:
        """End the engine; what waits or runs stays written down for the next server."""
        with self._changed:
            self._stopping = True
            for job in self.active:
                job.state, job.ended = "cancelled", time.monotonic()
            self._queue.clear()
            self._running, child, self._child = None, self._child, None
            self._changed.notify_all()
        if child:
            child.kill()
            child.ending()

    def preview(self, request: PreviewRequest, owner: str = "") -> Preview | str | None:
        """Give what the plan would cost, or why that cannot be told; ``None`` until it is measured.

        Ask again until it is there. Jobs go first, and of an owner's previews only the last one counts.
        """
        with self._changed:
            if request.key in self._previewed:
                self._wishes.pop(owner, None)
                return self._previewed[request.key]
            if self._previewing is None or self._previewing[2] != request:
                self._wishes[owner] = request
                if self._previewing and self._previewing[1] == owner:
                    self._say(Stop(self._previewing[0]))  # something newer is wanted
                self._next()
            return None

    def known_preview(self, request: PreviewRequest) -> Preview | str | None:
        """Give what ``preview`` would where it is known already; nothing is asked for."""
        with self._changed:
            return self._previewed.get(request.key)

    # What happens to jobs, always with the lock held.

    def _enter(self, job: Job) -> None:
        if job.task.kind != "load" and job.task.kind != "unload" and job.task.kind != "play":
            self._journal.note(job.number, job.task, job.owner)
        job.askers.add(job.owner)
        self._queue.append(job)
        source = model_of(job.task)
        if source and must_fetch(source):
            job.fetching = True
            threading.Thread(target=self._fetch, args=(job,), name="slicescope-fetch", daemon=True).start()
        elif self._previewing:
            self._say(Stop(self._previewing[0]))  # jobs go first
        self._next()
        self._changed.notify_all()

    def _take_over(self) -> None:
        try:
            entries, lost = self._journal.take_over()
            self.lost = tuple(lost)
            for entry in entries:
                self._enter(Job(next(self._numbers), entry.request, entry.owner, restarted=True))
            self._journal.settle()
        except StorageError as error:  # no reason not to serve
            self.lost = (*self.lost, str(error))

    def _next(self) -> None:
        """Give the engine something to do when it has nothing."""
        if self._stopping or self._running or self._previewing:
            return
        if job := next((job for job in self._queue if not job.fetching), None):
            self._queue.remove(job)
            if job.task.kind == "unload":  # only the end of a process gives all of its memory back
                self._end(job, "done")
                self._restart(job.owner)
                return
            job.state, job._began, self._running = "running", time.monotonic(), job
            self._journal.begin(job.number)
            self._say(Do(job.number, job.task))
        elif self._wishes:
            owner, request = self._wishes.popitem(last=False)
            self._previewing = next(self._numbers), owner, request
            self._say(Do(self._previewing[0], request))
        self._changed.notify_all()

    def _end(self, job: Job, state: State, error: str = "") -> None:
        if state == "cancelled" and job._late:
            state, error = "failed", _too_long(self._seconds or 0.0)
        job.error, job.state, job.ended = error, state, time.monotonic()
        if state == "done":
            job.fraction = 1.0
        self._journal.strike(job.number)
        self._ended.append(job)
        self._changed.notify_all()

    def _fetch(self, job: Job) -> None:
        """Fetch the model of a job that waits, in a thread of its own; then its turn can come."""

        def listen(phase: str, done: int, total: int) -> None:
            with self._changed:
                if not job.active:
                    raise Cancelled("It was cancelled.")
                job.fetch(phase, done, total)

        error = ""
        try:
            if job.task.kind == "load" or job.task.kind == "play":
                source = model_of(job.task)
                assert source is not None, "both name one"
                fetch_missing(source, listen, asks=False)
            elif job.task.kind != "unload":
                fetch_for(job.task, listen, asks=False)
        except SlicescopeError as told:
            error = str(told)
        except Exception as unexpected:  # a defect of ours or of a library: the log gets all of it
            log.exception("Fetching for %s failed.", job.task)
            error = f"It stopped at an unexpected {type(unexpected).__name__}: {one_line(unexpected)}."
        with self._changed:
            if job not in self._queue:  # it was cancelled meanwhile
                return
            job.fetching = False
            if error:
                self._queue.remove(job)
                self._end(job, "failed", error)
            if self._previewing:
                self._say(Stop(self._previewing[0]))
            self._next()

    # Which model is open, and whose; always with the lock held.

    def _note_opened(self, source: ModelSource | None, owner: str, instead: ModelSource | None) -> None:
        """Note what the engine holds now, and tell those whose model was closed by another's task."""
        before = self._opened
        if source == (before.source if before else None):
            return
        if before:
            for user in (before.users | {before.owner}) - {owner}:
                self._closed.setdefault(user, []).append(Closed(before.source, instead))
                del self._closed[user][:-OWNER_LIMIT]
            while len(self._closed) > HISTORY:
                self._closed.popitem(last=False)
        self._opened = Opened(source, owner) if source else None

    def _doing(self) -> tuple[str, ModelSource | None]:
        """Who has the engine do what it does, and on which model."""
        if self._running:
            return self._running.owner, model_of(self._running.task)
        return (self._previewing[1] if self._previewing else ""), None

    def _keep(self, request: PreviewRequest, found: Preview | str) -> None:
        self._previewed[request.key] = found
        while len(self._previewed) > HISTORY:
            self._previewed.popitem(last=False)

    # The engine, always with the lock held but for the thread that listens to it.

    def _say(self, message: Do | Stop) -> None:
        if self._child is None:
            self._child = self._start()
        with suppress(OSError):  # it is gone, which its listener is about to notice
            self._child.connection.send(message)

    def _start(self) -> Child:
        child = self._launch()
        threading.Thread(target=self._listen, args=(child,), name="slicescope-worker", daemon=True).start()
        return child

    def _restart(self, owner: str) -> None:
        self._note_opened(None, owner, None)
        child, self._child, self._report = self._child, None, None
        if child:
            child.kill()
        self._child = self._start()
        self._next()
        self._changed.notify_all()

    def _listen(self, child: Child) -> None:
        while True:
            try:
                message = child.connection.recv()
            except (EOFError, OSError):
                break
            with self._changed:
                if child is self._child:
                    self._hear(message)
        ending = child.ending()
        with self._changed:
            if child is self._child:
                self._mourn(ending)

    def _hear(self, message: Advanced | Came | Ended | Report) -> None:
        job = self._running
        if isinstance(message, Report):
            self._report = message
            self._note_opened(message.source, *self._doing())
        elif isinstance(message, Advanced):
            if job and job.number == message.number:
                job.advance(message.phase, message.done, message.total)
        elif isinstance(message, Came):
            if job and job.number == message.number:
                job.came.append(message.part)
        elif job and job.number == message.number:
            job.key, self._running = message.key, None
            if self._opened and self._opened.source == model_of(job.task):
                self._opened.users.add(job.owner)
            self._end(job, message.outcome, message.error)
            self._next()
        elif self._previewing and self._previewing[0] == message.number:
            _, _, request = self._previewing
            self._previewing = None
            if message.outcome != "cancelled":
                self._keep(request, message.preview or message.error)
            self._next()

    def _mourn(self, ending: int | None) -> None:
        """The engine died: what it did has failed, and a fresh one goes on with the rest."""
        healthy = self._report is not None
        self._note_opened(None, self._doing()[0], None)
        self._child = self._report = None
        told = _told(ending)
        if job := self._running:
            self._running = None
            self._end(job, "failed", told)
        if self._previewing:
            self._keep(self._previewing[2], told)
            self._previewing = None
        if healthy:  # else it would die again and again: not before it is needed
            self._child = self._start()
        self._next()


def _told(ending: int | None) -> str:
    """Why the engine died, in one sentence, and what to do."""
    if ending == -signal.SIGKILL:
        how = "The computing process was killed, most likely because the system ran out of memory"
    elif ending is not None and ending < 0:
        how = f"The computing process was ended by {signal.Signals(-ending).name}"
    else:
        how = f"The computing process ended unexpectedly (exit code {ending})"
    return (
        f"{how}; nothing was stored, and a fresh process has taken its place: try fewer or shorter windows, "
        "a lower precision or a smaller model."
    )


def _too_long(seconds: float) -> str:
    """Why a job was stopped that ran for as long as it may."""
    minutes = f"{seconds / 60:.0f} minute{'s' if seconds > 60 else ''}"
    return (
        f"It was stopped after {minutes}, which is all the time that this server gives one job; nothing was "
        "stored: ask for fewer or shorter windows, or for less at once."
    )
