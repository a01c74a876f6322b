"""The process that computes: it does one thing at a time and keeps the one model that is open.

It gets tasks over a connection and answers with progress and outcomes. Knows nothing about queues, people or
pages. A process of its own can be killed at any moment, and gives all of its memory back when it ends.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import queue
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

from analysis.child import start_child
from analysis.errors import Cancelled, SlicescopeError, one_line
from analysis.sources.model import ModelSource
from analysis.writing import Prompt, Said
from slicing.preview import Preview, PreviewRequest
from slicing.studies.requests import Phases
from slicing.studies.results import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """Open a model and keep it open, in place of the one that was."""

    source: ModelSource
    kind: Literal["load"] = "load"

    def phases(self) -> Phases:
        """The only one."""
        return _OPENING


@dataclass(frozen=True)
class Unload:
    """Close the open model and give its memory back."""

    kind: Literal["unload"] = "unload"

    def phases(self) -> Phases:
        """The only one."""
        return _OPENING


@dataclass(frozen=True)
class Play:
    """Have a model, and a smaller one beside it, continue a prompt; nothing of it is stored."""

    model: ModelSource
    """The dense one."""
    smaller: ModelSource | None
    """``None`` for the dense one alone."""
    prompt: Prompt
    kind: Literal["play"] = "play"

    def phases(self) -> Phases:
        """Opening both, then token by token."""
        return (("Opening", 0.0), ("Writing", 1.0))


_OPENING: Phases = (("Opening", 0.0),)
Task = Request | Load | Unload | Play
Outcome = Literal["done", "failed", "cancelled"]


# What the server says.


class Do(NamedTuple):
    """Do a task, or measure a preview; the number names it in the answers."""

    number: int
    task: Task | PreviewRequest


class Stop(NamedTuple):
    """Stop the task of this number at its next batch."""

    number: int


# What the engine answers.


class Advanced(NamedTuple):
    """How far the task is; see ``analysis.values.Progress``."""

    number: int
    phase: str
    done: int
    total: int


class Came(NamedTuple):
    """A part of what the task gives, as soon as it is there."""

    number: int
    part: Said


class Ended(NamedTuple):
    """The task is over: with the key of its run or a preview, or one sentence on what went wrong."""

    number: int
    outcome: Outcome
    error: str = ""
    key: str | None = None
    preview: Preview | None = None


class Report(NamedTuple):
    """What is open, and the memory of the device it is on, in bytes: of the host where nothing is open."""

    source: ModelSource | None
    device: str
    dtype: str
    free: int
    total: int
    """0 where the device does not say."""
    bf16: bool = True
    """Whether the device multiplies in bfloat16 itself."""


class Engine:
    """The loop of the process."""

    def __init__(self, connection: Connection, perform: Any = None, opener: Any = None) -> None:
        # Imported here, since they take seconds and the server need not wait for them.
        from slicing.preview import Previewer
        from slicing.store import open_model
        from slicing.studies.run import perform as usual

        self._connection = connection
        self._perform, self._opener = perform or usual, opener or open_model
        self._previewer = Previewer()
        self._held: Any = None
        self._beside: Any = None
        """A smaller model that is open beside it, until something else is asked for."""
        self._stopped: set[int] = set()
        self._inbox: queue.SimpleQueue[Do | None] = queue.SimpleQueue()

    def run(self, gone: Callable[[], None]) -> None:
        """Work until the server is gone; ``gone`` is then called at once, whatever is being done."""
        threading.Thread(target=self._listen, args=(gone,), name="slicescope-listener", daemon=True).start()
        try:
            self._report()
            while (asked := self._inbox.get()) is not None:
                self._connection.send(self._outcome(asked))
                if not self._cleaned_up():  # another engine can work on, this process cannot
                    gone()
                    return
                self._report()
        except (OSError, ValueError):  # the connection is closed
            gone()

    def _listen(self, gone: Callable[[], None]) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                self._inbox.put(None)
                gone()
                return
            if isinstance(message, Stop):
                self._stopped.add(message.number)
            else:
                self._inbox.put(message)

    def _outcome(self, asked: Do) -> Ended:
        """Do what was asked; whatever it raises ends the task, never the engine."""

        def progress(phase: str, done: int, total: int) -> None:
            self._connection.send(Advanced(asked.number, phase, done, total))
            if asked.number in self._stopped:
                raise Cancelled("It was cancelled; nothing was stored.")

        try:
            return self._done(asked, progress)
        except Cancelled:
            return Ended(asked.number, "cancelled")
        except SlicescopeError as error:
            return Ended(asked.number, "failed", str(error))
        except Exception as error:  # a defect of ours or of a library: the log gets all of it
            log.exception("%s failed.", asked.task)
            told = f"It stopped at an unexpected {type(error).__name__}: {one_line(error)}."
            return Ended(asked.number, "failed", told)
        finally:
            self._stopped.discard(asked.number)

    def _done(self, asked: Do, progress: Callable[[str, int, int], None]) -> Ended:
        from slicing.store import open_telling

        task = asked.task
        if task.kind == "play":
            self._play(asked.number, task, progress)
            return Ended(asked.number, "done")
        self._beside = None
        if task.kind == "preview":
            found = self._previewer.preview(task, progress, self._open)
            return Ended(asked.number, "done", preview=found)
        if task.kind == "unload":
            self._close()
            return Ended(asked.number, "done")
        if task.kind == "load":
            open_telling(task.source, progress, self._open)
            return Ended(asked.number, "done")
        return Ended(asked.number, "done", key=self._perform(task, progress, self._open).key)

    def _play(self, number: int, task: Play, progress: Callable[[str, int, int], None]) -> None:
        """Open what is to write, and pass every place on as it comes."""
        from analysis.writing import write_beside
        from slicing.store import open_telling

        if self._beside and self._beside[0] != task.smaller:
            self._beside = None
        dense = open_telling(task.model, progress, self._open)
        if task.smaller and self._beside is None:
            self._beside = task.smaller, open_telling(task.smaller, progress, self._opener)
        done, total = 0, task.prompt.new_tokens * (2 if task.smaller else 1)
        smaller = self._beside[1] if task.smaller else None
        with closing(write_beside(dense, smaller, task.prompt)) as texts:
            for said in texts:
                self._connection.send(Came(number, said))
                done += said.who != "read"
                progress("Writing", done, total)

    def _open(self, source: ModelSource) -> Any:
        """The model of ``source``; the one that was open is closed before another is read.

        Both are reported as they happen, so that it is known whose task did it.
        """
        if self._held is None or self._held[0] != source:
            held = self._held is not None
            self._close()
            if held:
                self._report()
            self._held = (source, self._opener(source))
            self._report()
        return self._held[1]

    def _close(self) -> None:
        self._held = self._beside = None
        self._previewer.forget()

    def _report(self) -> None:
        from analysis.device import has_bf16, memory_of, pick_device

        source, opened = self._held or (None, None)
        # Asking CUDA takes memory of the card, and fails where that is full: not before a model is there.
        device = pick_device("cpu") if opened is None else opened.model.device
        dtype = "" if opened is None else str(opened.model.dtype).removeprefix("torch.")
        try:
            (free, total), bf16 = memory_of(device), has_bf16(device)
        except RuntimeError:
            log.exception("The memory of %s is not known.", device)
            free, total, bf16 = 0, 0, True
        self._connection.send(Report(source, str(device), dtype, free, total, bf16))

    def _cleaned_up(self) -> bool:
        """Give memory back. False where the device answers nothing any more, as after a failed assertion."""
        from analysis.device import free_memory, synchronise

        try:
            if self._held is not None:
                synchronise(self._held[1].model.device)
            free_memory()
        except RuntimeError:
            log.exception("The device does not answer any more, so the engine ends and another one begins.")
            return False
        return True


class Child(NamedTuple):
    """A running engine, as the server sees it."""

    connection: Connection
    kill: Callable[[], None]
    """End it at once."""
    ending: Callable[[], int | None]
    """How it ended: an exit code, below zero a signal; ``None`` where that is not known."""
    pid: int | None


MODESTY = 10
"""How far the engine steps back where processors are scarce: pages have to answer while it computes."""


def launch() -> Child:
    """Start an engine in a fresh process; it answers as soon as it has imported what it needs."""
    connection, process = start_child("app.engine", "compute_for")

    def ending() -> int | None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        return process.returncode

    return Child(connection, process.kill, ending, process.pid)


def compute_for(line: int) -> None:
    """Run an engine as the process of its own, given the number of its end of the connection."""
    from analysis.device import reuse_memory

    os.nice(MODESTY)
    reuse_memory()
    Engine(Connection(line), opener=models_opener()).run(gone=lambda: os._exit(0))


def models_opener() -> Callable[[ModelSource], Any]:
    """Give a function that opens models.

    Before the first model it imports what all models need, and lets the collection of garbage pass by that.
    """
    from analysis.device import pass_by_imports
    from slicing.store import open_model

    @functools.cache
    def prepare() -> None:
        importlib.import_module("transformers.modeling_utils")
        importlib.import_module("transformers.models.auto.modeling_auto")
        pass_by_imports()

    def opener(source: ModelSource) -> Any:
        prepare()
        return open_model(source)

    return opener
