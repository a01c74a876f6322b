"""Which run the profile is held against, as a session and its address remember it."""

from __future__ import annotations

import streamlit as st

from analysis.errors import StorageError
from app import state
from slicing.studies.results import Run
from slicing.studies.store import find_run

_NAME = "against"


def against() -> str | None:
    """Give the key of the run that the profile is held against, of the session or of the address."""
    key = st.session_state.setdefault(_NAME, st.query_params.get(_NAME))
    if key and st.query_params.get(_NAME) != key:
        st.query_params[_NAME] = key
    return key


def hold_against(key: str) -> None:
    """Hold the profile against the run of this key from now on."""
    st.session_state[_NAME] = st.query_params[_NAME] = key


def others_than(run: Run, score: str) -> dict[str, Run]:
    """List what the profile of a run can be held against, by key: the stored runs, and one a link names."""

    def fits(other: Run) -> bool:
        return other.key != run.key and score in other.result.profile.scores()

    found = {
        each.key: each
        for each in state.stored()
        if each.request.kind not in ("trial", "search") and fits(each)
    }
    named = against()
    if named and named not in found:
        try:
            linked = find_run(named)
        except StorageError:  # deleted meanwhile: the others are offered
            return found
        if linked.key == named and fits(linked):  # a whole key, since first digits are quickly guessed
            found[named] = linked
    return found
