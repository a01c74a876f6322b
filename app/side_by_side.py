"""Two stored runs side by side: the tab of the Profile page that shows what parts two profiles."""

from __future__ import annotations

import streamlit as st

from analysis.differences import can_be_relative
from analysis.errors import PlanError
from app import beside_state, controls, parts, state, wording
from app.figures.beside import draw_profile_difference, draw_two_profiles
from app.tables import profile_difference_table
from slicing.study.beside import block_numbers, difference_of_profiles
from slicing.study.results import Run


def show_difference(run: Run) -> None:
    """Show the profile of a run against another one that is chosen, block by block with intervals."""
    score, first_token = controls.shown_score()
    others = beside_state.others_than(run, score)
    if not others:
        st.info("There is no other run to compare with yet: profile another model, or another text.")
        return
    keys, named = list(others), beside_state.against()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        chosen = st.selectbox(
            "Held against",
            keys,
            index=keys.index(named) if named in others else 0,
            format_func=lambda key: state.run_title(others[key]),
            key="held-against",
            persist_state="session",
            help="Differences are of the profile that this page shows, less this one.",
        )
        profiles = [each.result.profile for each in (others[chosen], run)]
        possible = can_be_relative(profiles, score, first_token)
        relative = st.toggle(
            "In percent",
            value=True,
            key="difference-percent",
            bind="query-params",
            disabled=not possible,
            help="Ratios of what both change, so that a block that changes much does not hide the others.",
        )
    if chosen != named:
        beside_state.hold_against(chosen)
    try:
        found = difference_of_profiles(others[chosen], run, score, first_token, relative and possible)
    except PlanError as error:
        st.warning(state.told(error), icon=":material/difference:")
        return
    blocks = block_numbers(run)[0]
    names = state.distinct_titles([others[chosen], run])
    table = profile_difference_table(found, names)
    parts.chart(draw_profile_difference(found, blocks, parts.theme()), "difference", table)
    st.caption(wording.how_sure(found))
    parts.chart(draw_two_profiles(found, names, blocks, parts.theme()), "two-profiles", table)
