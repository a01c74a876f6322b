"""Faults: a process killed at any moment leaves a folder absent or complete, and the next one succeeds.

The killed processes are forks of this one, so that the libraries are imported once.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.activations import Activations
from analysis.errors import Cancelled, OutOfMemoryError, StorageError
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import cache_folder, runs_folder, write_whole
from slicing.budget import Budget
from slicing.library import Note, annotate, note_of, throw_away, trashed
from slicing.store import load_sliced
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, Trial
from slicing.studies.results import Request
from slicing.studies.run import perform
from slicing.studies.store import BASES_FILE, MODEL_FOLDER, list_runs, load_run

TEXT = "It is a truth universally acknowledged, that a tensor in possession of many rows must want a basis. "


@pytest.fixture
def requests(tiny_folder: Path, tmp_path: Path) -> dict[str, Request]:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 30)
    model, text = ModelSource.parse(str(tiny_folder)), TextSource.parse(str(path), "calibration")
    common: dict[str, Any] = {"calibration_windows": 3, "profile_windows": 2, "window_length": 32}
    common |= {"recipe": Recipe.parse("slice(dynamic, rounding=1)"), "budget": Budget()}
    return {
        "profile": ProfileRequest(model=model, text=text, windows=3, window_length=32, bases=True),
        "compress": CompressRequest(
            model=model, calibration=text, evaluation=text, evaluation_windows=2, **common
        ),
        "trial": Trial(model=model, calibration=text, evaluation=text, evaluation_windows=2, **common),
    }


def in_a_fork(work: Callable[[], object]) -> int:
    """The signal that ended a process doing ``work``, or 0 when it ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(phase: str, part: float) -> Callable[[str, int, int], None]:
    def progress(now: str, done: int, total: int) -> None:
        if now == phase and done >= part * total:
            die()

    return progress


def absent_or_complete(request: Request) -> bool:
    """Whether the run is there; what is there must open."""
    folder = runs_folder() / request.key
    assert list_runs()[1] == []
    if not folder.exists():
        return False
    run = load_run(folder)
    assert run.key == request.key
    if request.kind == "compress":
        load_sliced(ModelSource.parse(str(folder / MODEL_FOLDER)))
    if request.kind == "profile":
        assert (folder / BASES_FILE).is_file()
    return True


def second_start_succeeds(request: Request) -> None:
    perform(request)
    assert absent_or_complete(request)
    left = [path.name for path in runs_folder().iterdir() if path.name not in (".profiles", ".index.json")]
    assert left == [request.key]  # and nothing is left over


@pytest.mark.parametrize("kind", ["profile", "compress", "trial"])
def test_process_killed_at_any_phase_leaves_no_half_run(requests, kind):
    request = requests[kind]
    moments = [(name, part) for name, _ in request.phases() for part in (0.0, 0.5)]
    for phase, part in dict.fromkeys(moments):
        assert in_a_fork(lambda at=(phase, part): perform(request, kill_at(*at))) == signal.SIGKILL, phase
        assert not absent_or_complete(request)
    second_start_succeeds(request)


@pytest.mark.parametrize(
    ("place", "complete"),
    [
        ("slicing.modeling_sliced.SlicedForCausalLM.save_pretrained", False),
        ("transformers.PreTrainedTokenizerFast.save_pretrained", False),
        ("slicing.store._card", False),
        ("pathlib.Path.write_text", False),
        ("pathlib.Path.chmod", False),
        ("analysis.storage._put_in_place", False),
        ("shutil.rmtree", True),  # the folder is in its place already, and the draft is cleared away
    ],
)
def test_process_killed_while_saving_leaves_no_half_model(requests, monkeypatch, place, complete):
    request = requests["compress"]
    with monkeypatch.context() as patch:
        patch.setattr(place, die)
        assert in_a_fork(lambda: perform(request)) == signal.SIGKILL
    found = absent_or_complete(request)
    assert not found or complete
    second_start_succeeds(request)


def test_process_killed_while_it_replaces_a_run_loses_neither(requests, monkeypatch):
    request = requests["profile"]
    first = perform(request)
    rename, calls = Path.rename, []

    def die_at_the_second(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:  # the old folder has stepped aside, the new one is not there yet
            die()
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die_at_the_second)
        assert in_a_fork(lambda: perform(request)) == signal.SIGKILL
    assert not (runs_folder() / request.key).exists()

    def stop(phase: str, done: int, total: int) -> None:
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        perform(request, stop)
    assert load_run(runs_folder() / request.key).created == first.created  # the old one is back
    second_start_succeeds(request)


def test_what_a_killed_writer_of_a_file_left_is_cleared_by_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        assert in_a_fork(lambda: write_whole(tmp_path / "x", b"new")) == signal.SIGKILL
    write_whole(tmp_path / "x", b"newer")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["x"]


def test_run_that_had_stepped_aside_when_its_process_was_killed_can_be_named(requests, monkeypatch):
    request = requests["profile"]
    perform(request)
    with monkeypatch.context() as patch:
        patch.setattr("analysis.storage._put_in_place", lambda draft, path, _: stepped_aside(draft, path))
        assert in_a_fork(lambda: perform(request)) == signal.SIGKILL
    annotate(request.key, Note(label="Bennet"))
    assert note_of(request.key).label == "Bennet"


def stepped_aside(draft: Path, path: Path) -> None:
    path.rename(path.with_name(f"{draft.name}-old"))
    die()


def test_trash_holds_no_half_run_when_the_process_that_empties_it_is_killed(requests, monkeypatch):
    run = perform(requests["profile"])
    with monkeypatch.context() as patch:
        patch.setattr("slicing.library.KEPT_IN_TRASH", 0)
        patch.setattr(os, "unlink", die)
        assert in_a_fork(lambda: throw_away(run.key)) == signal.SIGKILL
    assert trashed() == []
    assert list((runs_folder() / ".trash").iterdir()) == []


def test_profile_of_a_run_that_was_replaced_goes(requests):
    for _ in range(2):  # the seconds that it took are part of a profile
        perform(requests["profile"])
    assert len(list((runs_folder() / ".profiles").iterdir())) == 1


@pytest.mark.parametrize("kind", ["profile", "compress", "trial"])
def test_cancelling_at_any_phase_leaves_nothing(requests, kind):
    request = requests[kind]
    for phase, _ in request.phases():

        def progress(now: str, done: int, total: int, at: str = phase) -> None:
            if now == at:
                raise Cancelled("Stopped.")

        with pytest.raises(Cancelled):
            perform(request, progress)
        assert list(runs_folder().iterdir()) == []
    second_start_succeeds(request)


def test_memory_that_runs_out_tells_the_need_what_there_was_and_the_levers(requests, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr("slicing.slicer._Rotated.advance", fail)
    with pytest.raises(OutOfMemoryError) as error:
        perform(requests["compress"])
    said = str(error.value)
    for part in ("it takes about", "dense weights", "GB were free", "use shorter or fewer windows"):
        assert part in said
    assert list(runs_folder().iterdir()) == []


def little_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = type("usage", (), {"free": free, "total": 10**12, "used": 0})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)


@pytest.mark.parametrize("kind", ["profile", "compress"])
def test_disk_too_small_is_told_before_anything_is_written(requests, monkeypatch, kind):
    little_space(monkeypatch, 1000)
    with pytest.raises(StorageError, match=r"needs 0\.\d\d GB, but its disk has 0\.00 GB left: free some"):
        perform(requests[kind])
    assert list(runs_folder().iterdir()) == []


def spilled(count: int) -> tuple[Activations, list[Any]]:
    kept, tensors = Activations(torch.device("cpu"), 0, 0), [torch.randn(2, 3, 4) for _ in range(count)]
    for tensor in tensors:
        kept.append(tensor)
    return kept, tensors


def test_activations_come_back_from_disk_as_they_were_and_narrower():
    kept, tensors = spilled(3)
    assert kept.spilled == 3
    for index, tensor in enumerate(tensors):
        assert torch.equal(kept.take(index, torch.device("cpu")), tensor)
        kept[index] = tensor[..., :2]
        assert torch.equal(kept.take(index, torch.device("cpu")), tensor[..., :2])
    (folder,) = cache_folder().iterdir()
    del kept
    assert not folder.exists()


def test_memory_is_used_before_the_disk():
    kept = Activations(torch.device("cpu"), 10**9, 100)
    for size in (20, 20, 5):
        kept.append(torch.zeros(size))
    assert kept.homes == ["host", "disk", "host"]


def test_full_disk_under_spilled_activations_is_one_sentence(monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        little_space(patch, 10)
        with pytest.raises(StorageError, match="free some"):
            spilled(1)

    def write_again() -> Path:
        kept, tensors = spilled(1)
        monkeypatch.setattr("analysis.activations.write_numbers", fail)
        with pytest.raises(StorageError, match="the disk is full; free some space"):
            kept[0] = tensors[0]
        return kept._path(0).parent

    folder = write_again()
    gc.collect()  # the error's traceback knew the object
    assert not folder.exists()


def test_activations_of_a_killed_process_are_cleared_by_the_next():
    def work() -> None:
        kept, _ = spilled(1)
        die(kept)

    assert in_a_fork(work) == signal.SIGKILL
    (left,) = cache_folder().iterdir()
    kept, _ = spilled(1)
    assert not left.exists()
    assert len(list(cache_folder().iterdir())) == 1
    del kept
