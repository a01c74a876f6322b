"""Long work, one job at a time: the queue, its progress, and the one model that is kept open.

A worker is a thread of the process, so a job outlives the browser tab that asked for it. Knows nothing
about streamlit or pages: whoever wants to know how a job is doing looks at it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from analysis.device import free_memory
from analysis.errors import Cancelled, SlicescopeError, one_line
from analysis.source import ModelSource, OpenModel
from analysis.values import Progress
from slicing.bench import Opener, perform, phases
from slicing.preview import Preview, Previewer, PreviewRecipe
from slicing.runs import Recipe, Run
from slicing.store import open_model

QUEUE_LIMIT = 8
"""Jobs that may wait; more than that is a mistake rather than a plan."""
HISTORY = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """Open a model and keep it open, in place of the one that was."""

    source: ModelSource
    kind: Literal["load"] = "load"


@dataclass(frozen=True)
class Unload:
    """Close the open model and give its memory back."""

    kind: Literal["unload"] = "unload"


Task = Recipe | Load | Unload
State = Literal["queued", "running", "done", "failed", "cancelled"]
Perform = Callable[[Recipe, Progress, Opener], Run]


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
    submitted: float = field(default_factory=time.monotonic)
    ended: float | None = None
    _step: int = 0
    _work_began: float | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("queued", "running")

    @property
    def cancelling(self) -> bool:
        """Whether it was told to stop and has not stopped yet."""
        return self.active and self._stop.is_set()

    @property
    def seconds_left(self) -> float | None:
        """The time left at the pace so far, or ``None`` while that would be a guess."""
        if self._work_began is None or self.fraction < 0.03:
            return None
        return (time.monotonic() - self._work_began) * (1.0 - self.fraction) / self.fraction

    def advance(self, phase: str, done: int, total: int) -> None:
        """The progress callback: note how far the job is; raise ``Cancelled`` when it was told to stop."""
        steps = (("Opening", 0.0),) if isinstance(self.task, Load | Unload) else phases(self.task)
        names = [name for name, _ in steps]
        if phase in names[self._step :]:
            self._step = names.index(phase, self._step)
        weights = [weight for _, weight in steps]
        if weights[self._step] and self._work_began is None:
            self._work_began = time.monotonic()
        finished = sum(weights[: self._step]) + weights[self._step] * done / max(total, 1)
        self.phase, self.done, self.total = phase, done, total
        self.fraction = min(finished / sum(weights), 1.0) if sum(weights) else 0.0
        if self._stop.is_set():
            raise Cancelled("The job was cancelled; nothing was stored.")


class Worker:
    """The queue and the thread that works it off. At most one dense model is open at any time."""

    def __init__(
        self, perform: Perform = perform, opener: Opener = open_model, limit: int = QUEUE_LIMIT
    ) -> None:
        self._perform, self._opener, self._limit = perform, opener, limit
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._ended: deque[Job] = deque(maxlen=HISTORY)
        self._held: tuple[ModelSource, OpenModel] | None = None
        self._previewer = Previewer()
        self._wishes: dict[str, PreviewRecipe] = {}
        self._previewing: tuple[str, PreviewRecipe] | None = None
        self._previewed: OrderedDict[str, Preview | str] = OrderedDict()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="slicescope-worker", daemon=True)
        self._thread.start()

    def submit(self, task: Task, owner: str = "") -> Job:
        """Queue a task, or find the waiting or running job that does the same.

        Raises ``SlicescopeError`` when the queue is full or the worker has been stopped.
        """
        with self._changed:
            if self._stopping:
                raise SlicescopeError("The server is shutting down: start it again, then repeat the request.")
            for job in self.active:
                if job.task == task and not job.cancelling:
                    return job
            if len(self._queue) >= self._limit:
                raise SlicescopeError(
                    f"{self._limit} jobs are waiting already: wait for one to end, or cancel one."
                )
            job = Job(next(self._numbers), task, owner)
            self._queue.append(job)
            self._changed.notify_all()
            return job

    def cancel(self, job: Job) -> None:
        """Take the job out of the queue, or stop it at its next batch."""
        with self._changed:
            job._stop.set()
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, "cancelled")

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
        """How many jobs are ahead of this one: 0 when it runs or has ended."""
        active = self.active
        return active.index(job) if job in active else 0

    @property
    def open_model(self) -> tuple[ModelSource, OpenModel] | None:
        """The source that is open now, and its model, which is to be read only."""
        return self._held

    def wait(self, job: Job, timeout: float | None = None) -> bool:
        """Block until the job has ended; false when the timeout came first."""
        with self._changed:
            return self._changed.wait_for(lambda: not job.active, timeout)

    def stop(self, timeout: float = 10.0) -> None:
        """Cancel everything and end the thread."""
        with self._changed:
            self._stopping = True
            for job in self.active:
                self.cancel(job)
            self._changed.notify_all()
        self._thread.join(timeout)

    def preview(self, recipe: PreviewRecipe, owner: str = "") -> Preview | str | None:
        """What the plan would cost, or why that cannot be told; ``None`` while it is being measured.

        Ask again until it is there. Jobs go first, and of an owner's previews only the last one counts.
        """
        with self._changed:
            if recipe.key in self._previewed:
                self._wishes.pop(owner, None)
                return self._previewed[recipe.key]
            if self._previewing is None or self._previewing[1] != recipe:
                self._wishes[owner] = recipe
                self._changed.notify_all()
            return None

    def _measure_preview(self) -> None:
        assert self._previewing is not None
        owner, recipe = self._previewing

        def stop_when_overtaken(phase: str, done: int, total: int) -> None:
            if self._queue or self._stopping or owner in self._wishes:
                raise Cancelled("Something newer is wanted.")

        try:
            found: Preview | str = self._previewer.preview(recipe, stop_when_overtaken, self._open)
        except Cancelled:
            return
        except SlicescopeError as error:
            found = str(error)
        except Exception as error:
            log.exception("The preview %s failed.", recipe)
            found = f"It stopped at an unexpected {type(error).__name__}: {one_line(error)}."
        with self._changed:
            self._previewed[recipe.key] = found
            while len(self._previewed) > HISTORY:
                self._previewed.popitem(last=False)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._wishes or self._stopping)
                if self._stopping and not self._queue:
                    return
                if not self._queue:
                    owner = next(iter(self._wishes))
                    self._previewing = owner, self._wishes.pop(owner)
            if self._previewing is not None:
                self._measure_preview()
                with self._changed:
                    self._previewing = None
                    self._changed.notify_all()
                continue
            with self._changed:
                job = self._running = self._queue.popleft()
                job.state = "running"
            state, error = self._outcome(job)
            free_memory()
            with self._changed:
                job.error, self._running = error, None
                self._end(job, state)

    def _outcome(self, job: Job) -> tuple[State, str]:
        """Do the job; whatever it raises ends the job, never the worker."""
        try:
            if isinstance(job.task, Unload):
                self._close()
            elif isinstance(job.task, Load):
                job.advance("Opening", 0, 1)
                self._open(job.task.source)
            else:
                job.key = self._perform(job.task, job.advance, self._open).key
        except Cancelled:
            return "cancelled", ""
        except SlicescopeError as error:
            return "failed", str(error)
        except Exception as error:  # a defect of ours or of a library: the log gets all of it
            log.exception("The job %s failed.", job.task)
            return "failed", f"It stopped at an unexpected {type(error).__name__}: {one_line(error)}."
        return "done", ""

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended = state, time.monotonic()
        if state == "done":
            job.fraction = 1.0
        self._ended.append(job)
        self._changed.notify_all()

    def _open(self, source: ModelSource) -> OpenModel:
        """The model of ``source``; the one that was open is closed before another is read."""
        if self._held is None or self._held[0] != source:
            self._close()
            self._held = (source, self._opener(source))
        return self._held[1]

    def _close(self) -> None:
        self._held = None
        self._previewer.forget()
        free_memory()
