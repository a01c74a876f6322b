"""The engine as a real process: kills, memory, and what is left of it when its server is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from model_hub import ask, hub_of

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import queue_folder
from app.engine import Do, Ended, Engine, Load, Report, Unload, launch, models_opener
from app.jobs import Worker
from slicing.studies.requests import ProfileRequest
from slicing.studies.store import find_run, list_runs

pytestmark = pytest.mark.timeout(180)


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"it did not happen within {seconds} seconds")


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> ProfileRequest:
    text = tmp_path / "text.txt"
    text.write_text("The state of the Union is strong, and so is the worker that was killed. " * 3000)
    return ProfileRequest(
        model=ModelSource.parse(str(tiny_folder)),
        text=TextSource.parse(str(text), "calibration"),
        windows=3,
        window_length=16,
    )


@pytest.fixture
def long(recipe: ProfileRequest) -> ProfileRequest:
    """The same with so many windows that there is time to interfere."""
    return recipe.model_copy(update={"windows": 3000, "window_length": 64})


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    pid = worker.pid
    worker.stop()
    assert pid is None or not psutil.pid_exists(pid)


def test_a_killed_engine_fails_its_job_alone(
    worker: Worker, recipe: ProfileRequest, long: ProfileRequest
) -> None:
    job, following = worker.submit(long), worker.submit(recipe)
    until(lambda: job.phase == "Profiling" and job.done)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait(following, 60)
    assert job.state == "failed"
    assert "ran out of memory" in job.error
    assert following.state == "done", following.error
    assert [run.key for run in list_runs()[0]] == [recipe.key]
    assert worker.wait(again := worker.submit(recipe.model_copy(update={"seed": 1})), 60)
    assert again.state == "done"


def test_cancel_stops_within_a_batch_and_stop_now_at_once(
    worker: Worker, recipe: ProfileRequest, long: ProfileRequest
) -> None:
    job = worker.submit(long)
    until(lambda: job.phase == "Profiling" and job.done)
    first = worker.pid
    worker.cancel(job)
    assert worker.wait(job, 60)
    assert job.state == "cancelled"
    assert worker.pid == first
    job = worker.submit(long)
    until(lambda: job.phase == "Profiling" and job.done)
    begun = time.monotonic()
    worker.stop_now(job)
    assert job.state == "cancelled"
    assert time.monotonic() - begun < 1.0
    assert worker.pid != first
    assert worker.wait(done := worker.submit(recipe), 60)
    assert done.state == "done"
    assert find_run(recipe.key).request == recipe
    assert first is not None
    until(lambda: not psutil.pid_exists(first) or psutil.Process(first).status() == psutil.STATUS_ZOMBIE)


def test_an_engine_can_be_started_from_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ModuleType("__main__")  # what streamlit puts there before it runs the script
    page.__file__ = str(Path(__file__).parents[2] / "app" / "main.py")
    monkeypatch.setitem(sys.modules, "__main__", page)
    child = launch()
    try:
        assert child.connection.poll(60)
        assert isinstance(child.connection.recv(), Report)
    finally:
        child.kill()
        assert child.ending() == -signal.SIGKILL
        child.connection.close()


def test_jobs_run_while_a_model_is_fetched_and_fetching_stops_at_once(
    recipe: ProfileRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hub/owner/large/main"
    tiny_model("llama", vocab_size=30_000).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    source = ModelSource(kind="hub", location="owner/large")
    with hub_of(tmp_path / "hub") as hub:
        ask(hub, tmp_path / "hf", monkeypatch)
        worker = Worker()
        hub.rate = 2**20
        load = worker.submit(Load(source), "ann")
        until(lambda: load.done)
        hub.stalled.set()
        job = worker.submit(recipe, "bob")
        assert worker.wait(job, 60)
        assert (job.state, load.state, load.fetching) == ("done", "queued", True)
        children = [
            each for each in psutil.Process().children() if "analysis.fetch" in " ".join(each.cmdline())
        ]
        assert len(children) == 1
        begun = time.monotonic()
        worker.cancel(load)
        assert load.state == "cancelled"
        until(lambda: not children[0].is_running())
        assert time.monotonic() - begun < 1.0
        hub.stalled.clear()
        hub.rate = None
        again = worker.submit(Load(source), "ann")
        assert worker.wait(again, 60)
        assert (again.state, again.error) == ("done", "")
        until(lambda: worker.report and worker.report.source == source)
        worker.stop()


def memory_of(worker: Worker) -> int:
    """Bytes that this process and the engine have for themselves."""
    assert worker.pid is not None
    return sum(psutil.Process(pid).memory_info().rss for pid in (os.getpid(), worker.pid))


def test_models_loaded_and_unloaded_leave_no_memory_behind(worker: Worker, tmp_path: Path) -> None:
    """Each model takes 20 MB and is converted, since what is mapped from a file would not count."""
    folder = tmp_path / "wide"
    tiny_model("llama", vocab_size=300_000).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    source = ModelSource.parse(str(folder))
    until(lambda: worker.report)
    assert psutil.Process(worker.pid).nice() > psutil.Process().nice()  # pages answer while it computes
    before, first, held = memory_of(worker), worker.pid, []
    # Within one process: a model in place of another, as when models are compared.
    for turn in range(6):
        each = source.model_copy(update={"dtype": ("float16", "bfloat16")[turn % 2]})
        assert worker.wait(job := worker.submit(Load(each)), 30)
        assert job.state == "done", job.error
        held.append(memory_of(worker))
    assert worker.pid == first
    assert held[-1] - held[1] < 40e6
    until(lambda: worker.report and worker.report.source)
    worker.wait(worker.submit(Unload()), 30)
    until(lambda: worker.report)
    assert worker.report is not None
    assert worker.report.source is None
    assert memory_of(worker) <= 1.1 * before


SERVER = """
import sys, time
from pathlib import Path
from app.jobs import Worker
from slicing.studies.requests import ProfileRequest

if __name__ == "__main__":
    worker = Worker()
    job = worker.submit(ProfileRequest.from_json(Path(sys.argv[1]).read_text(), "it"), "me")
    while not (job.phase == "Profiling" and job.done):
        time.sleep(0.02)
    print(worker.pid, flush=True)
    time.sleep(600)
"""


def test_a_killed_server_takes_its_engine_along_and_the_next_one_goes_on(
    tmp_path: Path, recipe: ProfileRequest, long: ProfileRequest
) -> None:
    script, asked = tmp_path / "server.py", tmp_path / "recipe.json"
    script.write_text(SERVER)
    asked.write_text(long.to_json())
    server = subprocess.Popen(
        [sys.executable, str(script), str(asked)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert server.stdout is not None
    engine = int(server.stdout.readline())
    assert psutil.pid_exists(engine)
    server.kill()
    server.wait()
    server.stdout.close()
    until(lambda: not psutil.pid_exists(engine))
    assert len(list(queue_folder().iterdir())) == 1
    following = Worker()
    (job,) = following.active
    assert (job.task, job.owner, job.restarted) == (long, "me", True)
    until(lambda: job.phase == "Profiling" and job.done)
    following.cancel(job)
    assert following.wait(job, 20)
    assert list(queue_folder().iterdir()) == []
    following.stop()


class Line:
    """A connection's end in this process: gives out what it was given, and keeps what is sent."""

    def __init__(self, *messages: Any) -> None:
        self.messages, self.sent = list(messages), []

    def recv(self) -> Any:
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("where", ["free_memory", "synchronise"])
def test_a_device_that_answers_no_more_is_told_before_the_engine_ends(monkeypatch, where):
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(f"analysis.device.{where}", broken)
    line: Any = Line(Do(1, Load(ModelSource(kind="demo"))), Do(2, Unload()))
    engine = Engine(line, opener=broken)
    on_card = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32))
    engine._held = (ModelSource(kind="demo", device="cpu"), on_card)
    monkeypatch.setattr(engine, "_close", lambda: None)
    engine.run(gone=lambda: None)
    (ended,) = [each for each in line.sent if isinstance(each, Ended)]  # the second task is another engine's
    assert "device-side assert triggered" in ended.error
    assert line.sent[-1] is ended


def test_an_engine_asks_no_device_before_a_model_is_there_and_goes_on_where_one_is_full(monkeypatch):
    def full(device: torch.device) -> tuple[int, int]:
        if device.type == "cuda":
            raise RuntimeError("CUDA error: out of memory")
        return 3, 7

    monkeypatch.setattr("analysis.device.memory_of", full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    model = SimpleNamespace(model=SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float32))
    line: Any = Line(Do(1, Load(ModelSource(kind="demo"))), Do(2, Unload()))
    Engine(line, opener=lambda source: model).run(gone=lambda: None)
    reports = [(each.device, each.free, each.total) for each in line.sent if isinstance(each, Report)]
    assert reports[:2] == [("cpu", 3, 7), ("cuda:0", 0, 0)]
    assert reports[-1] == ("cpu", 3, 7)
    assert [each.outcome for each in line.sent if isinstance(each, Ended)] == ["done", "done"]


def test_an_engine_passes_by_what_models_need_before_the_first_is_there(monkeypatch):
    done: list[str] = []
    monkeypatch.setattr("analysis.device.pass_by_imports", lambda: done.append("passed by"))
    monkeypatch.setattr("slicing.store.open_model", lambda source: done.append(source.label))
    opener = models_opener()
    opener(ModelSource(kind="demo"))
    opener(ModelSource(kind="hub", location="some/model"))
    assert done == ["passed by", ModelSource(kind="demo").label, "some/model"]
