"""The one model of a session: what every form runs, what it may be switched to, and how an address names it.

Reads and writes the session beside ``state``. Knows nothing about pages or figures.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import streamlit as st

from analysis.errors import ModelError, SlicescopeError
from analysis.shape import ModelShape
from analysis.sources.model import ModelSource
from app import shrink_state, state, wording
from app.jobs import Closed, Opened
from slicing.studies.index import Summary, summaries
from slicing.studies.results import Run
from slicing.studies.store import find_run

OFFERED = 8
"""Models of stored runs that the switch lists at most; the newest ones."""

_FOLLOWING: tuple[state.View, ...] = ("profile", "compare", "study")
"""The views that show a run of the model that is switched to, where there is one."""


def open_source() -> ModelSource | None:
    """The model that is open now, for all sessions."""
    report = state.worker().report
    return report.source if report else None


def opened() -> Opened | None:
    """The model that is open and for whom; ``None`` where none is."""
    return state.worker().opened


def another_is_open() -> bool:
    """Tell whether another model is open than at the last call, and note which of this session's closed."""
    st.session_state["closed"] = [*closed_models(), *state.worker().take_closed(state.owner())]
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


def begin() -> None:
    """Begin a session with the model that its address names, or of the run that it names.

    From then on a model that was chosen stands in the address, so that a link and a reload keep it.
    """
    if "model-begun" not in st.session_state:
        st.session_state["model-begun"] = True
        try:
            found = _of_address() or _of_runs()
        except SlicescopeError as error:
            found, st.session_state["model-problem"] = None, str(error)
        if found:
            state.choose(found)
        show_on_model_page(state.source())
    st.session_state["model-drawn"] = state.source()
    for key, value in _address().items():
        if st.query_params.get(key) != value:
            st.query_params[key] = value
    for key in ("on", "as"):
        if key not in _address():
            st.query_params.pop(key, None)


def problem() -> str | None:
    """Say why the model that the address names cannot be the model, until another is chosen."""
    return st.session_state.get("model-problem")


def switch(source: ModelSource) -> None:
    """Make this the model of the session, with the runs of it that there are; only in a callback.

    A view without a run of this model keeps what it shows.
    """
    state.choose(source)
    st.session_state.pop("model-problem", None)
    show_on_model_page(source)
    wanted = [view for view in _FOLLOWING if not _shows(view, source)]
    listed = [each for each in _listed() if each.model == source.label and each.kind in ("profile", "study")]
    for each in sorted(listed, key=lambda each: each.kind):  # a profile holds more than that of a study
        run = _run(each) if wanted else None
        if run and run.request.model.is_same(source):
            held: set[state.View] = {"profile", *state.views_of(run.request)[:1]}
            for view in held.intersection(wanted):
                state.show_run(view, run.key)
                wanted.remove(view)


def look_at(source: ModelSource) -> None:
    """Let the Model page show this one and go there; only in a callback."""
    show_on_model_page(source)
    st.session_state["model-look"] = True


def looks() -> bool:
    """Tell, once, whether the Model page was asked for."""
    return st.session_state.pop("model-look", False)


def was_switched() -> bool:
    """Tell whether the session has another model than the page was drawn with, as after a click in a part
    of it.
    """
    return st.session_state.get("model-drawn") != state.source()


def may_switch(source: ModelSource) -> bool:
    """Tell whether this server lets people run this model."""
    with suppress(SlicescopeError):
        state.policy().check(source)
        return source.kind in ("demo", "hub") or Path(source.location).exists()
    return False


def choices() -> dict[str, ModelSource]:
    """The models that a switch offers beside the one of now, by names of which no two are alike.

    First those that this session used, then the one that is open, those that the server offers or the demo,
    and those of stored runs.
    """
    found = [state.source(), *st.session_state.get("models", ())]
    if now := open_source():
        found.append(now)
    found += state.policy().models or (ModelSource(kind="demo"),)
    found += _of_stored()
    distinct: list[ModelSource] = []
    for each in found:
        if not any(each.is_same(other) for other in distinct):
            distinct.append(each)
    labels = [each.label for each in distinct]
    named = {}
    for each, label in zip(distinct[1:], labels[1:], strict=True):
        alike = labels.count(label) > 1 and each.location and not state.policy().demo_mode
        named[f"{label} ({Path(each.location).parent})" if alike else label] = each
    return {name: each for name, each in named.items() if may_switch(each)}


def read(text: str, device: str = "auto", dtype: str = "auto") -> ModelSource:
    """Read a model that a person named (``ModelError``, or ``Refused``)."""
    text = text.strip()
    if text.startswith((".", "~", "/")) or Path(text).is_absolute():
        state.policy().check_path(text)  # before anything is said about what lies there
    found = ModelSource.parse(text, device, dtype)
    state.policy().check(found)
    return found


def show_on_model_page(source: ModelSource) -> None:
    """Let the controls of the Model page say this model; before they are drawn."""
    if state.policy().models is not None:
        state.put({"offered": source.label})
        return
    said = {"model-kind": source.kind, "device": source.device, "dtype": source.dtype}
    if source.kind != "demo":
        revision = f"@{source.revision}" if source.revision else ""
        said[f"location-{source.kind}"] = source.location + revision
    state.put(said)


def button(label: str, model: ModelSource, *seen: Run | None) -> str:
    """Give the words of a button that runs a model: with its name where anything else is on the page.

    That is where it is not the session's model, or a run that is seen there is of another one.
    """
    others = [state.source(), *(run.request.model for run in seen if run)]
    alike = all(model.is_same(other) for other in others)
    return label if alike else f"{label} on {wording.verbatim(model.label)}"


def is_current(model: ModelSource) -> bool:
    """Tell whether this is the model of the session, on whatever device and in whatever dtype."""
    return state.source().is_same(model)


def shape_of(model: ModelSource, like: Run) -> ModelShape | None:
    """The shape of a model, from a run where that is of it; ``None`` where it has to be fetched first.

    Raises ``SlicescopeError`` where it cannot be made smaller, or cannot be read.
    """
    return like.result.shape if like.request.model.is_same(model) else shrink_state.shape_here(model)


def _address() -> dict[str, str]:
    """The words of the address that name the model; none where it is the usual one and nobody chose it."""
    chosen: ModelSource | None = st.session_state.get("source")
    if chosen is None:
        return {}
    if state.policy().models is not None:
        return {"model": chosen.label}
    location = chosen.location if chosen.kind in ("folder", "gguf") else chosen.label
    said = {"model": "demo" if chosen.kind == "demo" else location}
    also = {"on": chosen.device, "as": chosen.dtype}
    return said | {key: value for key, value in also.items() if value != "auto"}


def _of_address() -> ModelSource | None:
    """The model that the address names (``ModelError``, or ``Refused``)."""
    text = st.query_params.get("model", "").strip()
    if not text:
        return None
    offered = state.policy().models
    if offered is not None:
        found = next((each for each in offered if each.label == text), None)
        if found is None:
            raise ModelError(f"This server does not offer the model '{text}', so it goes on with another.")
        return found
    return read(text, st.query_params.get("on", "auto"), st.query_params.get("as", "auto"))


def _of_runs() -> ModelSource | None:
    """The model of the first run that the address names, where this server offers it."""
    for view in state.VIEWS:
        run, _ = state.asked_for(view)
        if run and may_switch(run.request.model):
            return run.request.model
    return None


def _of_stored() -> list[ModelSource]:
    """The models of stored runs that this session may list, the newest first."""
    newest: dict[str, Summary] = {}
    for each in _listed():
        newest.setdefault(each.model, each)
    runs = (_run(each) for each in list(newest.values())[:OFFERED])
    return [run.request.model for run in runs if run]


def _listed() -> list[Summary]:
    try:
        return [each for each in summaries()[0] if state.may_list(each.name)]
    except SlicescopeError:  # the Runs page tells of it
        return []


def _run(summary: Summary) -> Run | None:
    with suppress(SlicescopeError):
        return find_run(summary.name)
    return None


def _shows(view: state.View, source: ModelSource) -> bool:
    shown = state.shown(view)
    return shown is not None and shown.run.request.model.is_same(source)
