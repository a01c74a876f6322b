"""What a session remembers, and the worker that all sessions share.

With ``model_state``, ``plan_state``, ``own_state``, ``talk_state``, ``shrink_state`` and ``trash`` the only
reader and writer of ``st.session_state`` and ``st.query_params``; the values of widgets bound to the URL are
their own. Knows nothing about pages or figures.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

import streamlit as st
from streamlit.navigation.page import StreamlitPage
from streamlit.runtime import get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx

from analysis.device import HOST, LARGE, Facts, Imports, device_type, memory_of, pick_device
from analysis.errors import ModelError, SlicescopeError, StorageError
from analysis.sources.card import ModelCard, describe
from analysis.sources.model import ModelSource
from analysis.values import Value
from app import plan_state, shipped, wording
from app.accounts import account
from app.engine import Task
from app.job import Job
from app.jobs import Worker
from app.pace import Asking, neighbourhood
from app.policy import Policy, enforced
from app.presence import Presence
from app.proposal import Proposal, propose
from slicing.library import note_of
from slicing.plans import Plan
from slicing.preview import Preview, PreviewRequest
from slicing.studies.results import Run
from slicing.studies.store import find_run, is_stored, list_runs
from slicing.studies.study import Study

View = Literal["profile", "compare", "study", "shrink"]
"""What is looked at: a run's profile, a comparison, a study, the answer to a wish. Names in the URL too."""
VIEWS: tuple[View, ...] = ("profile", "compare", "study", "shrink")
_WORDS = {"compare": "comparison", "study": "study", "shrink": "answer to a wish"}


class Shown(NamedTuple):
    """The run a view shows."""

    run: Run
    bundled: bool
    """Whether it is the run that ships with slicescope."""
    problem: str | None
    """Why it is not the run that was asked for, in one sentence."""


class Drawn(NamedTuple):
    """A page of which all was drawn."""

    page: StreamlitPage
    query: dict[str, str]
    """The words of its address."""


@st.cache_resource(show_spinner=False, on_release=Worker.stop)
def worker() -> Worker:
    """The one worker of this process."""
    minutes = policy().minutes
    return Worker(seconds=60.0 * minutes if minutes else None)


@st.cache_resource(show_spinner=False)
def imports() -> Imports:
    """Give the watch over imports: streamlit collects garbage in full after every drawing of a page."""
    return Imports()


@st.cache_resource(show_spinner=False)
def presence() -> Presence:
    """Give the record of who has a page open; as patient as streamlit is with a session that may return."""
    return Presence(st.get_option("server.disconnectedSessionTTL"))


@st.cache_resource(show_spinner=False)
def asking() -> Asking:
    """Give the record of how often people asked for jobs."""
    return Asking()


def begin_page(page: StreamlitPage) -> None:
    """Note the page of which all is being drawn."""
    st.session_state["page-drawn"] = Drawn(page, st.query_params.to_dict())


def end_page() -> None:
    """Note the words that the page put into its address."""
    begin_page(st.session_state["page-drawn"].page)


def page_shown_now() -> Drawn | None:
    """Give the page that was drawn last, where what is being drawn is a part of another; else ``None``."""
    last: Drawn | None = st.session_state.get("page-drawn")
    context = get_script_run_ctx()
    if last is None or context is None or context.page_script_hash == last.page._script_hash:
        return None
    return last


def tend() -> None:
    """Look after the queue, and after what was imported.

    Strangers who are gone for good give up their places in the queue.
    """
    imports().pass_by()

    def gone(owner: str) -> bool:
        return policy().demo_mode and presence().gone(owner, get_instance().is_active_session)

    worker().tend(gone)


def device_memory(device: str | None = None) -> tuple[int, int] | None:
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
    """Give what the engine said of a device by its name; before it did, what a large one would be."""
    if device_type(name) != "cuda":
        return Facts(memory_of(HOST)[1], bf16=True)
    report, device = worker().report, str(pick_device(name))
    if report and report.total and report.device.removesuffix(":0") == device.removesuffix(":0"):
        return Facts(report.total, report.bf16)
    return LARGE


def lost_jobs() -> tuple[str, ...]:
    """Name what an earlier server was asked for and this one cannot do, until it is dismissed."""
    return () if st.session_state.get("lost-dismissed") else worker().lost


def owner() -> str:
    """Whose jobs this session's are."""
    return st.session_state["owner"]


def is_mine(job: Job) -> bool:
    """Tell whether this session asked for the job."""
    return job.owner == owner()


def begin_session() -> None:
    """Begin with the runs that the URL names; from then on name the session's there, for links."""
    new = "owner" not in st.session_state
    st.session_state["owner"] = account() or st.session_state.get("owner") or uuid.uuid4().hex
    if context := get_script_run_ctx():
        presence().note(owner(), context.session_id, neighbourhood(st.context.ip_address))
    if new:
        for earlier in shipped.EARLIER:
            if named := st.query_params.get(earlier):
                st.session_state["study-run"] = named
        for view in VIEWS:
            if named := st.query_params.get(view):
                st.session_state[f"{view}-run"] = named
        # Whoever asked for the jobs of a server that ended has a new session here, as this may be.
        st.session_state["watched"] = [job for job in worker().active if job.restarted and may_cancel(job)]
    for earlier in shipped.EARLIER:
        st.query_params.pop(earlier, None)
    for view in VIEWS:
        key = st.session_state.get(f"{view}-run")
        if key and st.query_params.get(view) != key:
            st.query_params[view] = key


def show_run(view: View, key: str) -> None:
    """Let a view show the run of this key, or the demo of this name, from the next run of the page on.

    The model of the session stays, and where a run may be of another one the address says so.
    """
    if key not in shipped.NAMES:
        st.session_state.setdefault("source", source())
    st.session_state[f"{view}-run"] = key
    st.session_state.pop(f"{view}-asked", None)


def key_asked(view: View) -> str:
    """Give the key of the run, or the name of the demo, that a view was asked to show; empty for none."""
    return st.session_state.get(f"{view}-run") or ""


def asked_for(view: View) -> tuple[Run | None, str | None]:
    """The run that a view was asked to show, or why it cannot be, as a sentence without its full stop."""
    key = key_asked(view)
    if not key or key in shipped.NAMES:
        return None, None
    try:
        run = find_run(key)
        if policy().demo_mode and run.key != key:  # the first digits would be quickly guessed
            raise StorageError(f"There is no run '{key}'.")
        if view == "profile" or view in views_of(run.request):
            return run, None
        return None, told(f"The run {run.key} is no {_WORDS[view]}")
    except StorageError:
        why = "cannot be read" if is_stored(key) else "is no longer stored"
        return None, told(f"The run '{key}' {why}")


def shown(view: View) -> Shown | None:
    """The run that a view shows: the one asked for, else the bundled one, else ``None``."""
    run, problem = asked_for(view)
    if run:
        return Shown(run, bundled=False, problem=None)
    if view == "shrink":  # of which none ships
        return None
    key = key_asked(view)
    try:
        ships = shipped.study_of(key) if view == "study" else shipped.comparison_of(key)
        return Shown(ships, bundled=True, problem=problem and f"{problem}, so the demo's is shown.")
    except StorageError:
        return None


def views_of(task: Task) -> tuple[View, ...]:
    """Name the views where the result of a task can be looked at, the best first."""
    if task.kind == "profile":
        return ("profile",)
    if task.kind == "study":
        return ("compare", "study") if task.view == "comparison" else ("study",)
    return ("shrink",) if task.kind == "shrink" else ()


def unfinished() -> Study | None:
    """The study that this session asked for last, or else one that runs while no other is shown.

    ``None`` once it is done: then it is a run like others.
    """
    asked: Study | None = st.session_state.get("study-asked")
    if asked is None and not st.session_state.get("study-run"):
        tasks = [job.task for job in worker().active if may_cancel(job)]
        asked = next((task for task in tasks if task.kind == "study" and views_of(task)[0] == "study"), None)
    return asked


def chosen_recipe() -> tuple[str, str]:
    """Give what was clicked on last in a chart of a study: the lines of a recipe and a budget, or empty."""
    return st.session_state.get("study-mark", ("", ""))


def choose_recipe(recipe: str, budget: str) -> None:
    """Make these lines what is looked at in a study; only in a callback."""
    st.session_state["study-mark"] = recipe, budget


def own_recipes() -> list[str]:
    """The lines of the recipes that this session added to the usual ones."""
    return st.session_state.setdefault("own-recipes", [])


def source() -> ModelSource:
    """The one model of this session, which every form runs."""
    return st.session_state.get("source") or (policy().models or (ModelSource(kind="demo"),))[0]


def choose(source: ModelSource) -> None:
    """Make this the model of the session, and remember that it was used."""
    used: list[ModelSource] = st.session_state.setdefault("models", [])
    st.session_state["models"] = [source, *(each for each in used if not each.is_same(source))]
    st.session_state["source"] = source


def proposal(run: Run) -> Proposal:
    """Give what the forms of a new study start from: the tuned plan and the text of a run, on the session's
    model.
    """
    found = propose(run, plan_state.tuned_plan())
    return found._replace(judged=found.judged.model_copy(update={"model": source()}))


def run_title(run: Run) -> str:
    """Name a run: as its people do, or by what it did."""
    label = note_of(run.key).label
    return f"{label} · {run.created:%d %b %Y %H:%M} UTC" if label else wording.run_line(run)


def distinct_titles(runs: Sequence[Run]) -> list[str]:
    """Name runs for a legend, no two alike."""
    titles = [note_of(run.key).label or wording.title(run.request) for run in runs]
    alike = {name for name in titles if titles.count(name) > 1}
    named = zip(titles, runs, strict=True)
    return [f"{name} ({run.key[:4]})" if name in alike else name for name, run in named]


def note_made(key: str) -> None:
    """This session brought in, or made, the run of this key."""
    st.session_state.setdefault("made", set()).add(key)


def picture() -> str:
    """The format in which charts are saved as pictures: ``svg`` or ``png``."""
    return st.session_state.get("picture") or "svg"


def put(values: dict[str, Any]) -> None:
    """Set widgets by their keys; only in a callback, before they are drawn."""
    for key, value in values.items():
        st.session_state[key] = value


def lower(key: str, most: int) -> None:
    """Set a number that a widget holds to this at most; before it is drawn."""
    if (found := st.session_state.get(key)) is not None and found > most:
        put({key: most})


def widget(key: str, usual: Any) -> Any:
    """The value of a widget that another part of the page drew."""
    found = st.session_state.get(key)
    return usual if found is None else found


def stored() -> list[Run]:
    """The stored runs but trials, newest first, and the bundled one; the Runs page tells of broken ones."""
    try:
        found, _ = list_runs(but=("trial",))
        return [*(run for run in found if may_list(run.key)), shipped.comparison_of(shipped.FIRST)]
    except StorageError:
        return []


def clicked(key: str) -> dict[str, Any] | None:
    """The mark of a chart that was clicked on, with its x and y, or ``None``."""
    selection = st.session_state.get(key) or {}
    points = selection.get("selection", {}).get("points", [])
    return dict(points[0]) if points else None


def selected_cell(key: str) -> tuple[int, str] | None:
    """The row of a table that was selected, by its number, and the column where a cell was, or ``None``."""
    selection = (st.session_state.get(key) or {}).get("selection", {})
    if cells := selection.get("cells"):
        return int(cells[0][0]), str(cells[0][1])
    return (int(selection["rows"][0]), "") if selection.get("rows") else None


def choose_block(block: int) -> None:
    """Make this the block that is looked at from near; only in a callback."""
    put({"block": block})


def choose_part(block: int, part: str) -> None:
    """Make this part of this block the one whose cost is looked at; only in a callback."""
    put({"block": block, "unit-part": part})


def choose_pair(pair: tuple[int, int]) -> None:
    """Make these the two depths that are compared; only in a callback."""
    put({"pair-from": min(pair), "pair-to": max(pair)})


def depth_pair(depths: int) -> tuple[int, int]:
    """The two depths that are compared, of so many; to begin with, those around the middle block."""
    middle = (depths - 1) // 2
    first, second = (
        min(st.session_state.setdefault(key, value), depths - 1)
        for key, value in (("pair-from", middle), ("pair-to", middle + 1))
    )
    put({"pair-from": first, "pair-to": second})
    return first, second


def preview_of(run: Run, plan: Plan) -> Preview | str | None:
    """Give what the plan would cost, why that cannot be told, or ``None`` while it is being measured.

    First of the plan alone, which is told while constant slicing is still being measured.
    """
    alone = preview_alone(run, plan)
    if not isinstance(alone, Preview):
        return alone
    return worker().preview(_preview_request(run, plan), st.session_state["owner"]) or alone


def preview_alone(run: Run, plan: Plan) -> Preview | str | None:
    """Give the same of the plan alone, without constant slicing beside it."""
    request = _preview_request(run, plan).model_copy(update={"against": False})
    try:
        policy().check(run.request.model)
        policy().check(request)
    except SlicescopeError as error:
        return str(error)
    return worker().preview(request, st.session_state["owner"])


def known_preview(run: Run, plan: Plan) -> Preview | str | None:
    """Give what is known already of what the plan alone would cost; nothing is measured."""
    request = _preview_request(run, plan).model_copy(update={"against": False})
    return worker().known_preview(request)


def _preview_request(run: Run, plan: Plan) -> PreviewRequest:
    return PreviewRequest(run=run.key, plan=plan, evaluation=proposal(run).judged.evaluation)


def model_card(source: ModelSource) -> ModelCard:
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
    """Give what this server lets people ask for."""
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
    if (views := views_of(task)) and views[0] in ("study", "shrink"):
        st.session_state[f"{views[0]}-asked"] = task
    st.session_state["notice"] = st.session_state["news"] = None
    st.session_state.setdefault("watched", []).append(job)
    return job


def may_cancel(job: Job) -> bool:
    """Tell whether this session may stop the job, and be told what it is."""
    return not policy().demo_mode or job.owner == st.session_state["owner"]


def may_list(key: str) -> bool:
    """Tell whether lists show this stored run: strangers see what they made, and open others by key."""
    return not policy().demo_mode or key in st.session_state.get("made", ())


def settle() -> bool:
    """Tell whether jobs of this session have ended since the last call; views follow those that are done."""
    watched: list[Job] = st.session_state.get("watched", [])
    ended = [job for job in watched if not job.active]
    for job in ended:
        if job.state == "done" and job.key and (views := views_of(job.task)):
            show_run(views[0], job.key)
        st.session_state["notice" if job.state != "done" else "news"] = job
    st.session_state["watched"] = [job for job in watched if job.active]
    return bool(ended)


def news() -> Job | None:
    """The job of this session that was done last, until it is dismissed or another is asked for."""
    return st.session_state.get("news")


def dismiss_news() -> None:
    """Forget it."""
    st.session_state["news"] = None


def notice() -> Job | None:
    """The last job of this session that failed or was cancelled, until it is dismissed."""
    return st.session_state.get("notice")


def dismiss() -> None:
    """Forget the notice, and what was lost."""
    st.session_state["notice"] = None
    st.session_state["lost-dismissed"] = True


def is_at(page: str) -> bool:
    """Tell whether this session looks at the page of this name."""
    return (st.context.url or "").partition("?")[0].rstrip("/").endswith(f"/{page}")


def link() -> str:
    """The address of what this session shows."""
    address = (st.context.url or "").partition("?")[0]
    query = urlencode(st.query_params.to_dict())
    return f"{address}?{query}" if query else address
