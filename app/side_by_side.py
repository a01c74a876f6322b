"""Two stored runs side by side: the parts of the Profile and the Runs page that show what parts them."""

from __future__ import annotations

import streamlit as st

from analysis.differences import can_be_relative
from analysis.errors import PlanError
from app import beside_state, controls, parts, state, wording
from app.figures.beside import draw_profile_difference, draw_two_profiles
from app.figures.compare import draw_differences, draw_window_losses
from app.tables import difference_table, profile_difference_table, window_table
from slicing.studies.beside import (
    Judged,
    block_numbers,
    deciding_model,
    difference_of_models,
    difference_of_profiles,
    judged_models,
    why_not_paired,
)
from slicing.studies.results import Run, TextUsed


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


def show_windows(first: Run, second: Run) -> None:
    """Show two models of two runs window by window, paired where the evaluation windows are the same."""
    st.header("Window by window")
    if why := why_not_paired(first, second):
        st.info(state.told(why), icon=":material/difference:")
        return
    titles = state.distinct_titles([first, second])
    chosen: list[Judged] = []
    for place, (run, title, column) in enumerate(
        zip((first, second), titles, st.columns(2, gap="large"), strict=True)
    ):
        models = judged_models(run)
        with column:
            named = st.selectbox(
                f"Model of {wording.verbatim(title)}",
                range(len(models)),
                index=deciding_model(run),
                format_func=lambda index, models=models: models[index].title,
                key=f"beside-{place}-{run.key}",
            )
        chosen.append(models[named])
    one, other = chosen
    if one.title == other.title:
        one, other = (
            each._replace(title=f"{each.title} ({name})") for each, name in zip(chosen, titles, strict=True)
        )
    try:
        found = difference_of_models(one, other)
    except PlanError as error:
        st.warning(state.told(error), icon=":material/difference:")
        return
    label = "later run against earlier"
    pairs = [(label, found)]
    st.markdown(wording.verbatim(wording.models_apart(found)))
    parts.chart(draw_differences(pairs, parts.theme()), "beside-difference", difference_table(pairs))
    used: TextUsed = first.result.evaluation  # type: ignore[union-attr]
    drawing = draw_window_losses(one.evaluation, other.evaluation, used, label, parts.theme())
    table = window_table(one.evaluation, other.evaluation, used, (one.title, other.title))
    parts.chart(drawing, "beside-windows", table)
    st.caption(
        f"Both were judged on the same {found.windows} windows, so what is hard in a window is hard for "
        "both, and the difference is paired."
    )
