"""Trials on a real Ray cluster of this machine: the same runs, each once, whoever dies on the way."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from serving import free_port

import analysis.sources.opening
from analysis.errors import Cancelled, OutOfMemoryError, PlanError, SlicescopeError
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from slicing import cluster
from slicing.budget import Budget
from slicing.cluster import on_ray, share_out
from slicing.plans import Plan
from slicing.store import open_model
from slicing.studies.requests import Judged
from slicing.studies.results import Run
from slicing.studies.run import Trials, perform
from slicing.studies.store import finished_trials, keep_run
from slicing.studies.study import Study, contest, recipes, sweep

TEXT = "What many hands do at once is no other than what one hand does in turn, only that it is done sooner. "

needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")


@pytest.fixture
def study(tiny_folder: Path, tmp_path: Path) -> Study:
    for name, text in (("calibration", TEXT), ("evaluation", TEXT[::-1])):
        (tmp_path / f"{name}.txt").write_text(text * 20)
    return sweep(
        Plan(rounding=1),
        (0.0, 0.2),
        (0.2, 0.4),
        model=ModelSource.parse(str(tiny_folder), device="cpu", dtype="float32"),
        calibration=TextSource.parse(str(tmp_path / "calibration.txt"), "calibration"),
        calibration_windows=3,
        profile_windows=2,
        evaluation=TextSource.parse(str(tmp_path / "evaluation.txt"), "evaluation"),
        evaluation_windows=9,
        window_length=24,
    )


@pytest.fixture
def ranked(study: Study) -> Study:
    """With a search, and two seeds."""
    lines = ("slice(constant)", "slice(dynamic, base=0)", "slice(searched)")
    judged = {name: getattr(study, name) for name in Judged.model_fields}
    return contest([each.in_form(Plan(rounding=1)) for each in recipes(*lines)], 0.3, seeds=(0, 1), **judged)


@pytest.fixture(scope="module", autouse=True)
def _token() -> Iterator[None]:
    """Ray's ports are open to the network; the token that guards them is not to go to the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def ray_on_two(_token: None) -> Iterator[str]:
    """A cluster of two CPU slots that was there before us: its address."""
    port = free_port()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of its sockets must be short
    # fmt: off
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
        "--num-cpus=2", "--num-gpus=0", "--include-dashboard=false", f"--temp-dir={folder}",
        f"--object-store-memory={2**27}",
    ]
    # fmt: on
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        try:
            _until(lambda: _answers(port) or head.poll() is not None, 240)
            assert head.poll() is None, "Ray did not start."
            yield f"127.0.0.1:{port}"
        finally:
            processes = psutil.Process(head.pid).children(recursive=True)
            head.terminate()  # and it ends the others
            head.wait(60)
            for process in psutil.wait_procs(processes, 10)[1]:
                process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def _noting() -> Callable[[ModelSource], OpenModel]:
    """An opener that notes in our home who opened a model, and that dies in the middle when told.

    Everything is inside it because workers cannot import this file: Ray sends it as it stands.
    """

    def opener(source: ModelSource) -> OpenModel:
        import os
        import signal
        import time
        from contextlib import suppress
        from pathlib import Path

        from slicing.studies import run

        home = Path(os.environ["SLICESCOPE_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        with (home / "opened").open("a") as file:
            file.write(f"{os.getpid()}\n")
        real = run._run_trial

        def tried(trial: Any, *place: Any) -> Any:
            with (home / "begun").open("a") as file:
                file.write(f"{trial.key}\n")
            if (home / "fail").exists() and trial.budget:
                raise PlanError("No such plan: choose another.")
            found = real(trial, *place)
            if trial.budget and trial.budget.amount == 0.4:
                with suppress(FileNotFoundError):  # nobody is to die, or another one was quicker
                    (home / "die").rename(home / "died")
                    os.kill(os.getpid(), signal.SIGKILL)
            # The other one waits for the one in the place of the dead, which is to do its share.
            while (home / "died").exists() and len((home / "opened").read_text().split()) < 3:
                time.sleep(0.05)
            return found

        run._run_trial = tried
        return run.open_model(source)

    return opener


class Home:
    """What the workers of ``_noting`` left in our home, and what they are told there."""

    def __init__(self) -> None:
        self.folder = Path(os.environ["SLICESCOPE_HOME"])
        self.folder.mkdir(parents=True, exist_ok=True)

    def tell(self, name: str) -> None:
        (self.folder / name).touch()

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def workers_live(self) -> bool:
        return any(psutil.pid_exists(int(pid)) for pid in self.lines("opened"))


class Kept:
    """Keeps runs, and the order in which they came."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, run: Run) -> None:
        self.keys.append(run.key)
        keep_run(run)


def _silent(*_: Any) -> None:
    """Progress that nobody follows."""


def test_the_driver_reads_no_weights_while_others_work(ranked, monkeypatch):
    """It would keep a model on the first card, beside a worker's."""
    read: list[str] = []
    real = analysis.sources.opening._read_weights

    def noted(source: ModelSource, *where: Any, **options: Any) -> Any:
        read.append(source.label)
        return real(source, *where, **options)

    monkeypatch.setattr(analysis.sources.opening, "_read_weights", noted)
    given: list[int] = []

    def executor(recipes: Any, hand_over: Any, progress: Any) -> None:
        assert not read
        given.append(len(recipes))

    few = ranked.model_copy(update={"recipes": ranked.recipes[:2], "seeds": (0,)})
    assert perform(few, executor=executor).result.measurements  # type: ignore[union-attr]
    assert given == [len(few.trials())]
    assert len(read) == 1
    read.clear()
    with pytest.raises(PlanError, match="of the 3 blocks"):
        perform(few.model_copy(update={"budgets": (Budget.parse("parameters=0.999"),)}), executor=executor)
    assert not read


def test_a_worker_takes_the_card_that_ray_shows_it():
    asked: list[str] = []

    def opener(source: ModelSource) -> Any:
        asked.append(source.device)
        return OpenModel(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]

    for gpus, device in ((1, "cuda:1"), (0, "cuda:1"), (2, "cuda:2,3"), (1, "cuda:1+cpu"), (1, "auto")):
        worker = cluster._Worker(opener, torch.get_num_threads(), "another machine", None, gpus)
        worker._trials_on(ModelSource(kind="demo", device=device))
    assert asked == ["cuda", "cuda:1", "cuda:0,1", "cuda+cpu", "auto"]


def test_the_driver_reads_no_weights_where_all_is_carried_out(ranked, monkeypatch):
    """Trials, and those of the baseline at the sizes that they leave: it puts them together."""
    study = ranked.model_copy(update={"recipes": ranked.recipes[:2], "seeds": (0,), "matched": True})
    opened = open_model(study.model)
    expected = perform(study, opener=lambda _: opened).result
    monkeypatch.setenv("SLICESCOPE_HOME", os.environ["SLICESCOPE_HOME"] + "-other")

    def no_weights(*_: Any, **__: Any) -> None:
        raise AssertionError("the driver opens no model")

    def executor(trials: Any, hand_over: Any, progress: Any) -> None:
        rounds.append(len(trials))
        for trial in trials:
            hand_over(Trials(opened).make(trial))

    rounds: list[int] = []
    monkeypatch.setattr(analysis.sources.opening, "_read_weights", no_weights)
    run = perform(study, executor=executor)
    assert rounds == [len(study.trials()), len(study.matches())]
    assert run.environment.device == "cpu"
    for name in ("shape", "calibration", "evaluation"):
        assert getattr(run.result, name) == getattr(expected, name)
    assert run.result.profile.measurements.keys() == expected.profile.measurements.keys()
    for name in ("measurements", "matched"):
        pairs = zip(getattr(run.result, name), getattr(expected, name), strict=True)
        assert all(a.evaluation.perplexity == pytest.approx(b.evaluation.perplexity) for a, b in pairs)


@needs_ray
def test_a_contest_on_ray_is_the_contest_here(ranked, ray_on_two, monkeypatch, tmp_path, capfd):
    here = perform(ranked).result
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "another"))
    seen: list[tuple[int, int]] = []

    def executor(recipes: Any, hand_over: Any, progress: Any) -> None:
        def counted(run: Run) -> None:
            handed.append(run.key)
            hand_over(run)

        def listen(phase: str, done: int, total: int) -> None:
            seen.append((done, total))
            progress(phase, done, total)

        on_ray(ray_on_two, _noting())(recipes, counted, listen)

    handed: list[str] = []
    there = perform(ranked, executor=executor).result
    wanted = [trial.key for trial in ranked.trials()]
    assert sorted(handed) == sorted(wanted)
    for mine, theirs in zip(here.measurements, there.measurements, strict=True):
        assert mine.name == theirs.name
        assert theirs.evaluation.perplexity == pytest.approx(mine.evaluation.perplexity, rel=1e-6)
    home = Home()
    assert len(home.lines("opened")) == 2  # each of the two workers opened the model once
    assert sorted(home.lines("begun")) == sorted(wanted)
    assert seen == sorted(seen)
    assert seen[-1] == (len(wanted), len(wanted))
    made = {path: path.stat().st_mtime_ns for path in runs_folder().glob("*/run.json")}
    assert len(made) == len(wanted) + 2  # the contest and its one search
    # All is there, so that nobody is asked: no cluster could be joined at that address.
    perform(ranked, executor=on_ray("127.0.0.1:1"))
    assert all(
        path.stat().st_mtime_ns == when for path, when in made.items() if path.parent.name != ranked.key
    )
    assert "".join(capfd.readouterr()) == ""


@needs_ray
def test_a_worker_that_is_killed_loses_nothing_and_repeats_nothing(study, ray_on_two, capfd):
    home = Home()
    home.tell("die")
    kept = Kept()
    on_ray(ray_on_two, _noting())(study.trials(), kept, _silent)
    wanted = [trial.key for trial in study.trials()]
    assert sorted(kept.keys) == sorted(wanted)
    assert all(finished_trials((trial,))[trial.key] for trial in study.trials())
    assert (home.folder / "died").exists()
    assert len(set(home.lines("opened"))) == 3  # two, and the one in the place of the dead
    begun = home.lines("begun")
    assert set(begun) == set(wanted)
    assert len(begun) == len(wanted) + 1  # the lost trial twice
    assert "".join(capfd.readouterr()) == ""


@needs_ray
def test_a_trial_whose_workers_keep_dying_is_one_sentence(study, ray_on_two, monkeypatch):
    monkeypatch.setattr(cluster, "ATTEMPTS", 1)  # each takes the seconds that a worker needs to start
    Home().tell("die")
    kept = Kept()
    with pytest.raises(
        OutOfMemoryError,
        match=r"^1 workers .* at the trial 'slice\(constant, rounding=1\)' at mean slice .*, most often",
    ):
        on_ray(ray_on_two, _noting(), workers=1)([study.trials()[3]], kept, _silent)
    assert kept.keys == []


@needs_ray
def test_an_error_of_a_trial_is_raised_as_it_is_and_a_local_cluster_ends_with_it(study):
    home = Home()
    home.tell("fail")
    kept = Kept()
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PlanError) as caught:
        on_ray(None, _noting(), workers=1)(study.trials(), kept, _silent)
    assert (type(caught.value), str(caught.value)) == (PlanError, "No such plan: choose another.")
    assert kept.keys == [study.dense().key]
    assert len(home.lines("begun")) == 2  # the dense one, and the first with a plan: not tried again
    assert signal.getsignal(signal.SIGTERM) is handler
    _until(lambda: not home.workers_live(), 60)


@needs_ray
def test_cancelling_ends_the_workers(study, ray_on_two):
    home = Home()

    def cancel(phase: str, done: int, total: int) -> None:
        assert (phase, total) == ("Trials", len(study.trials()))
        if home.lines("begun"):
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        on_ray(ray_on_two, _noting(), workers=1)(study.trials(), Kept(), cancel)
    assert len(home.lines("begun")) < len(study.trials())
    _until(lambda: not home.workers_live(), 60)


@needs_ray
def test_a_cluster_that_is_not_there_is_one_sentence(study):
    with pytest.raises(SlicescopeError, match=r"cluster at 'ray:/nowhere' cannot be joined \(.*check the"):
        on_ray("ray:/nowhere")(study.trials(), Kept(), _silent)


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SlicescopeError, match=r"pip install 'slicescope\[cluster\]'"):
        on_ray(None)


@needs_ray
def test_no_workers_are_refused():
    with pytest.raises(SlicescopeError, match=r"0 workers .* 1 or more"):
        on_ray(None, workers=0)


@pytest.mark.parametrize(
    ("nodes", "most", "accelerated", "own", "expected"),
    [
        ([{"CPU": 8.0}], 3, True, True, (3, 2, 0)),
        ([{"CPU": 8.0}], 3, True, False, (3, 1, 0)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 99, True, False, (12, 1, 0)),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 6.0, "GPU": 2.0}, {"CPU": 4.0}], 99, True, False, (4, 3, 1)),
        ([{"CPU": 1.0, "GPU": 2.0}], 99, True, True, (2, 0, 1)),
        ([{"CPU": 16.0, "GPU": 2.0}], 99, False, True, (16, 1, 0)),
    ],
)
def test_a_worker_holds_a_gpu_or_else_a_cpu(nodes, most, accelerated, own, expected):
    assert share_out(nodes, most, accelerated, own) == expected


def test_a_worker_holds_several_cards_of_one_machine():
    nodes = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 9.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 1.0}]
    assert share_out(nodes, 99, True, False, cards=2) == (3, 6, 2)
    assert share_out(nodes, 99, True, False, cards=cluster.cards_of("cuda:0,1,2,3+cpu")) == (1, 16, 4)
    with pytest.raises(SlicescopeError, match=r"8 cards were asked for in one worker.*more than 4"):
        share_out(nodes, 99, True, False, cards=8)


def test_a_cluster_without_slots_is_refused():
    with pytest.raises(SlicescopeError, match="neither GPU nor CPU slots"):
        share_out([{}], 2, True, False)
