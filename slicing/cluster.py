"""Trials on a Ray cluster: one worker per slot, each with the model opened once.

This is the one place that calls Ray, which is an optional dependency. Requests and runs travel as JSON; no
model and no tensor does. Every machine of the cluster has slicescope installed, and finds the model and the
texts under the same names. Knows nothing about what a trial does, nor about where its run is kept.
"""

from __future__ import annotations

import importlib
import os
import platform
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

import analysis.errors
from analysis.device import place_of, reuse_memory
from analysis.errors import OutOfMemoryError, SlicescopeError, one_line
from analysis.sources.model import ModelSource
from analysis.values import Progress
from slicing.names import check_names
from slicing.store import Opener, open_model
from slicing.studies.cuts import Cuts, kin
from slicing.studies.requests import Trial
from slicing.studies.results import Run
from slicing.studies.run import Executor, Trials

ATTEMPTS = 3
"""How often a trial is given out, at most, when its workers die."""
_LOOK = 0.5
"""Seconds after which progress is told again, so that a job can be cancelled while all workers are busy."""
_OBJECTS = 128 * 2**20
"""Bytes that a local cluster keeps objects in: ours are the JSON of requests and runs."""
_START = "start"
"""What the deaths of workers are counted under that had no trial yet."""


def on_ray(address: str | None, opener: Opener = open_model, workers: int | None = None) -> Executor:
    """An executor that starts a local Ray cluster, or joins the one at ``address``, for as long as it works.

    ``address`` is what Ray takes: ``auto``, ``host:port`` or ``ray://host:port``. There is a worker for
    every GPU (for every two, where the device names two cards), or for every CPU where there are no GPUs or
    all models are wanted on the CPU, and ``workers`` at most. ``opener`` must be a function that the workers
    can import.

    A worker that dies is replaced and its trial given out again. An error of a trial ends the others, and is
    raised as it would be here. Raises ``SlicescopeError`` when Ray is missing, the cluster cannot be reached
    or the working folder hides a package of ours, ``OutOfMemoryError`` when a trial's workers keep dying.
    """
    if workers is not None and workers < 1:
        raise SlicescopeError(f"{workers} workers were asked for: ask for 1 or more.")
    try:
        check_names("analysis", "slicing", first=str(Path.cwd()))  # where Ray's workers look before all else
    except ImportError as error:
        raise SlicescopeError(str(error)) from None
    ray = _ray()

    def carry_out(asked: Sequence[Trial], hand_over: Callable[[Run], None], progress: Progress) -> None:
        trials = list({trial.key: trial for trial in asked}.values())
        if not trials:
            return
        progress("Trials", 0, len(trials))
        with _cluster(ray, address):
            accelerated = any(trial.model.device != "cpu" for trial in trials)
            cards = max(cards_of(trial.model.device) for trial in trials)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            most = min(len(trials), workers or len(trials))
            slots = share_out(nodes, most, accelerated, own=address is None, cards=cards)
            _Crew(ray, opener, slots, trials).work(hand_over, progress)

    return carry_out


class Slots(NamedTuple):
    """How many workers there are, and what each of them holds."""

    workers: int
    cpus: int
    gpus: int


def cards_of(device: str) -> int:
    """Say how many cards a worker needs for a model on a device by this name: 1 also where it needs none."""
    return len(place_of(device).devices)


def share_out(
    nodes: Sequence[dict[str, float]], most: int, accelerated: bool, own: bool, cards: int = 1
) -> Slots:
    """The slots of a cluster whose machines have these resources, by Ray's names: ``CPU`` and ``GPU``.

    A worker holds so many ``cards`` of one machine, where there are any. Where the cluster is our ``own``,
    which is one machine, fewer workers hold more CPUs each. Raises ``SlicescopeError`` when there is no slot
    at all, and where no machine has as many cards.
    """
    with_gpu = [node for node in nodes if accelerated and node.get("GPU", 0) >= cards]
    if with_gpu:
        count = min(most, sum(int(node["GPU"]) // cards for node in with_gpu))
        # As many CPUs as every machine can give to each of its GPUs.
        each = min(int(node.get("CPU", 0) * cards // node["GPU"]) for node in with_gpu)
        return Slots(count, each, cards)
    if cards > 1:
        found = max((int(node.get("GPU", 0)) for node in nodes), default=0)
        raise SlicescopeError(
            f"{cards} cards were asked for in one worker, and no machine of the Ray cluster has more than "
            f"{found}: name fewer (device cuda:0), or let the host help (device cuda+cpu)."
        )
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    if not cpus:
        raise SlicescopeError("The Ray cluster has neither GPU nor CPU slots: add a machine that has some.")
    count = min(most, cpus)
    return Slots(count, cpus // count if own else 1, 0)


def _ray() -> Any:
    # Read when Ray is imported. It sends no statistics; and without them its messages about workers that
    # died, which are told here where they matter, would go to standard output.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS_SKIP_REGEX=".")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise SlicescopeError(
            f"The executor 'ray' needs Ray ({one_line(error)}): run \"pip install 'slicescope[cluster]'\"."
        ) from None


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to the cluster, which is ended, and with it a local cluster."""
    if ray.is_initialized():
        raise SlicescopeError(
            "This process is connected to a Ray cluster already: call 'ray.shutdown()' first."
        )
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts one of its own in place
    options = {"object_store_memory": _OBJECTS, "include_dashboard": False} if address is None else {}
    try:
        try:
            # Without 'local' Ray would join whatever cluster it finds on this machine.
            ray.init(address or "local", log_to_driver=False, logging_level="error", **options)
        except Exception as error:  # of many kinds, by what fails: name, port, version, token
            raise SlicescopeError(
                f"The Ray cluster at '{address}' cannot be joined ({one_line(error)}): check the address, "
                "and that it runs the same versions of Ray and Python."
                if address
                else f"A local Ray cluster cannot be started ({one_line(error)}): see the logs in /tmp/ray."
            ) from error
        yield
    finally:
        ray.shutdown()
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


class _Member:
    """A worker as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.view: str | None = None
        """The key of the view of its last trial."""
        self.kin: str | None = None
        """Tells which trials share most with its last one (``slicing.studies.cuts.kin``)."""
        self.searches: set[str] = set()
        """Plans it has searched shares for."""


class _Crew:
    """The workers, what each is at, and the trials that wait for one."""

    def __init__(self, ray: Any, opener: Opener, slots: Slots, trials: Sequence[Trial]) -> None:
        self.ray, self.slots = ray, slots
        self.waiting, self.total = list(trials), len(trials)
        self.members: list[_Member] = []
        self.at: dict[Any, tuple[_Member, Trial | None]] = {}
        """By what is awaited of a worker: its trial, or ``None`` while it starts."""
        self.deaths: Counter[str] = Counter()
        # Never restarted by Ray: whether a trial is given out again is decided here, and counted.
        remote = ray.remote(_Worker).options(
            num_cpus=slots.cpus,
            num_gpus=slots.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        home = os.environ.get("SLICESCOPE_HOME")
        self._start = lambda: remote.remote(opener, max(slots.cpus, 1), platform.node(), home, slots.gpus)

    def work(self, hand_over: Callable[[Run], None], progress: Progress) -> None:
        """Hand over the run of every trial, each as soon as it is made."""
        errors = self.ray.exceptions
        try:
            for _ in range(self.slots.workers):
                self._hire()
            done = 0
            while done < self.total:
                answered, _ = self.ray.wait(list(self.at), timeout=_LOOK)
                for awaited in answered:
                    member, trial = self.at.pop(awaited)
                    try:
                        answer = self.ray.get(awaited)
                    except errors.RayTaskError:  # a fault of ours in the worker, not the death of one
                        raise
                    except errors.RayError as error:
                        self._replace(member, trial, error)
                        continue
                    if trial is not None:
                        hand_over(_read(answer))
                        done += 1
                self._give_out()
                progress("Trials", done, self.total)
        finally:
            for member in self.members:
                self._end(member)

    def _hire(self) -> None:
        member = _Member(self._start())
        self.members.append(member)
        # A worker that waits for its slot, or still starts, is given no trial that a free one could do.
        self.at[member.actor.ready.remote()] = member, None

    def _end(self, member: _Member) -> None:
        with suppress(Exception):  # it may be gone, and the cluster with it
            self.ray.kill(member.actor)

    def _replace(self, member: _Member, trial: Trial | None, error: Any) -> None:
        """Put a new worker in the place of one that died, and its trial first in the queue."""
        self.members.remove(member)
        self._end(member)  # it may be unreachable only
        if getattr(error, "actor_init_failed", False):
            reason = next(line for line in reversed(str(error).splitlines()) if line.strip())
            raise SlicescopeError(
                f"The workers on the Ray cluster cannot start ({reason.strip().rstrip('.')}): install the "
                "same version of slicescope on all its machines."
            ) from error
        name = trial.key if trial else _START
        self.deaths[name] += 1
        if self.deaths[name] >= ATTEMPTS:
            what = f"at the trial {_label(trial)}" if trial else "while starting"
            raise OutOfMemoryError(
                f"{ATTEMPTS} workers on the Ray cluster died {what}, most often because memory ran out: use "
                "fewer workers, shorter or fewer windows, a 16-bit dtype, or a smaller model."
            ) from error
        if trial:
            self.waiting.insert(0, trial)
        self._hire()

    def _give_out(self) -> None:
        busy = [member for member, _ in self.at.values()]
        for member in self.members:
            if member not in busy and (trial := self._next(member)):
                self.waiting.remove(trial)
                member.view, member.kin = trial.view_key, kin(trial)
                if search := _search(trial):
                    member.searches.add(search)
                self.at[member.actor.make.remote(trial.to_json())] = member, trial

    def _next(self, member: _Member) -> Trial | None:
        """The trial for a free worker: of the view it has, else of one that no other has, else the first.

        Of these, one that shares decisions with its last trial, else one that shares none with what others
        are at: a greedy search for the largest size has those of the smaller ones in it. Then the dense
        model, which others are held against, and then the trial of most steps. Those take longest: none of
        them should be left to the end, when others have nothing to do.
        A search is left to the worker that has made it or is at it: the others would make it once more.
        """
        others = [each for each in self.members if each is not member]
        searched = {search for each in others for search in each.searches}
        fitting = [trial for trial in self.waiting if _search(trial) not in searched]
        views, kins = {each.view for each in others}, {each.kin for each in others}

        def rank(trial: Trial) -> tuple[int, int, bool, int]:
            view, own, steps = trial.view_key, kin(trial), len(trial.recipe.steps)
            return (
                0 if view == member.view else 1 if view not in views else 2,
                0 if own == member.kin else 1 if own not in kins else 2,
                steps > 0,
                -steps,
            )

        return min(fitting, key=rank, default=None)  # of equals the first


def _search(trial: Trial) -> str | None:
    """The same for trials that share a search, or ``None``."""
    budget = trial.budget
    keys = (budget and step.search_key(budget) for step in trial.recipe.steps)
    return next((key for key in keys if key), None)


def _label(trial: Trial) -> str:
    return f"'{trial.recipe.line}' at {trial.budget.title}" if trial.budget else "of the dense model"


class _Worker:
    """What runs in a worker's process: it takes the JSON of a trial, and gives that of a run or an error."""

    def __init__(self, opener: Opener, threads: int, node: str, home: str | None, gpus: int = 0) -> None:
        torch.set_num_threads(threads)
        reuse_memory()
        self.opener, self.gpus = opener, gpus
        self._trials: tuple[ModelSource, Trials] | None = None
        if home and node == platform.node():  # on another machine that folder means nothing
            os.environ["SLICESCOPE_HOME"] = home

    def ready(self) -> None:
        """Answer once the worker has its slot and is there."""

    def make(self, text: str) -> tuple[str | None, str]:
        """The name of an error of ours and its sentence, or ``None`` and the run."""
        try:
            trial = Trial.from_json(text, "The trial")
            trials = self._trials_on(trial.model)
            trials.keep_cuts_of([trial])  # of what it has cut before, all but what this one begins with
            return None, trials.make(trial).to_json()
        except SlicescopeError as error:
            ours = next(kind for kind in type(error).__mro__ if kind.__module__ == analysis.errors.__name__)
            return ours.__name__, str(error)

    def _trials_on(self, source: ModelSource) -> Trials:
        if self._trials is None or self._trials[0] != source:
            self._trials = None  # let go of a model before the next is opened
            here = source
            if self.gpus and source.device.startswith("cuda:"):
                # Of a machine's cards Ray shows a worker its own alone, which are numbered from 0 there.
                place = place_of(source.device)
                own = tuple(f"cuda:{at}" for at in range(len(place.devices)))
                name = place._replace(devices=own if len(own) > 1 else ("cuda",)).name
                here = source.model_copy(update={"device": name})
            self._trials = source, Trials(self.opener(here), cuts=Cuts())
        return self._trials[1]


def _read(answer: tuple[str | None, str]) -> Run:
    """The run that a worker made, or else its error is raised."""
    name, text = answer
    if name is not None:
        raise getattr(analysis.errors, name, SlicescopeError)(text)
    return Run.from_json(text, "What a worker on the Ray cluster answered")
