"""The switch of the model in the strip above every page, and what says that a page shows another model.

Knows nothing about what is shown.
"""

from __future__ import annotations

import streamlit as st

from analysis.errors import SlicescopeError
from analysis.sources.model import ModelSource
from app import model_state, state, wording
from slicing.studies.results import Run

EXAMPLE = "HuggingFaceTB/SmolLM2-135M"


def switch() -> None:
    """Draw the name of the session's model, which opens a list of others; part of a fragment."""
    if model_state.looks():
        st.switch_page("app_pages/model.py")
    if model_state.was_switched():
        st.rerun()  # all of the page
    now = state.source()
    label = wording.verbatim(now.label)
    with st.popover(
        f"**{label}**",
        icon=":material/deployed_code:",
        type="tertiary",
        key="model-switch",
        on_change="rerun",  # the list is read when it is looked at
        help="The model that every form of this session runs. Press it for another one.",
    ) as opened:
        if opened.open:
            _choices()


def _choices() -> None:
    st.markdown(f"Every form runs **{wording.verbatim(state.source().label)}**. Work on another model:")
    open_now = model_state.open_source()
    for name, source in model_state.choices().items():
        is_open = open_now is not None and source.is_same(open_now)
        st.button(
            wording.verbatim(name) + (" · is open" if is_open else ""),
            key=f"switch-{name}",
            icon=":material/deployed_code:",
            on_click=_take,
            args=(source,),
            width="stretch",
        )
    if state.policy().models is None:
        another("another-model", f"Another: a path or owner/name, for example {EXAMPLE}")


def another(key: str, label: str) -> None:
    """Ask for a model that is not in the list; the Model page shows it before anything is loaded."""
    said = st.text_input(label, placeholder=f"for example {EXAMPLE}", key=key)
    if not said.strip():
        return
    try:
        source = model_state.read(said)
    except SlicescopeError as error:
        st.warning(state.told(error), icon=":material/error:")
        return
    st.button(
        "See what it is",
        icon=":material/arrow_forward:",
        on_click=_look_at,
        args=(source, key),
        key=f"{key}-look",
        help="The Model page says whether it can be sliced and whether it fits, and makes it the model.",
    )


def _take(source: ModelSource) -> None:
    """Switch, and close the list; a callback."""
    model_state.switch(source)
    state.put({"model-switch": False})


def _look_at(source: ModelSource, key: str) -> None:
    """Let the Model page show a model, and close the list; a callback."""
    model_state.look_at(source)
    state.put({"model-switch": False, key: ""})


def told_of_another(run: Run) -> None:
    """Say that a run which is shown is not of the session's model, with one click that makes it so."""
    model = run.request.model
    if model_state.is_current(model):
        return
    theirs, ours = (wording.verbatim(each.label) for each in (model, state.source()))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.warning(
            f"This is a run of {theirs}. Forms run {ours}, which is the model of this session.",
            icon=":material/sync_problem:",
        )
        if model_state.may_switch(model):
            st.button(
                f"Work on {theirs}",
                icon=":material/deployed_code:",
                on_click=model_state.switch,
                args=(model,),
                key=f"work-on-{run.key}",
            )
