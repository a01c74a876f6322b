"""The worker: order, progress, cancelling, failures, and one open model at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.errors import PlanError, SlicescopeError
from analysis.source import ModelSource
from analysis.texts import TextSource
from app.jobs import Load, Unload, Worker
from slicing.plan import Plan
from slicing.preview import PreviewRecipe
from slicing.runs import CompareRecipe, ProfileRecipe, find_run

TEXT = TextSource(kind="demo", split="calibration")


def recipe(seed: int = 0, model: str = "a/b") -> ProfileRecipe:
    return ProfileRecipe(model=ModelSource(kind="hub", location=model), text=TEXT, windows=4, seed=seed)


class Bench:
    """A worker whose jobs do what a test says, with a model that is only a name."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.opened: list[str] = []
        self.act: Callable[[Any, Any, Any], None] = lambda recipe, progress, opener: None
        self.worker = Worker(self.perform, self.open, limit=3)

    def perform(self, recipe: Any, progress: Any, opener: Any) -> Any:
        self.begun.append(recipe.seed)
        self.act(recipe, progress, opener)
        return SimpleNamespace(key=recipe.key)

    def open(self, source: ModelSource) -> Any:
        self.opened.append(source.location)
        return SimpleNamespace(model=source.location, tokenizer=None)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.worker.stop()
    assert not bench.worker._thread.is_alive()


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
    jobs = [bench.worker.submit(recipe(seed)) for seed in (3, 1, 2)]
    until(lambda: bench.begun == [3])
    assert [bench.worker.position(job) for job in jobs] == [0, 1, 2]
    assert [job.state for job in jobs] == ["running", "queued", "queued"]
    gate.set()
    assert bench.worker.wait(jobs[2], 5)
    assert bench.begun == [3, 1, 2]
    assert [job.state for job in jobs] == ["done"] * 3
    assert [job.key for job in jobs] == [recipe(seed).key for seed in (3, 1, 2)]
    assert bench.worker.active == ()
    assert bench.worker.ended == tuple(jobs)


def test_the_same_task_is_not_queued_twice(bench: Bench, gate: threading.Event) -> None:
    first = bench.worker.submit(recipe(), "one tab")
    assert bench.worker.submit(recipe(), "another tab") is first
    gate.set()
    bench.worker.wait(first, 5)
    assert bench.worker.submit(recipe()) is not first  # once it has ended it can be asked for again


def test_the_queue_is_bounded(bench: Bench, gate: threading.Event) -> None:
    bench.worker.submit(recipe(0))
    until(lambda: bench.begun == [0])
    for seed in (1, 2, 3):
        bench.worker.submit(recipe(seed))
    with pytest.raises(SlicescopeError, match="3 jobs are waiting already"):
        bench.worker.submit(recipe(4))


def test_progress_weighs_the_phases_and_never_goes_back(bench: Bench) -> None:
    seen: list[tuple[str, float]] = []
    job_of: list[Any] = []

    def act(recipe: Any, progress: Any, opener: Any) -> None:
        until(lambda: bool(job_of))
        for phase, done in (("Opening", 1), ("Profiling", 2), ("Profiling", 4), ("Evaluating dense", 4)):
            progress(phase, done, 4)
            seen.append((job_of[0].phase, job_of[0].fraction))
        progress("Evaluating constant-matched", 4, 4)  # the phases between may be left out
        seen.append(("end", job_of[0].fraction))

    bench.act = act
    comparison = CompareRecipe(
        model=ModelSource(kind="demo"), calibration=TEXT, evaluation=TEXT, calibration_windows=4
    )
    job_of.append(job := bench.worker.submit(comparison))
    bench.worker.wait(job, 5)
    fractions = [fraction for _, fraction in seen]
    assert [phase for phase, _ in seen[:4]] == ["Opening", "Profiling", "Profiling", "Evaluating dense"]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert 0.0 < fractions[1] < fractions[3] < 0.5
    assert fractions[-1] == pytest.approx(1.0)
    assert job.seconds_left is not None and job.seconds_left == pytest.approx(0.0)


def test_a_running_job_is_cancelled_at_its_next_batch(bench: Bench, gate: threading.Event) -> None:
    batches: list[int] = []

    def act(recipe: Any, progress: Any, opener: Any) -> None:
        for batch in range(100):
            progress("Profiling", batch, 100)
            batches.append(batch)
            if batch == 2:
                gate.wait(10)

    bench.act = act
    job = bench.worker.submit(recipe())
    until(lambda: len(batches) == 3)
    bench.worker.cancel(job)
    assert job.cancelling
    gate.set()
    assert bench.worker.wait(job, 5)
    assert job.state == "cancelled"
    assert batches == [0, 1, 2]
    assert job.error == ""


def test_a_waiting_job_is_cancelled_at_once(bench: Bench, gate: threading.Event) -> None:
    bench.worker.submit(recipe(0))
    until(lambda: bench.begun == [0])
    waiting = bench.worker.submit(recipe(1))
    bench.worker.cancel(waiting)
    assert waiting.state == "cancelled"
    gate.set()
    last = bench.worker.submit(recipe(2))
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
    failed, following = bench.worker.submit(recipe(0)), bench.worker.submit(recipe(1))
    assert bench.worker.wait(following, 5)
    assert (failed.state, failed.error) == ("failed", sentence)
    assert following.state == "done"
    assert bool(caplog.records) != isinstance(error, SlicescopeError)  # only a defect goes to the log


def test_one_model_is_open_at_a_time(bench: Bench) -> None:
    open_before: list[Any] = []
    original = bench.worker._opener

    def opener(source: ModelSource) -> Any:
        open_before.append(bench.worker.open_model)
        return original(source)

    bench.worker._opener = opener
    bench.act = lambda recipe, progress, open_model: open_model(recipe.model)
    for each in (recipe(0, "a/x"), recipe(1, "a/x"), recipe(2, "a/y")):
        bench.worker.wait(bench.worker.submit(each), 5)
    assert bench.opened == ["a/x", "a/y"]  # the second job finds the model open
    assert open_before == [None, None]  # and the first is closed before the other is read
    held = bench.worker.open_model
    assert held and held[0].location == "a/y"
    half = ModelSource(kind="hub", location="a/y", dtype="bfloat16")
    bench.worker.wait(bench.worker.submit(Load(half)), 5)
    assert bench.opened == ["a/x", "a/y", "a/y"]  # another dtype is another model
    bench.worker.wait(bench.worker.submit(Unload()), 5)
    assert bench.worker.open_model is None


def test_a_model_that_cannot_be_opened_leaves_none_open(bench: Bench) -> None:
    bench.worker.wait(bench.worker.submit(Load(ModelSource(kind="hub", location="a/x"))), 5)

    def opener(source: ModelSource) -> Any:
        raise SlicescopeError("It is not there.")

    bench.worker._opener = opener
    job = bench.worker.submit(Load(ModelSource(kind="hub", location="a/y")))
    bench.worker.wait(job, 5)
    assert (job.state, job.error) == ("failed", "It is not there.")
    assert bench.worker.open_model is None


def test_stopping_cancels_what_is_left(bench: Bench, gate: threading.Event) -> None:
    running, waiting = bench.worker.submit(recipe(0)), bench.worker.submit(recipe(1))
    until(lambda: bench.begun == [0])
    threading.Timer(0.05, gate.set).start()
    bench.worker.stop()
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    with pytest.raises(SlicescopeError, match="shutting down"):
        bench.worker.submit(recipe(2))


def test_a_real_profile_of_a_tiny_model(tiny_folder: Any, tmp_path: Any) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The state of the Union is strong. " * 40)
    worker = Worker()
    real = ProfileRecipe(
        model=ModelSource.parse(str(tiny_folder)),
        text=TextSource.parse(str(text), "calibration"),
        windows=3,
        window_length=16,
    )
    job = worker.submit(real)
    assert worker.wait(job, 60)
    assert job.state == "done", job.error
    assert job.key and find_run(job.key).recipe == real
    worker.stop()


def test_the_worker_does_not_need_streamlit() -> None:
    code = "import sys, app.jobs, app.wording, app.tables; assert 'streamlit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def wish(target: float) -> PreviewRecipe:
    return PreviewRecipe(run="0123456789ab", plan=Plan(target=target), evaluation=TEXT)


class Slow:
    """Stands in for the previewer: measures for as long as a test likes."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.forgotten = 0
        self.go_on = threading.Event()
        self.error: Exception | None = None

    def preview(self, recipe: PreviewRecipe, progress: Any, opener: Any) -> Any:
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
    monkeypatch.setattr(bench.worker, "_previewer", slow)
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
    job = bench.worker.submit(recipe())
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


def test_closing_the_model_forgets_what_previews_kept(bench: Bench, slow: Slow) -> None:
    assert bench.worker.wait(bench.worker.submit(Load(ModelSource(kind="hub", location="a/b"))), 10)
    before = slow.forgotten
    assert bench.worker.wait(bench.worker.submit(Unload()), 10)
    assert slow.forgotten == before + 1
