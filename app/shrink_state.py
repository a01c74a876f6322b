"""What a session remembers of the page that makes a model smaller, and what that page knows of its model."""

from __future__ import annotations

import streamlit as st

from analysis.device import itemsize_of
from analysis.errors import ModelError, SlicescopeError
from analysis.shape import ModelShape
from analysis.sources.configuration import shape_of
from analysis.sources.model import ModelSource, must_fetch
from app import state
from slicing.healing.looks import Underway, training_of
from slicing.studies.options import Option, known_options
from slicing.studies.requests import ShrinkRequest
from slicing.studies.results import Run
from slicing.studies.store import bundled_board, is_stored
from slicing.wish import Wish

DEMO = "demo-frontier"
"""What links call the study that ships and of which options are known."""


def may_shrink() -> bool:
    """Tell whether this server carries wishes out."""
    return state.policy().tasks is None or "shrink" in (state.policy().tasks or ())


def underway() -> ShrinkRequest | None:
    """The wish that this session asked for last, or else one that runs while no answer is shown.

    ``None`` once it is done, and after ``begin_anew``.
    """
    asked: ShrinkRequest | None = st.session_state.get("shrink-asked")
    if asked is None and not st.session_state.get("shrink-run") and not st.session_state.get("wish-anew"):
        tasks = [job.task for job in state.worker().active if state.may_cancel(job)]
        asked = next((task for task in tasks if task.kind == "shrink"), None)
    return asked


def answer() -> tuple[Run | None, str | None]:
    """The run whose answer is shown, or why the one that was asked for cannot be."""
    run, problem = state.asked_for("shrink")
    return run, problem and f"{problem}."


def begin_anew() -> None:
    """Put the answer, or what is underway, away for the form; jobs go on. Only in a callback."""
    for key in ("shrink-asked", "shrink-run"):
        st.session_state.pop(key, None)
    st.query_params.pop("shrink", None)
    st.session_state["wish-anew"] = True


def training() -> Underway | None:
    """How far the training is that the engine runs; ``None`` for that of somebody else, and for none."""
    active = state.worker().active
    return training_of(state.worker().pid) if active and state.may_cancel(active[0]) else None


def shape_here(source: ModelSource) -> ModelShape | None:
    """The shape of a model; ``None`` where it has to be fetched first.

    Raises ``SlicescopeError`` where it cannot be made smaller, or cannot be read.
    """
    board = bundled_board()
    if source.kind == board.request.model.kind == "demo":  # to read its file takes seconds
        return board.result.shape
    state.policy().check(source)
    if must_fetch(source):
        return None
    found = _shape(source.to_json())
    if isinstance(found, str):
        raise ModelError(found)
    return found


@st.cache_data(ttl="1m", max_entries=32, show_spinner="Reading the configuration")
def _shape(source: str) -> ModelShape | str:
    """The shape, or why there is none."""
    try:
        return shape_of(ModelSource.from_json(source, "The model source"))
    except SlicescopeError as error:
        return str(error)


def itemsize(source: ModelSource) -> int:
    """Bytes of a parameter in the dtype that a model will be opened in."""
    return itemsize_of(source.dtype, source.device)


def known(source: ModelSource, wish: Wish, shape: ModelShape) -> tuple[Option, ...]:
    """What is known already of a wish, of runs that this session may see (``PlanError``)."""
    return known_options(source, wish, shape, itemsize(source), state.may_list)


def show_card(option: Option) -> None:
    """Let the study that ships show the card of one of its recipes; only in a callback."""
    state.choose_recipe(option.recipe.line, option.budget.line)
    state.show_run("study", option.key if is_stored(option.key) else DEMO)
