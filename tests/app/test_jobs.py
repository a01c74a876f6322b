"""The worker: order, progress, cancelling, failures, and one open model at a time."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import platform
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from board_stand_in import EARLIER

from analysis.errors import PlanError, SlicescopeError, StorageError
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import owned, queue_folder
from app import job as job_module
from app import jobs, journal, state, wording
from app.engine import Child, Engine, Load, Report, Unload
from app.jobs import Worker
from slicing.plans import Plan
from slicing.preview import PreviewRequest
from slicing.studies.requests import ProfileRequest
from slicing.studies.results import Run
from slicing.studies.store import (
    BUNDLED_CONTEST,
    BUNDLED_RUN,
    BUNDLED_SWEEP,
    RUN_FILE,
    find_run,
)
from slicing.studies.study import comparison

TEXT = TextSource(kind="demo", split="calibration")


def request(seed: int = 0, model: str = "a/b") -> ProfileRequest:
    return ProfileRequest(model=ModelSource(kind="hub", location=model), text=TEXT, windows=4, seed=seed)


class Bench:
    """A worker whose jobs do what a test says, with a model that is only a name. Its engine is a thread."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.opened: list[str] = []
        self.engines: list[Engine] = []
        self.ending: int | None = 0
        self.act: Callable[[Any, Any, Any], None] = lambda recipe, progress, opener: None
        self.unopenable: set[str] = set()
        self.previewer: Any = None
        self.worker = Worker(self.launch, limit=3)

    def launch(self) -> Child:
        ours, theirs = multiprocessing.Pipe()
        engine = Engine(theirs, self.perform, self.open)
        if self.previewer:
            engine._previewer = self.previewer
        self.engines.append(engine)
        threading.Thread(target=engine.run, args=(lambda: None,), daemon=True).start()

        def kill() -> None:
            # Closing a socket does not wake those who read it; shutting it down does.
            with socket.socket(fileno=os.dup(ours.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

        return Child(ours, kill, lambda: self.ending, len(self.engines))

    def let_go(self, gate: threading.Event) -> None:
        """Open the gate after the engine has read that its job is to stop: until then it may go on."""
        until(lambda: bool(self.engines[0]._stopped))
        gate.set()

    def perform(self, recipe: Any, progress: Any, opener: Any) -> Any:
        self.begun.append(recipe.seed)
        self.act(recipe, progress, opener)
        return SimpleNamespace(key=recipe.key)

    def open(self, source: ModelSource) -> Any:
        self.opened.append(source.location)
        if source.location in self.unopenable:
            raise SlicescopeError("It is not there.")
        model = SimpleNamespace(device=torch.device("cpu"), dtype=torch.bfloat16)
        return SimpleNamespace(model=model, tokenizer=None)


@pytest.fixture(autouse=True)
def _all_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "must_fetch", lambda source: source.location.startswith("far/"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.worker.stop()


@pytest.fixture
def gate(bench: Bench) -> Iterator[threading.Event]:
    """Jobs wait at this gate after telling that they have begun."""
    gate = threading.Event()

    def act(recipe: Any, progress: Any, opener: Any) -> None:
        progress("Profiling", 0, 4)
        gate.wait(10)
        progress("Profiling", 1, 4)

    bench.act = act
    yield gate
    gate.set()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not happen within five seconds")


def test_jobs_run_one_after_another_in_their_order(bench: Bench, gate: threading.Event) -> None:
    jobs = [bench.worker.submit(request(seed)) for seed in (3, 1, 2)]
    until(lambda: bench.begun == [3])
    assert [bench.worker.position(job) for job in jobs] == [0, 1, 2]
    assert [job.state for job in jobs] == ["running", "queued", "queued"]
    gate.set()
    assert bench.worker.wait(jobs[2], 5)
    assert bench.begun == [3, 1, 2]
    assert [job.state for job in jobs] == ["done"] * 3
    assert [job.key for job in jobs] == [request(seed).key for seed in (3, 1, 2)]
    assert bench.worker.active == ()
    assert bench.worker.ended == tuple(jobs)


def test_the_same_task_is_not_queued_twice(bench: Bench, gate: threading.Event) -> None:
    first = bench.worker.submit(request(), "one tab")
    assert bench.worker.submit(request(), "another tab") is first
    gate.set()
    bench.worker.wait(first, 5)
    assert bench.worker.submit(request()) is not first  # once it has ended it can be asked for again


def test_the_queue_is_bounded(bench: Bench, gate: threading.Event) -> None:
    bench.worker.submit(request(0))
    until(lambda: bench.begun == [0])
    for seed in (1, 2, 3):
        bench.worker.submit(request(seed))
    with pytest.raises(SlicescopeError, match="3 jobs are waiting already"):
        bench.worker.submit(request(4))


def test_progress_weighs_the_phases_and_never_goes_back(bench: Bench) -> None:
    seen: list[tuple[str, float]] = []
    job_of: list[Any] = []

    def act(recipe: Any, progress: Any, opener: Any) -> None:
        def tell(phase: str, done: int) -> None:
            progress(phase, done, 4)
            until(lambda: (job_of[0].phase, job_of[0].done) == (phase, done))
            seen.append((phase, job_of[0].fraction))

        until(lambda: bool(job_of))
        for phase, done in (("Opening", 1), ("Profiling", 2), ("Profiling", 4), ("Evaluating dense", 4)):
            tell(phase, done)
        tell("Timing constant-matched", 4)  # the phases between may be left out

    bench.act = act
    asked = comparison(
        Plan(), model=ModelSource(kind="demo"), calibration=TEXT, evaluation=TEXT, calibration_windows=4
    )
    job_of.append(job := bench.worker.submit(asked))
    bench.worker.wait(job, 5)
    fractions = [fraction for _, fraction in seen]
    assert [phase for phase, _ in seen[:4]] == ["Opening", "Profiling", "Profiling", "Evaluating dense"]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert 0.0 < fractions[1] < fractions[3] < 0.5
    assert fractions[-1] == pytest.approx(1.0)


def test_a_running_job_is_cancelled_at_its_next_batch(bench: Bench, gate: threading.Event) -> None:
    batches: list[int] = []

    def act(recipe: Any, progress: Any, opener: Any) -> None:
        for batch in range(100):
            progress("Profiling", batch, 100)
            batches.append(batch)
            if batch == 2:
                gate.wait(10)

    bench.act = act
    job = bench.worker.submit(request())
    until(lambda: len(batches) == 3)
    bench.worker.cancel(job)
    assert job.cancelling
    bench.let_go(gate)
    assert bench.worker.wait(job, 5)
    assert job.state == "cancelled"
    assert batches == [0, 1, 2]
    assert job.error == ""


def test_a_waiting_job_is_cancelled_at_once(bench: Bench, gate: threading.Event) -> None:
    bench.worker.submit(request(0))
    until(lambda: bench.begun == [0])
    waiting = bench.worker.submit(request(1))
    bench.worker.cancel(waiting)
    assert waiting.state == "cancelled"
    gate.set()
    last = bench.worker.submit(request(2))
    bench.worker.wait(last, 5)
    assert bench.begun == [0, 2]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PlanError("The target is too high: lower it."), "The target is too high: lower it."),
        (TypeError("no such argument"), "It stopped at an unexpected TypeError: no such argument."),
        (RuntimeError("first line\nsecond"), "It stopped at an unexpected RuntimeError: first line."),
    ],
)
def test_a_failure_is_a_sentence_and_the_worker_survives_it(
    bench: Bench, error: Exception, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    def act(recipe: Any, progress: Any, opener: Any) -> None:
        if recipe.seed == 0:
            raise error

    bench.act = act
    failed, following = bench.worker.submit(request(0)), bench.worker.submit(request(1))
    assert bench.worker.wait(following, 5)
    assert (failed.state, failed.error) == ("failed", sentence)
    assert following.state == "done"
    assert bool(caplog.records) != isinstance(error, SlicescopeError)  # only a defect goes to the log


def open_now(bench: Bench) -> str | None:
    report = bench.worker.report
    return report.source.location if report and report.source else None


def test_one_model_is_open_at_a_time(bench: Bench) -> None:
    held_while_opening: list[Any] = []
    original = bench.open

    def opener(source: ModelSource) -> Any:
        held_while_opening.append(bench.engines[0]._held)
        return original(source)

    bench.engines[0]._opener = opener
    bench.act = lambda recipe, progress, open_model: open_model(recipe.model)
    for each in (request(0, "a/x"), request(1, "a/x"), request(2, "a/y")):
        bench.worker.wait(bench.worker.submit(each), 5)
    assert bench.opened == ["a/x", "a/y"]  # the second job finds the model open
    assert held_while_opening == [None, None]  # and the first is closed before the other is read
    until(lambda: open_now(bench) == "a/y")
    half = ModelSource(kind="hub", location="a/y", dtype="bfloat16")
    bench.worker.wait(bench.worker.submit(Load(half)), 5)
    assert bench.opened == ["a/x", "a/y", "a/y"]  # another dtype is another model


def test_unloading_ends_the_engine_and_starts_a_fresh_one(bench: Bench) -> None:
    bench.worker.wait(bench.worker.submit(Load(ModelSource(kind="hub", location="a/x"))), 5)
    until(lambda: open_now(bench) == "a/x")
    assert bench.worker.report and bench.worker.report.dtype == "bfloat16"
    bench.worker.wait(bench.worker.submit(Unload()), 5)
    until(lambda: bench.worker.report is not None)
    assert open_now(bench) is None
    assert len(bench.engines) == 2
    following = bench.worker.submit(request())
    assert bench.worker.wait(following, 5)
    assert following.state == "done"


def test_a_model_that_cannot_be_opened_leaves_none_open(bench: Bench) -> None:
    bench.worker.wait(bench.worker.submit(Load(ModelSource(kind="hub", location="a/x"))), 5)
    bench.unopenable.add("a/y")
    job = bench.worker.submit(Load(ModelSource(kind="hub", location="a/y")))
    bench.worker.wait(job, 5)
    assert (job.state, job.error) == ("failed", "It is not there.")
    until(lambda: open_now(bench) is None)


class Road:
    """The way from the Hub: bytes come while a test lets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrived, self.left = threading.Event(), threading.Event()
        self.error: Exception | None = None
        monkeypatch.setattr(jobs, "fetch_for", lambda recipe, progress, asks: self.come(progress))
        monkeypatch.setattr(jobs, "fetch_missing", lambda source, progress, asks: self.come(progress))

    def come(self, progress: Any) -> None:
        try:
            progress("Fetching", 0, 1)
            done = 0
            while not self.arrived.wait(0.01):
                progress("Fetching", done := min(done + 2**20, 2**29), 2**30)
            if self.error:
                raise self.error
        finally:
            self.left.set()


def test_other_jobs_run_while_a_model_is_fetched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    road = Road(monkeypatch)
    far, near = bench.worker.submit(request(1, "far/away")), bench.worker.submit(request(2))
    assert bench.worker.wait(near, 5)
    assert (near.state, far.state, far.fetching) == ("done", "queued", True)
    until(lambda: far.done > 0)
    assert 0 < far.share < 1
    assert re.match(r"Fetching \d+\sMiB of 1\.00\sGiB", wording.progress(far, 0))
    road.arrived.set()
    assert bench.worker.wait(far, 5)
    assert far.share == 1
    assert (far.state, far.fetching) == ("done", False)
    assert bench.begun == [2, 1]


def test_fetching_is_shown_before_the_first_byte() -> None:
    job = jobs.Job(1, request(1, "far/away"), "", fetching=True)
    assert (job.share, job.seconds_left) == (0.0, None)
    assert wording.progress(job, 0) == "Fetching: asking the Hub"


def test_fetching_is_cancelled_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    road = Road(monkeypatch)
    job = bench.worker.submit(Load(ModelSource(kind="hub", location="far/away")))
    until(lambda: job.total > 1)
    bench.worker.cancel(job)
    assert job.state == "cancelled"
    assert road.left.wait(1.0)
    assert bench.worker.active == ()
    assert bench.opened == []


@pytest.mark.parametrize(
    ("error", "told"),
    [(SlicescopeError("It is gated."), "It is gated."), (KeyError("x"), "unexpected KeyError")],
)
def test_what_cannot_be_fetched_is_one_sentence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    road = Road(monkeypatch)
    road.error = error
    road.arrived.set()
    job = bench.worker.submit(request(1, "far/away"))
    assert bench.worker.wait(job, 5)
    assert job.state == "failed"
    assert told in job.error
    assert bench.begun == []


def load(bench: Bench, location: str, owner: str) -> None:
    source = ModelSource(kind="hub", location=location)
    assert bench.worker.wait(bench.worker.submit(Load(source), owner), 5)


def test_who_had_the_model_that_another_closed_is_told_once(bench: Bench) -> None:
    load(bench, "a/x", "ann")
    opened = bench.worker.opened
    assert opened and (opened.source.location, opened.owner) == ("a/x", "ann")
    bench.act = lambda recipe, progress, open_model: open_model(recipe.model)
    assert bench.worker.wait(bench.worker.submit(request(0, "a/x"), "cat"), 5)  # uses it too
    load(bench, "a/y", "bob")
    for owner in ("ann", "cat"):
        (closed,) = bench.worker.take_closed(owner)
        assert (closed.source.location, closed.instead and closed.instead.location) == ("a/x", "a/y")
        assert bench.worker.take_closed(owner) == []
    assert wording.was_closed(closed) == (
        "**a/x** is closed, since another person opened **a/y**. Your next job on it opens it again."
    )
    assert bench.worker.take_closed("bob") == []
    opened = bench.worker.opened
    assert opened and (opened.source.location, opened.owner) == ("a/y", "bob")
    opened.since -= 240
    assert wording.closes(opened, "ann") == "This closes **a/y**, which another person opened 4 minutes ago."
    assert wording.closes(opened, "bob") == "This closes **a/y**, which you opened 4 minutes ago."
    load(bench, "a/z", "bob")  # one's own change is no news
    assert bench.worker.take_closed("bob") == []


@pytest.mark.parametrize("how", ["unload", "unopenable", "stop now", "death"])
def test_a_model_that_is_closed_without_another_is_told_too(
    bench: Bench, gate: threading.Event, how: str
) -> None:
    load(bench, "a/x", "ann")
    if how == "unload":
        bench.worker.wait(bench.worker.submit(Unload(), "bob"), 5)
    elif how == "unopenable":
        bench.unopenable.add("a/y")
        load(bench, "a/y", "bob")
    else:
        job = bench.worker.submit(request(1, "a/x"), "bob")
        until(lambda: bench.begun == [1])
        if how == "stop now":
            bench.worker.stop_now(job)
        else:
            assert bench.worker._child
            bench.worker._child.kill()
    until(lambda: bench.worker.opened is None)
    (closed,) = bench.worker.take_closed("ann")
    assert closed.source.location == "a/x"
    assert bench.worker.take_closed("bob") == []
    if how != "unopenable":
        assert "since another person ended the process that held it" in wording.was_closed(closed)


def test_stopping_cancels_what_is_left(bench: Bench, gate: threading.Event) -> None:
    running, waiting = bench.worker.submit(request(0)), bench.worker.submit(request(1))
    until(lambda: bench.begun == [0])
    bench.worker.stop()
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    with pytest.raises(SlicescopeError, match="shutting down"):
        bench.worker.submit(request(2))


def test_a_real_profile_of_a_tiny_model(tiny_folder: Any, tmp_path: Any) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The state of the Union is strong. " * 40)
    worker = Worker()
    real = ProfileRequest(
        model=ModelSource.parse(str(tiny_folder)),
        text=TextSource.parse(str(text), "calibration"),
        windows=3,
        window_length=16,
    )
    job = worker.submit(real)
    assert worker.wait(job, 60)
    assert job.state == "done", job.error
    assert job.key and find_run(job.key).request == real
    worker.stop()


def test_the_worker_does_not_need_streamlit() -> None:
    code = "import sys, app.jobs, app.wording, app.tables; assert 'streamlit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def wish(target: float) -> PreviewRequest:
    return PreviewRequest(run="0123456789ab", plan=Plan(target=target), evaluation=TEXT)


class Slow:
    """Stands in for the previewer: measures for as long as a test likes."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.forgotten = 0
        self.go_on = threading.Event()
        self.error: Exception | None = None

    def preview(self, recipe: PreviewRequest, progress: Any, opener: Any) -> Any:
        self.begun.append(recipe.plan.target)
        while not self.go_on.wait(0.005):
            progress("Previewing", 0, 1)
        if self.error:
            raise self.error
        return f"measured {recipe.plan.target}"

    def forget(self) -> None:
        self.forgotten += 1


@pytest.fixture
def slow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow()
    monkeypatch.setattr(bench.engines[0], "_previewer", slow)
    yield slow
    slow.go_on.set()


def ask(worker: Worker, target: float, owner: str = "me") -> Any:
    return worker.preview(wish(target), owner)


def test_preview_is_measured_once_and_kept(bench: Bench, slow: Slow) -> None:
    slow.go_on.set()
    assert ask(bench.worker, 0.2) is None
    until(lambda: ask(bench.worker, 0.2) == "measured 0.2")
    assert slow.begun == [0.2]


def test_newer_wish_of_the_same_owner_overtakes(bench: Bench, slow: Slow) -> None:
    ask(bench.worker, 0.2)
    until(lambda: slow.begun == [0.2])
    for target in (0.3, 0.4):
        assert ask(bench.worker, target) is None
    until(lambda: len(slow.begun) >= 2)
    slow.go_on.set()
    until(lambda: ask(bench.worker, 0.4) == "measured 0.4")
    assert wish(0.2).key not in bench.worker._previewed


def test_wish_of_somebody_else_does_not_overtake(bench: Bench, slow: Slow) -> None:
    ask(bench.worker, 0.2)
    until(lambda: slow.begun == [0.2])
    ask(bench.worker, 0.3, "you")
    slow.go_on.set()
    until(lambda: ask(bench.worker, 0.3, "you") == "measured 0.3")
    assert ask(bench.worker, 0.2) == "measured 0.2"
    assert slow.begun == [0.2, 0.3]


def test_jobs_go_before_previews(bench: Bench, slow: Slow) -> None:
    ask(bench.worker, 0.2)
    until(lambda: slow.begun == [0.2])
    job = bench.worker.submit(request())
    assert bench.worker.wait(job, 10)
    assert job.state == "done"
    slow.go_on.set()
    until(lambda: ask(bench.worker, 0.2) == "measured 0.2")  # asked again, measured again


def test_preview_that_fails_is_a_sentence_and_the_worker_goes_on(bench: Bench, slow: Slow) -> None:
    slow.go_on.set()
    slow.error = PlanError("That cannot be met.")
    until(lambda: ask(bench.worker, 0.2) == "That cannot be met.")
    slow.error = ValueError("a defect\nof two lines")
    until(lambda: "unexpected ValueError" in str(ask(bench.worker, 0.3)))
    slow.error = None
    until(lambda: ask(bench.worker, 0.4) == "measured 0.4")


def test_another_model_forgets_what_previews_kept(bench: Bench, slow: Slow) -> None:
    before = slow.forgotten
    for location in ("a/b", "a/b", "a/c"):
        assert bench.worker.wait(bench.worker.submit(Load(ModelSource(kind="hub", location=location))), 10)
    assert slow.forgotten == before + 2


def test_one_person_cannot_fill_the_queue(bench: Bench, gate: threading.Event, monkeypatch: Any) -> None:
    monkeypatch.setattr(jobs, "OWNER_LIMIT", 2)
    bench.worker.submit(request(0), "me")
    until(lambda: bench.begun == [0])
    for seed in (1, 2):
        bench.worker.submit(request(seed), "me")
    with pytest.raises(SlicescopeError, match="2 jobs of yours are waiting"):
        bench.worker.submit(request(3), "me")
    assert bench.worker.submit(request(3), "you").state == "queued"


def test_a_job_that_does_not_stop_is_stopped_with_its_engine(
    bench: Bench, gate: threading.Event, monkeypatch: Any
) -> None:
    monkeypatch.setattr(job_module, "PATIENCE", 0.05)
    job, following = bench.worker.submit(request(0)), bench.worker.submit(request(1))
    until(lambda: bench.begun == [0])
    assert not job.stuck
    bench.worker.cancel(job)
    until(lambda: job.stuck)
    gate.set()  # for those that follow; the first is still on its way to the gate's other side
    bench.worker.stop_now(job)
    assert job.state == "cancelled"
    assert bench.worker.wait(following, 5)
    assert following.state == "done"
    assert len(bench.engines) == 2


def nobody(owner: str) -> bool:
    return False


def test_a_job_has_a_limit_of_time(bench: Bench, gate: threading.Event) -> None:
    bench.worker._seconds = 600.0
    job, following = bench.worker.submit(request(0)), bench.worker.submit(request(1))
    until(lambda: bench.begun == [0])
    bench.worker.tend(nobody)
    assert not job.cancelling
    bench.worker._seconds = 0.0
    bench.worker.tend(nobody)
    assert job.cancelling
    bench.worker._seconds = 600.0
    bench.let_go(gate)
    assert bench.worker.wait(following, 5)
    assert (job.state, following.state) == ("failed", "done")
    assert "which is all the time that this server gives one job" in job.error


def test_a_job_that_is_too_long_and_does_not_stop_is_stopped_with_its_engine(
    bench: Bench, gate: threading.Event, monkeypatch: Any
) -> None:
    monkeypatch.setattr(job_module, "PATIENCE", 0.05)
    bench.worker._seconds = 0.0
    job = bench.worker.submit(request(0))
    until(lambda: bench.begun == [0])
    bench.worker.tend(nobody)
    until(lambda: job.stuck)
    bench.worker.tend(nobody)
    assert (job.state, len(bench.engines)) == ("failed", 2)
    assert "all the time" in job.error


def test_what_its_owner_cancelled_has_not_failed_when_its_time_is_over(
    bench: Bench, gate: threading.Event
) -> None:
    job = bench.worker.submit(request(0))
    until(lambda: bench.begun == [0])
    bench.worker.cancel(job)
    bench.worker._seconds = 0.0
    bench.worker.tend(nobody)
    bench.let_go(gate)
    assert bench.worker.wait(job, 5)
    assert (job.state, job.error) == ("cancelled", "")


def test_places_of_people_who_are_gone_are_free_again(bench: Bench, gate: threading.Event) -> None:
    running = bench.worker.submit(request(0), "gone")
    until(lambda: bench.begun == [0])
    waiting, mine = bench.worker.submit(request(1), "gone"), bench.worker.submit(request(2), "me")
    shared = bench.worker.submit(request(3), "gone")
    assert bench.worker.submit(request(3), "me") is shared
    bench.worker.tend("gone".__eq__)
    assert [job.state for job in (running, waiting, mine, shared)] == [
        "running",
        "cancelled",
        "queued",
        "queued",
    ]
    gate.set()
    assert bench.worker.wait(shared, 5)
    assert running.state == "done"


def test_stopping_a_waiting_job_leaves_the_running_one_alone(bench: Bench, gate: threading.Event) -> None:
    running, waiting = bench.worker.submit(request(0)), bench.worker.submit(request(1))
    until(lambda: bench.begun == [0])
    bench.worker.stop_now(waiting)
    assert (running.state, waiting.state) == ("running", "cancelled")
    assert len(bench.engines) == 1


@pytest.mark.parametrize(
    ("ending", "told"),
    [(-9, "ran out of memory"), (-11, "ended by SIGSEGV"), (3, "exit code 3"), (None, "None")],
)
def test_a_dead_engine_fails_its_job_and_the_next_one_gets_a_fresh_one(
    bench: Bench, gate: threading.Event, ending: int | None, told: str
) -> None:
    job, following = bench.worker.submit(request(0)), bench.worker.submit(request(1))
    until(lambda: bench.begun == [0] and bench.worker.report is not None)
    bench.ending = ending
    bench.worker._child.kill()  # type: ignore[union-attr]
    assert bench.worker.wait(job, 5)
    gate.set()
    assert bench.worker.wait(following, 5)
    assert (job.state, following.state) == ("failed", "done")
    assert told in job.error
    assert "fewer or shorter windows" in job.error


def test_an_engine_that_dies_at_birth_is_not_born_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[int] = []

    def launch() -> Child:
        ours, theirs = multiprocessing.Pipe()
        born.append(len(born))
        theirs.close()
        return Child(ours, lambda: None, lambda: 1, None)

    worker = Worker(launch)
    until(lambda: worker._child is None)
    assert len(born) == 1
    job = worker.submit(request())
    assert worker.wait(job, 5)
    assert (job.state, len(born)) == ("failed", 2)
    assert "exit code 1" in job.error
    worker.stop()


# Across servers


def dead(name: str) -> str:
    """The name as a process that is gone would have written it."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")


def leave_to_the_next_server() -> None:
    """Make the notes of this process those of one that is gone."""
    for path in queue_folder().iterdir():
        path.rename(path.with_name(dead(path.name)))


def test_what_waits_is_written_down_until_it_is_over(bench: Bench, gate: threading.Event) -> None:
    jobs = [bench.worker.submit(request(seed), "me") for seed in range(3)]
    until(lambda: bench.begun == [0])
    assert len(list(queue_folder().iterdir())) == 3
    bench.worker.cancel(jobs[2])
    assert len(list(queue_folder().iterdir())) == 2
    gate.set()
    bench.worker.wait(jobs[1], 5)
    until(lambda: list(queue_folder().iterdir()) == [])


def test_loading_and_unloading_are_not_written_down(bench: Bench, gate: threading.Event) -> None:
    bench.worker.submit(request(0))
    until(lambda: bench.begun == [0])
    bench.worker.submit(Load(ModelSource(kind="hub", location="a/b")))
    bench.worker.submit(Unload())
    assert len(list(queue_folder().iterdir())) == 1


def test_a_server_that_dies_while_it_takes_over_loses_no_job(bench: Bench, gate: threading.Event) -> None:
    for seed in (0, 1):
        bench.worker.submit(request(seed), f"owner {seed}")
    bench.worker.stop()
    gate.set()
    leave_to_the_next_server()
    assert len(journal.Journal().take_over()[0]) == 2  # and dies before it has noted them again
    assert len(list(queue_folder().iterdir())) == 2
    leave_to_the_next_server()
    following = Bench()
    with following.worker._changed:
        found = [*following.worker.ended, *following.worker.active]
    assert [job.owner for job in found] == ["owner 0", "owner 1"]
    assert following.worker.wait(found[-1], 5)
    assert list(queue_folder().iterdir()) == []
    following.worker.stop()


def test_the_next_server_takes_over_in_order(bench: Bench, gate: threading.Event) -> None:
    for seed in (2, 0, 1):
        bench.worker.submit(request(seed), f"owner {seed}")
    until(lambda: bench.begun == [2])
    bench.worker.stop()
    assert len(list(queue_folder().iterdir())) == 3  # an end in order keeps them too
    leave_to_the_next_server()
    gate.set()
    following = Bench()
    with following.worker._changed:  # none is on its way from the one to the other
        found = [*following.worker.ended, *following.worker.active]
    assert [job.owner for job in found] == ["owner 2", "owner 0", "owner 1"]
    assert all(job.restarted for job in found)
    assert following.worker.wait(found[-1], 5)
    assert following.begun == [2, 0, 1]
    assert list(queue_folder().iterdir()) == []
    following.worker.stop()


def test_jobs_of_a_living_server_and_of_another_machine_are_left_alone(bench: Bench) -> None:
    bench.worker.submit(request(0))
    bench.worker.wait(bench.worker.submit(request(1)), 5)
    queue_folder().mkdir(exist_ok=True)
    alive = queue_folder() / f"{owned('job')}9.json".replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    foreign = queue_folder() / dead(f"{owned('job')}9.json").replace(platform.node(), "another-machine")
    for path in (alive, foreign):
        path.write_text("{}")
    other = Bench()
    assert other.worker.active == ()
    assert alive.exists()
    assert foreign.exists()
    other.worker.stop()


@pytest.mark.parametrize("content", ["", "{", '{"recipe": {"kind": "dance"}}'])
def test_a_note_that_cannot_be_read_is_told_and_cleared(tmp_path: Any, content: str) -> None:
    queue_folder().mkdir(parents=True)
    (queue_folder() / dead(f"{owned('job')}1.json")).write_text(content)
    good = Bench()
    good.worker.stop()
    (sentence,) = good.worker.lost
    assert sentence.startswith("A job that waited when the server ended is lost")
    assert list(queue_folder().iterdir()) == []


@pytest.mark.parametrize(
    ("file", "view", "recipes"),
    [
        (BUNDLED_RUN / RUN_FILE, "comparison", 2),
        (BUNDLED_SWEEP / RUN_FILE, "map", 6),
        (BUNDLED_CONTEST / RUN_FILE, "ranking", 10),
        (EARLIER, "frontier", 20),
    ],
)
def test_a_note_of_an_earlier_version_becomes_the_same_study(file: Path, view: str, recipes: int) -> None:
    stored = file.read_bytes()
    text = (gzip.decompress(stored) if file.suffix == ".gz" else stored).decode()
    recipe = json.loads(text)["recipe"]
    queue_folder().mkdir(parents=True)
    note = {"submitted": "2026-01-02T03:04:05Z", "owner": "me", "recipe": recipe}
    (queue_folder() / dead(f"{owned('job')}1.json")).write_text(json.dumps(note))
    entries, lost = journal.Journal().take_over()
    assert not lost
    (entry,) = entries
    assert entry.owner == "me"
    assert entry.request.kind == "study"
    assert (entry.request.view, len(entry.request.recipes)) == (view, recipes)
    now: Any = Run.from_json(text, "it").request
    assert {each.line for each in entry.request.recipes} == {each.line for each in now.recipes}


def test_a_draft_of_a_note_was_never_promised(tmp_path: Any) -> None:
    queue_folder().mkdir(parents=True)
    (queue_folder() / dead(f"{owned('job')}1.draft")).write_text("{")
    good = Bench()
    good.worker.stop()
    assert good.worker.lost == ()
    assert list(queue_folder().iterdir()) == []


def test_a_job_that_cannot_be_written_down_is_not_queued(bench: Bench) -> None:
    queue_folder().parent.mkdir(parents=True, exist_ok=True)
    queue_folder().write_text("a file in the way")
    with pytest.raises(StorageError):
        bench.worker.submit(request(0))
    assert bench.worker.active == ()
    queue_folder().unlink()
    job = bench.worker.submit(request(0))
    assert bench.worker.wait(job, 5)


def test_another_process_lists_and_cancels_jobs(bench: Bench, gate: threading.Event) -> None:
    assert journal.listed() == ([], [])
    running, waiting, kept = (bench.worker.submit(request(seed), f"owner {seed}") for seed in range(3))
    until(lambda: bench.begun == [0])
    jobs, _ = journal.listed()
    assert [(job.state, job.entry.owner) for job in jobs] == [
        ("runs", "owner 0"),
        ("waits", "owner 1"),
        ("waits", "owner 2"),
    ]
    for job in jobs[:2]:
        journal.cancel(job.name)
    bench.worker.tend(nobody)
    assert (running.cancelling, waiting.state, kept.state) == (True, "cancelled", "queued")
    bench.let_go(gate)
    assert bench.worker.wait(kept, 5)
    assert (running.state, kept.state) == ("cancelled", "done")
    with pytest.raises(StorageError, match="There is no job"):
        journal.cancel(jobs[0].name)


def test_jobs_that_a_server_left_are_listed_and_cancelled_without_one(
    bench: Bench, gate: threading.Event
) -> None:
    for seed in range(2):
        bench.worker.submit(request(seed))
    until(lambda: bench.begun == [0])
    bench.worker.stop()
    leave_to_the_next_server()
    jobs, _ = journal.listed()
    assert [job.state for job in jobs] == ["waits for a server"] * 2
    journal.cancel(jobs[0].name)
    gate.set()
    following = Bench()
    with following.worker._changed:
        (job,) = [*following.worker.ended, *following.worker.active]
    assert following.worker.wait(job, 5)
    assert following.begun == [1]
    following.worker.stop()
    assert journal.listed() == ([], [])


def test_a_job_that_is_cancelled_as_it_begins_is_not_brought_back(
    bench: Bench, gate: threading.Event
) -> None:
    bench.worker.submit(request(0))
    until(lambda: bench.begun == [0])
    job = bench.worker.submit(request(1))
    journal.cancel(journal.listed()[0][1].name)
    gate.set()
    until(lambda: job.state != "queued")
    bench.worker.tend(nobody)
    assert bench.worker.wait(job, 5)
    assert list(queue_folder().iterdir()) == []


def test_a_note_holds_nothing_but_the_job(bench: Bench, gate: threading.Event) -> None:
    bench.worker.submit(request(7), "me")
    (path,) = queue_folder().iterdir()
    note = json.loads(path.read_text())
    assert set(note) == {"submitted", "owner", "request"}
    assert (note["owner"], note["request"]["seed"]) == ("me", 7)


@pytest.mark.parametrize(
    ("said", "asked", "known"),
    [
        ("cuda:0", None, True),
        ("cuda:0", "cuda", True),
        ("cuda", "cuda:0", True),
        ("cuda:1", "cuda", False),
        ("cpu", "cuda", False),
        ("cpu", "mps", False),
    ],
)
def test_memory_is_what_the_engine_said_of_that_device_or_not_known(
    monkeypatch: pytest.MonkeyPatch, said: str, asked: str | None, known: bool
) -> None:
    report = Report(None, said, "", 3, 7)
    monkeypatch.setattr(state, "worker", lambda: SimpleNamespace(report=report))
    assert state.device_memory(asked) == ((3, 7) if known else None)


def test_memory_of_the_host_is_known_whatever_the_engine_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for report in (Report(None, "cuda", "", 3, 7), None):
        monkeypatch.setattr(state, "worker", lambda report=report: SimpleNamespace(report=report))
        found = state.device_memory("cpu")
        assert found
        assert found[1] > 2**28
