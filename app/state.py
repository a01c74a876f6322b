"""What a session remembers, and the worker that all sessions share.

The only reader and writer of ``st.session_state`` and ``st.query_params``; the values of widgets bound to
the URL are the widgets' own. Knows nothing about pages or figures.
"""

from __future__ import annotations

import gc
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime import get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx

from analysis.device import HOST, LARGE, Facts, has_bf16, memory_of, pick_device
from analysis.errors import ModelError, SlicescopeError, StorageError
from analysis.numbers import read_number, read_whole
from analysis.sources.card import ModelCard, describe
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.values import Value
from app import wording
from app.engine import Task
from app.job import Job
from app.jobs import Closed, Opened, Worker
from app.pace import Asking, neighbourhood
from app.policy import Policy, enforced
from app.presence import Presence
from slicing.library import note_of
from slicing.plan import Plan
from slicing.preview import Preview, PreviewRecipe
from slicing.runs import CompareRecipe, ContestRecipe, LeaderboardRecipe, ProfileRecipe, SweepRecipe
from slicing.study.results import Run
from slicing.study.store import (
    bundled_board,
    bundled_contest,
    bundled_run,
    bundled_sweep,
    find_run,
    is_stored,
    list_runs,
)

View = Literal["profile", "compare", "sweep", "contest", "leaderboard"]
"""What can be looked at: a run's profile, a comparison, a sweep, a contest, a leaderboard. Also the names in
the URL."""
VIEWS: tuple[View, ...] = ("profile", "compare", "sweep", "contest", "leaderboard")
WORDS = {"compare": "comparison", "sweep": "sweep", "contest": "contest", "leaderboard": "leaderboard"}
Trials = SweepRecipe | ContestRecipe | LeaderboardRecipe
"""What is made of trials, and can be looked at while they come."""

UNDOABLE = 50
"""Plans that can be gone back to."""


_TURNS = threading.BoundedSemaphore(2)
TURN = 2.0
"""Seconds that a page waits for its turn: another may wait for the Hub meanwhile, and has no use for it."""


@contextmanager
def turn() -> Iterator[None]:
    """Let two pages be drawn at the same time. More would not be done sooner, since all share one
    interpreter, and would keep it from the server.
    """
    mine = _TURNS.acquire(timeout=TURN)
    try:
        yield
    finally:
        if mine:
            _TURNS.release()


class Shown(NamedTuple):
    """The run a view shows."""

    run: Run
    bundled: bool
    """Whether it is the run that ships with slicescope."""
    problem: str | None
    """Why it is not the run that was asked for, in one sentence."""


class Talk(NamedTuple):
    """Where a talk stands. All of it is in the URL, so that a reload or a link leads there."""

    step: int
    """From 1."""
    predict: bool = False
    """Whether each step asks before it answers."""
    revealed: bool = True
    """Whether the answer is shown."""

    def parameters(self) -> dict[str, str]:
        """As they stand in the URL."""
        shown = {"reveal": "1"} if self.predict and self.revealed else {}
        return {
            "present": "1",
            "step": str(self.step),
            **({"predict": "1"} if self.predict else {}),
            **shown,
        }


@st.cache_resource(show_spinner=False, on_release=Worker.stop)
def worker() -> Worker:
    """The one worker of this process."""
    # Streamlit collects garbage in full after every drawing of a page or a part of it. Among the objects
    # that torch and transformers make when they are imported, which never become garbage, that took most
    # of the server's time; frozen, they are passed over.
    gc.collect()
    gc.freeze()
    minutes = policy().minutes
    return Worker(seconds=60.0 * minutes if minutes else None)


@st.cache_resource(show_spinner=False)
def presence() -> Presence:
    """Who has a page open; as patient as streamlit is with a session that may be taken up again."""
    return Presence(st.get_option("server.disconnectedSessionTTL"))


@st.cache_resource(show_spinner=False)
def asking() -> Asking:
    """How often people asked for jobs."""
    return Asking()


def tend() -> None:
    """Look after the queue. Strangers who are gone for good give up their places in it."""

    def gone(owner: str) -> bool:
        return policy().demo_mode and presence().gone(owner, get_instance().is_active_session)

    worker().tend(gone)


def open_source() -> ModelSource | None:
    """The model that is open now, for all sessions."""
    report = worker().report
    return report.source if report else None


def opened() -> Opened | None:
    """The model that is open and for whom; ``None`` where none is."""
    return worker().opened


def another_is_open() -> bool:
    """Whether another model is open than at the last call; notes whose of this session's was closed."""
    st.session_state["closed"] = [*closed_models(), *worker().take_closed(owner())]
    now = open_source()
    before = st.session_state.get("last-open", now)
    st.session_state["last-open"] = now
    return now != before


def closed_models() -> list[Closed]:
    """The models that this session used and others closed, until they are dismissed."""
    return st.session_state.get("closed", [])


def dismiss_closed() -> None:
    """Forget them."""
    st.session_state["closed"] = []


def memory(device: str | None = None) -> tuple[int, int] | None:
    """Free and total bytes of a device, by default the engine's; ``None`` where that is not known.

    As the engine said last of the device that it is on: to ask CUDA here would cost this process some
    hundred megabytes of it.
    """
    report = worker().report
    # The first device goes by two names: an open model is on cuda:0, an idle engine and a card say cuda.
    if report and (device is None or device.removesuffix(":0") == report.device.removesuffix(":0")):
        return (report.free, report.total) if report.total else None
    return memory_of(HOST) if device in (None, "cpu") else None


def told_of(name: str) -> Facts:
    """What the engine said of a device by its name, as above; before it did, what a large one would be."""
    device = pick_device(name)
    if device.type != "cuda":
        return Facts(memory_of(HOST)[1], has_bf16(device))
    report = worker().report
    if report and report.total and report.device.removesuffix(":0") == str(device).removesuffix(":0"):
        return Facts(report.total, report.bf16)
    return LARGE


def lost_jobs() -> tuple[str, ...]:
    """What an earlier server was asked for and this one cannot do, until it is dismissed."""
    return () if st.session_state.get("lost-dismissed") else worker().lost


def owner() -> str:
    """Whose jobs this session's are."""
    return st.session_state["owner"]


def is_mine(job: Job) -> bool:
    """Whether this session asked for the job."""
    return job.owner == owner()


def restore() -> None:
    """Begin with the runs that the URL names; from then on name the session's there, for links."""
    new = "owner" not in st.session_state
    st.session_state["owner"] = account() or st.session_state.get("owner") or uuid.uuid4().hex
    if context := get_script_run_ctx():
        presence().note(owner(), context.session_id, neighbourhood(st.context.ip_address))
    if new:
        for view in VIEWS:
            if named := st.query_params.get(view):
                st.session_state[f"{view}-run"] = named
        # Whoever asked for the jobs of a server that ended has a new session here, as this may be.
        st.session_state["watched"] = [job for job in worker().active if job.restarted and may_cancel(job)]
    for view in VIEWS:
        key = st.session_state.get(f"{view}-run")
        if key and st.query_params.get(view) != key:
            st.query_params[view] = key


def account() -> str | None:
    """The stable id of whoever is logged in, or named by a trusted proxy; ``None`` without a login."""
    user = st.user.to_dict()
    name = user.get("sub") or user.get("email")
    return f"{user.get('iss', '')} {name}" if name else None  # another provider may give the same name


def must_log_in() -> bool:
    """Whether the server asks for a login, and this session has none."""
    return st.user.to_dict().get("is_logged_in") is False


def logged_in() -> bool:
    """Whether this session could log out."""
    return st.user.to_dict().get("is_logged_in") is True


def login_providers() -> list[str | None]:
    """The providers that the secrets name, or ``None`` for the one that needs no name."""
    named = [name for name, section in st.secrets["auth"].items() if isinstance(section, Mapping)]
    return named or [None]


def show(view: View, key: str) -> None:
    """Let a view show the run of this key from the next full run of the page on."""
    st.session_state[f"{view}-run"] = key
    st.session_state.pop(f"{view}-asked", None)


def shown(view: View) -> Shown | None:
    """The run that a view shows: the one asked for, else the bundled one, else ``None``."""
    key, problem = st.session_state.get(f"{view}-run"), None
    if key:
        try:
            run = find_run(key)
            if policy().demo_mode and run.key != key:  # the first digits would be quickly guessed
                raise StorageError(f"There is no run '{key}'.")
            if view in ("profile", run.recipe.kind):
                return Shown(run, bundled=False, problem=None)
            problem = told(f"The run {run.key} is no {WORDS[view]}, so the demo's is shown.")
        except StorageError:
            why = "cannot be read" if is_stored(key) else "is no longer stored"
            problem = told(f"The run '{key}' {why}, so the demo's is shown.")
    ships = {
        "sweep": bundled_sweep,
        "contest": bundled_contest,
        "leaderboard": bundled_board,
    }.get(view, bundled_run)
    try:
        return Shown(ships(), bundled=True, problem=problem)
    except StorageError:
        return None


def unfinished(view: Literal["sweep", "contest", "leaderboard"]) -> Trials | None:
    """What is made of trials that this session asked for last, or else one that runs while no other is shown.

    ``None`` once it is done: then it is a run like others.
    """
    asked: Trials | None = st.session_state.get(f"{view}-asked")
    if asked is None and not st.session_state.get(f"{view}-run"):
        tasks = (job.task for job in worker().active if may_cancel(job))
        asked = next((task for task in tasks if isinstance(task, Trials) and task.kind == view), None)
    return asked


def mark(view: View) -> Any:
    """What was clicked on last in the chart of a view: base and target of a cell, the name of an entry."""
    return st.session_state.get(f"{view}-mark")


def choose_mark(view: View, mark: Any) -> None:
    """Make this what is looked at in a view; only in a callback."""
    st.session_state[f"{view}-mark"] = mark


def source() -> ModelSource:
    """The model that the next measurement is made on."""
    return st.session_state.get("source") or (policy().models or (ModelSource(kind="demo"),))[0]


def choose(source: ModelSource) -> None:
    """Make this the model of the next measurement."""
    st.session_state["source"] = source


def plan() -> Plan:
    """The plan as it was last seen on the Tune page."""
    return st.session_state.get("plan", Plan())


def keep_plan(plan: Plan) -> None:
    """Remember the plan for the other pages, and the one before it for undo."""
    before: Plan | None = st.session_state.get("plan")
    if before is not None and before != plan:
        past = st.session_state.setdefault("past", [])
        past.append(before)
        del past[:-UNDOABLE]
    st.session_state["plan"] = plan
    if plan.allocation != "manual":
        st.query_params.pop("shares", None)


def can_undo() -> bool:
    """Whether there is a plan before this one."""
    return bool(st.session_state.get("past"))


def plan_before() -> Plan:
    """The plan before this one, which becomes the plan; only where there is one."""
    st.session_state["plan"] = st.session_state["past"].pop()
    return st.session_state["plan"]


def shares(usual: tuple[float, ...]) -> tuple[str, tuple[float, ...]]:
    """The key of the table of shares, and what it began with: the session's, the link's, or the usual."""
    key = f"shares-{st.session_state.setdefault('shares-version', 0)}"
    if key not in st.session_state:  # the table is drawn for the first time, or was left and is come back to
        now = st.session_state.get("shares-now") or _shares_of_link()
        st.session_state["shares-begun"] = now if now and len(now) == len(usual) else usual
    return key, st.session_state["shares-begun"]


def start_shares(shares: tuple[float, ...]) -> None:
    """Begin the table of shares anew with these; only in a callback."""
    st.session_state["shares-now"] = shares
    st.session_state["shares-version"] = st.session_state.get("shares-version", 0) + 1


def keep_shares(shares: tuple[float, ...]) -> None:
    """Remember the shares as they were edited, and put them into the link."""
    st.session_state["shares-now"] = shares
    st.query_params["shares"] = ",".join(f"{100 * share:g}" for share in shares)


def _shares_of_link() -> tuple[float, ...] | None:
    said = [read_number(part) for part in st.query_params.get("shares", "").split(",")]
    shares = tuple(percent / 100 for percent in said if percent is not None and 0 <= percent < 100)
    return shares if len(shares) == len(said) else None


def proposal(run: Run) -> CompareRecipe:
    """The comparison to propose: the tuned plan, on the model and text whose profile is shown."""
    recipe = run.recipe
    if isinstance(recipe, CompareRecipe):
        return recipe.model_copy(update={"plan": plan()})
    text = recipe.text if isinstance(recipe, ProfileRecipe) else recipe.calibration
    drawn: dict[str, Any] = {}
    if not isinstance(recipe, ProfileRecipe):
        drawn = {name: getattr(recipe, name) for name in ("calibration_windows", "profile_windows")}
    elif recipe.drawn:
        drawn = {"calibration_windows": recipe.drawn, "profile_windows": recipe.windows}
    return CompareRecipe(
        model=recipe.model,
        plan=plan(),
        calibration=text,
        **drawn,
        evaluation=TextSource.parse("demo", "evaluation"),
        window_length=recipe.window_length,
        seed=recipe.seed,
    )


def title(run: Run) -> str:
    """What a run is called: by its people, or by what it did."""
    label = note_of(run.key).label
    return f"{label} · {run.created:%d %b %Y %H:%M} UTC" if label else wording.run_line(run)


def distinct_titles(runs: Sequence[Run]) -> list[str]:
    """What runs are called in a legend, no two alike."""
    titles = [note_of(run.key).label or wording.title(run.recipe) for run in runs]
    alike = {name for name in titles if titles.count(name) > 1}
    named = zip(titles, runs, strict=True)
    return [f"{name} ({run.key[:4]})" if name in alike else name for name, run in named]


def note_made(key: str) -> None:
    """This session brought in, or made, the run of this key."""
    st.session_state.setdefault("made", set()).add(key)


def remember_trash(name: str, title: str) -> None:
    """What was deleted last, and the name that takes it back."""
    st.session_state["trash"] = name, title


def last_trash() -> tuple[str, str] | None:
    """What was deleted last in this session: the name that takes it back, and its title."""
    return st.session_state.get("trash")


def forget_trash() -> None:
    """It was taken back."""
    st.session_state.pop("trash", None)


def complain(sentence: str) -> None:
    """What went wrong in a callback, to be told once the page is drawn."""
    st.session_state["complaint"] = sentence


def complaint() -> str | None:
    """What went wrong in a callback, told once."""
    return st.session_state.pop("complaint", None)


def picture() -> str:
    """The format in which charts are saved as pictures: ``svg`` or ``png``."""
    return st.session_state.get("picture") or "svg"


def put(values: dict[str, Any]) -> None:
    """Set widgets by their keys; only in a callback, before they are drawn."""
    for key, value in values.items():
        st.session_state[key] = value


def widget(key: str, usual: Any) -> Any:
    """The value of a widget that another part of the page drew."""
    found = st.session_state.get(key)
    return usual if found is None else found


def stored() -> list[Run]:
    """The stored runs but trials, newest first, and the bundled one; the Runs page tells of broken ones."""
    try:
        found, _ = list_runs(but=("trial",))
        return [*(run for run in found if may_list(run.key)), bundled_run()]
    except StorageError:
        return []


def clicked(key: str) -> dict[str, Any] | None:
    """The mark of a chart that was clicked on, with its x and y, or ``None``."""
    selection = st.session_state.get(key) or {}
    points = selection.get("selection", {}).get("points", [])
    return dict(points[0]) if points else None


def choose_block(block: int) -> None:
    """Make this the block that is looked at from near; only in a callback."""
    put({"block": block})


def choose_pair(pair: tuple[int, int]) -> None:
    """Make these the two depths that are compared; only in a callback."""
    put({"pair-from": min(pair), "pair-to": max(pair)})


def pair(depths: int) -> tuple[int, int]:
    """The two depths that are compared, of so many; to begin with, those around the middle block."""
    middle = (depths - 1) // 2
    first, second = (
        min(st.session_state.setdefault(key, value), depths - 1)
        for key, value in (("pair-from", middle), ("pair-to", middle + 1))
    )
    put({"pair-from": first, "pair-to": second})
    return first, second


def preview(run: Run, plan: Plan) -> Preview | str | None:
    """What the plan would cost, why that cannot be told, or ``None`` while it is being measured.

    First of the plan alone, which is told while constant slicing is still being measured.
    """
    recipe = PreviewRecipe(run=run.key, plan=plan, evaluation=proposal(run).evaluation)
    try:
        policy().check(run.recipe.model)
        policy().check(recipe)
    except SlicescopeError as error:
        return str(error)
    owner = st.session_state["owner"]
    alone = worker().preview(recipe.model_copy(update={"against": False}), owner)
    return (worker().preview(recipe, owner) or alone) if isinstance(alone, Preview) else alone


def with_bases(run: Run) -> ProfileRecipe:
    """The profile of a run anew, keeping the bases that previews need."""
    recipe = run.recipe
    if isinstance(recipe, ProfileRecipe):
        return recipe.model_copy(update={"bases": True})
    return ProfileRecipe(
        model=recipe.model,
        text=recipe.calibration,
        windows=recipe.calibration_windows,
        window_length=recipe.window_length,
        seed=recipe.seed,
        bases=True,
    )


def card(source: ModelSource) -> ModelCard:
    """The model card (``ModelError`` when there is none), read once a minute rather than at every click."""
    policy().check(source)
    found = _card(source.to_json())
    if isinstance(found, str):
        raise ModelError(found)
    return found


@st.cache_data(ttl="1m", max_entries=32, show_spinner="Reading the configuration")
def _card(source: str) -> ModelCard | str:
    """The card, or why there is none: an answer that took the Hub half a minute is kept as well."""
    try:
        wanted = ModelSource.from_json(source, "The model source")
        return describe(wanted, told_of(wanted.device))
    except SlicescopeError as error:
        return str(error)


def policy() -> Policy:
    """What this server lets people ask for."""
    return enforced()


def told(error: object) -> str:
    """An error, or anything else that may name paths of the server, as Markdown that this server's people may
    read: without paths, and with nothing in it that is markup.
    """
    return wording.verbatim(policy().tell(str(error)))


def submit(task: Task) -> Job:
    """Queue a task for this session (``SlicescopeError`` when it is refused, or the queue is full)."""
    owner = st.session_state["owner"]
    active, where = worker().active, presence().address(owner)
    neighbours = sum(presence().address(job.owner) == where for job in active)
    policy().check(task)
    policy().check_queue(sum(job.owner == owner for job in active), neighbours)
    if policy().paced:
        asking().ask(owner, where)
    job = worker().submit(task, owner)
    if isinstance(task, Value):
        note_made(task.key)
    if isinstance(task, Trials):
        st.session_state[f"{task.kind}-asked"] = task
    st.session_state["notice"] = None
    st.session_state.setdefault("watched", []).append(job)
    return job


def may_cancel(job: Job) -> bool:
    """Whether this session may stop the job, and be told what it is."""
    return not policy().demo_mode or job.owner == st.session_state["owner"]


def may_list(key: str) -> bool:
    """Whether lists show this stored run: strangers see what they made, and open others by their keys."""
    return not policy().demo_mode or key in st.session_state.get("made", ())


def settle() -> bool:
    """Whether jobs of this session have ended since the last call; the views follow those that are done."""
    watched: list[Job] = st.session_state.get("watched", [])
    ended = [job for job in watched if not job.active]
    for job in ended:
        kind = job.task.kind
        if job.state == "done" and job.key and kind in VIEWS:
            show(kind, job.key)
        st.session_state["notice" if job.state != "done" else "news"] = job
    st.session_state["watched"] = [job for job in watched if job.active]
    return bool(ended)


def news() -> Job | None:
    """The job that was done since the last call, to be announced once."""
    return st.session_state.pop("news", None)


def notice() -> Job | None:
    """The last job of this session that failed or was cancelled, until it is dismissed."""
    return st.session_state.get("notice")


def dismiss() -> None:
    """Forget the notice, and what was lost."""
    st.session_state["notice"] = None
    st.session_state["lost-dismissed"] = True


def link() -> str:
    """The address of what this session shows."""
    address = (st.context.url or "").partition("?")[0]
    query = urlencode(st.query_params.to_dict())
    return f"{address}?{query}" if query else address


TALK = ("present", "step", "predict", "reveal")


def presenting() -> bool:
    """Whether the URL asks for the talk."""
    return st.query_params.get("present") == "1"


def talk(steps: int) -> Talk:
    """Where the talk of so many steps stands; called once in every run of its page."""
    # Where a key has just taken it counts more than the address, which lags behind when keys come fast.
    at = st.session_state.pop("told", None) or _talk_in_address(steps)
    st.session_state["talk"] = at
    st.query_params.from_dict({**without_talk(), **at.parameters()})
    return at


def standing() -> Talk:
    """Where the talk stood when it was last shown, or was taken since."""
    return st.session_state["talk"]


def tell(talk: Talk) -> None:
    """Take the talk there."""
    st.session_state["talk"] = st.session_state["told"] = talk


def _talk_in_address(steps: int) -> Talk:
    step, predict = read_whole(st.query_params.get("step", "")), st.query_params.get("predict") == "1"
    return Talk(
        step=min(max(step or 1, 1), steps),
        predict=predict,
        revealed=not predict or st.query_params.get("reveal") == "1",
    )


def without_talk() -> dict[str, str]:
    """What the URL says besides the talk."""
    return {name: value for name, value in st.query_params.to_dict().items() if name not in TALK}
