"""Page: what slicing cost, read in one glance; below it the evidence, and how to repeat it."""

from typing import Any

import streamlit as st

from analysis.errors import SlicescopeError, visible
from app import controls, parts, state, wording
from app.figures.compare import draw_differences, draw_perplexities, draw_windows
from app.figures.plan import draw_schedule
from app.tables import (
    difference_table,
    passage_table,
    perplexity_table,
    schedule_table,
    size_table,
    task_table,
)
from slicing.bench import memory_need
from slicing.runs import CompareRecipe, CompareResult
from slicing.study.store import MODEL_FOLDER, folder_of

VERDICTS: dict[str, Any] = {
    "better": "green",
    "worse": "orange",
    "no clear difference": "gray",
    "too few windows to tell": "gray",
}


def set_up() -> None:
    """The form of a new comparison; the plan is the one from the Tune page."""
    profiled = state.shown("profile")
    if profiled is None:
        return
    usual = state.proposal(profiled.run)
    with st.expander("Set up a comparison", icon=":material/balance:"):
        st.markdown(
            f"**{wording.verbatim(usual.model.label)}**: {wording.plan_line(usual.plan)}. "
            "The plan is made on the Tune page."
        )
        with st.form("compare-form", border=False):
            try:
                recipe, problem = controls.comparison(usual), None
            except SlicescopeError as error:
                recipe, problem = None, state.told(error)
            pressed = st.form_submit_button("Run", type="primary", icon=":material/play_arrow:")
        if problem:
            st.warning(problem, icon=":material/warning:")
        if recipe:
            parts.warn(recipe, profiled.run)
        if recipe and (shape := profiled.run.result.shape):
            try:
                need = memory_need(recipe, shape, state.told_of(recipe.model.device))
                st.caption(f"Slicing takes {need} at its peak.")
            except SlicescopeError as error:
                st.warning(state.told(error), icon=":material/warning:")
        if pressed and recipe:
            parts.queue(lambda: recipe)


def headline(result: CompareResult, recipe: CompareRecipe) -> None:
    """The verdict, then the perplexities beside it."""
    planned = recipe.planned
    with st.container(border=True):
        st.header(wording.verdict(result, planned))
        for how, each in wording.paired_differences(result, planned):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.badge(each.verdict, color=VERDICTS[each.verdict])
                st.markdown(f"{how.capitalize()}: {wording.evidence(each)}")
    dense = result.contestant("dense").evaluation
    grid = st.grid(4, min_column_width=180, gap="medium")
    for each in result.contestants:
        change = None if each.name == "dense" else each.evaluation.perplexity / dense.perplexity - 1.0
        note = f"perplexity, 95 % interval {wording.told_interval(each.evaluation.interval)}"
        parts.card(grid, each.title, f"{each.evaluation.perplexity:.2f}", change, note)
    st.caption(
        f"{wording.verbatim(result.evaluation.label)}: {dense.protocol}. {wording.METHODS[recipe.method]}"
    )
    st.caption(wording.window_reading(result.evaluation))
    for each in result.contestants:
        if told := wording.repaired(each):
            st.caption(wording.verbatim(told))


def evidence(result: CompareResult, recipe: CompareRecipe) -> None:
    """Charts and tables."""
    planned = recipe.planned
    pairs = wording.paired_differences(result, planned)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Perplexity")
        table = perplexity_table(result.contestants)
        parts.chart(draw_perplexities(result.contestants, parts.theme()), "perplexity", table)
    with right:
        st.subheader("Paired difference")
        parts.chart(draw_differences(pairs, parts.theme()), "difference", difference_table(pairs))
    st.subheader("Where the difference comes from")
    baseline = "dense" if planned == "constant" else "constant"
    drawing = draw_windows(result, baseline, planned, parts.theme())
    parts.chart(drawing, "windows", passage_table(result, baseline, planned))
    if (scores := task_table(result.contestants)) is not None:
        st.subheader("What they score on tasks")
        parts.rows(scores, "tasks")
    st.subheader("Four sizes, and what they took")
    parts.rows(size_table(result), "sizes")
    if timed := next((each.speed for each in result.contestants if each.speed), None):
        st.caption(wording.speed(timed))
    st.subheader("What was cut where")
    schedule, constant = (result.contestant(name).schedule for name in (planned, "constant"))
    if schedule and constant:
        path, redundancy = (
            result.profile.block_path,
            result.profile.redundancy(result.profile.held(recipe.plan.score)),
        )
        drawing = draw_schedule(schedule, constant, result.fractions, planned, path, parts.theme())
        parts.chart(drawing, "widths", schedule_table(schedule, constant, result.fractions, redundancy, path))


def illustration(result: CompareResult, prompt: str) -> None:
    """What each model makes of the prompt."""
    if not any(each.sample for each in result.contestants):
        return
    st.subheader("An illustration, not evidence")
    st.caption(f"Each model continues the prompt greedily: “{wording.verbatim(prompt)}”")
    grid = st.grid(4, min_column_width=220, gap="medium")
    for each in result.contestants:
        if each.sample:
            with grid.container(border=True, height="stretch"):
                st.markdown(f"**{wording.verbatim(each.title)}**")
                st.text(visible(each.sample.text.strip()))
                st.caption(f"{each.sample.tokens} tokens")


def keep(recipe: CompareRecipe) -> None:
    """The sliced model itself: make it, or say where it is."""
    if state.policy().demo_mode:  # nothing is kept for strangers
        return
    slicing = recipe.slice_recipe()
    folder = folder_of(slicing) / MODEL_FOLDER
    if folder.is_dir():
        st.markdown("The sliced model of this plan is kept in this folder; the Model page opens it.")
        st.code(str(folder), language=None, wrap_lines=True)
    elif st.button("Make and keep the sliced model", icon=":material/content_cut:"):
        parts.queue(lambda: slicing)


st.title("What did it cost?")
st.markdown("Dense, constant and planned slicing, evaluated on the same windows in the same run.")
set_up()
if shown := parts.provenance("compare"):
    run, result, recipe = shown.run, shown.run.result, shown.run.recipe
    if isinstance(result, CompareResult) and isinstance(recipe, CompareRecipe):
        if recipe.plan != state.plan():
            st.caption(
                "The plan on the Tune page has changed since: set up a comparison to see what that costs."
            )
        headline(result, recipe)
        evidence(result, recipe)
        illustration(result, recipe.prompt)
        st.subheader("Repeat it, keep it")
        parts.reproduction(run)
        if not state.policy().demo_mode:  # where disks and paths are no business of visitors
            keep(recipe)
