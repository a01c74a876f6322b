"""Page: what slicing cost, read in one glance; below it the evidence, and how to repeat it."""

from typing import Any

import streamlit as st

from analysis.errors import SlicescopeError, visible
from app import forms, model_state, own, parts, plan_state, row_actions, state, wording
from app.body import body_of, body_table
from app.figures.body import draw_body
from app.figures.compare import draw_differences, draw_perplexities, draw_windows
from app.figures.plan import draw_schedule
from app.other_way import best_other_way
from app.planned import held_back, plan_asked
from app.tables import (
    difference_table,
    int8_table,
    passage_table,
    perplexity_table,
    schedule_table,
    size_table,
    task_table,
)
from slicing.plans import Plan
from slicing.studies.needs import request_need
from slicing.studies.results import Run
from slicing.studies.store import bundled_board
from slicing.studies.verdicts import Comparison, read_comparison

_VERDICTS: dict[str, Any] = {
    "better": "green",
    "worse": "orange",
    "no clear difference": "gray",
    "too few windows to tell": "gray",
}


def _set_up() -> None:
    """The form of a new comparison; the plan is the one from the Tune page."""
    profiled = state.shown("profile")
    if profiled is None:
        return
    usual, compared = state.proposal(profiled.run), state.shown("compare")
    seen = compared.run if compared else None
    with st.expander("Set up a comparison", icon=":material/balance:"):
        st.markdown(
            f"**{wording.verbatim(usual.judged.model.label)}**: {wording.plan_line(usual.plan)}. "
            "The plan is made on the Tune page."
        )
        own.own_inputs({"calibration": "Calibration", "evaluation": "Evaluation"})
        with st.form("compare-form", border=False, enter_to_submit=False):
            try:
                study, problem = forms.comparison_form(usual), None
            except SlicescopeError as error:
                study, problem = None, state.told(error)
            label = model_state.button("Compare", usual.judged.model, profiled.run, seen)
            pressed = parts.start_form(label, lambda: study or profiled.run.request, ":material/play_arrow:")
        if problem:
            st.warning(problem, icon=":material/warning:")
        if study:
            parts.warn(study, profiled.run)
        if study:
            try:
                shape = model_state.shape_of(study.model, profiled.run)
                if shape and (need := request_need(study, shape, state.told_of(study.model.device))):
                    st.caption(wording.memory_taken(need))
            except SlicescopeError as error:
                st.warning(state.told(error), icon=":material/warning:")
        if pressed and study:
            parts.ask(lambda: study)


def _answer(found: Comparison, run: Run) -> None:
    """The cost against dense; then against constant slicing, with the intervals drawn; then the best other
    way.
    """
    pairs, verdict = wording.deciding(found), found.planned != "constant"
    with st.container(border=True):
        st.header(wording.cost(found))
        told, drawn = st.columns(2, gap="large")
        with told:
            if verdict:
                st.subheader(wording.verdict(found))
            _other_way(found, run)
        with drawn:
            drawing, table = draw_differences(pairs, parts.theme()), difference_table(pairs)
            parts.chart(drawing, "difference", table, said_already=True)
        for how, each in pairs:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.badge(each.verdict, color=_VERDICTS[each.verdict])
                told = wording.evidence(each, change_told=verdict)
                st.markdown(f"{how.capitalize()}: {told}", width="stretch")
    _perplexities(found)


def _other_way(found: Comparison, run: Run) -> None:
    """Say what the best other way costs at this size, and link to it."""
    best = best_other_way(run, found, state.may_list)
    st.markdown(wording.verbatim(wording.other_way(found, best)))
    if best and best.key == bundled_board().key:
        leads = st.button("Look at that study", icon=":material/leaderboard:", type="tertiary")
        if leads:
            state.show_run("study", "demo-frontier")
            st.switch_page("app_pages/study.py", query_params={"study": "demo-frontier"})
    else:
        page, label = ("runs", "Look at the runs") if best else ("study", "Try others on the Study page")
        st.page_link(f"app_pages/{page}.py", label=label, icon=":material/arrow_forward:")


def _perplexities(found: Comparison) -> None:
    """The perplexities of all models side by side, and how they were measured."""
    dense, evaluation = found.measured["dense"].evaluation, found.result.evaluation
    grid = st.grid(4, min_column_width=180, gap="medium")
    for each in found.measured.values():
        change = None if each.name == "dense" else each.evaluation.perplexity / dense.perplexity - 1.0
        drawn = "" if change is None else f" of {wording.draws(1)}"
        note = (
            f"perplexity{drawn}, 95\N{NO-BREAK SPACE}% interval {wording.interval(each.evaluation.interval)}"
        )
        parts.card(grid, each.title, f"{each.evaluation.perplexity:.2f}", change, note)
    how = wording.sequential_or_one_shot(found.study)
    st.caption(f"{wording.verbatim(evaluation.label)}: {dense.protocol}. {how}")
    st.caption(wording.window_reading(evaluation))
    for told in wording.study_reading(found.study):
        st.caption(told)
    for each in found.measured.values():
        for told in filter(None, (wording.repaired(each), wording.healed(each))):
            st.caption(wording.verbatim(told))


def _evidence(found: Comparison) -> None:
    """Charts and tables."""
    planned, measured = found.planned, list(found.measured.values())
    st.subheader("Perplexity")
    parts.chart(draw_perplexities(measured, parts.theme()), "perplexity", perplexity_table(measured))
    st.subheader("Where the difference comes from")
    baseline = "dense" if planned == "constant" else "constant"
    drawing = draw_windows(found, baseline, planned, parts.theme())
    parts.chart(drawing, "windows", passage_table(found, baseline, planned))
    if (scores := task_table(measured)) is not None:
        st.subheader("What they score on tasks")
        parts.rows(scores, "tasks")
    if (eight := int8_table(measured)) is not None:
        st.subheader("In 8 bits")
        parts.rows(eight, "int8")
        st.caption(wording.INT8_READING)
    st.subheader("Four sizes, and what they took")
    parts.rows(size_table(found), "sizes")
    if timed := next((each.speed for each in measured if each.speed), None):
        st.caption(wording.speed(timed))
    st.subheader("What was cut where")
    schedule, constant = (found.measured[name].schedule for name in (planned, "constant"))
    if schedule and constant:
        profile, plan = found.result.profile, plan_asked(found.study) or Plan()
        redundancy = profile.redundancy(profile.held(plan.score))
        fractions, path = held_back(schedule, plan), profile.block_path
        drawing = draw_schedule(schedule, constant, fractions, planned, path, parts.theme())
        parts.chart(drawing, "widths", schedule_table(schedule, constant, fractions, redundancy, path))
    judged = found.measured[planned]
    if judged.inner or judged.layout:
        boxes = body_of(found.result.shape, judged.inner, judged.layout, judged.schedule)
        parts.chart(draw_body(boxes, parts.theme()), "body", body_table(boxes))
        st.caption(wording.BODY_READING)


def _illustration(found: Comparison) -> None:
    """What each model makes of the prompt."""
    if not any(each.sample for each in found.measured.values()):
        return
    st.subheader("An illustration, not evidence")
    st.caption(f"Each model continues the prompt greedily: “{wording.verbatim(found.study.prompt)}”")
    grid = st.grid(4, min_column_width=220, gap="medium")
    for each in found.measured.values():
        if each.sample:
            with grid.container(border=True, height="stretch"):
                st.markdown(f"**{wording.verbatim(each.title)}**")
                st.text(visible(each.sample.text.strip()))
                st.caption(f"{each.sample.tokens} tokens")


st.title("What did it cost?")
st.markdown(
    "The dense model, constant slicing and one plan or recipe beside them, evaluated on the same windows in "
    "the same run."
)
_set_up()
if shown := parts.provenance("compare"):
    run = shown.run
    if run.request.kind == "study" and run.result.kind == "study":
        compared = read_comparison(run.request, run.result)
        plan = plan_asked(compared.study)
        if plan and plan_state.was_tuned() and plan != plan_state.tuned_plan():
            st.caption(
                "The plan on the Tune page has changed since: set up a comparison to see what that costs."
            )
        _answer(compared, run)
        _evidence(compared)
        _illustration(compared)
        st.subheader("Repeat it, keep it")
        parts.reproduction(run)
        row_actions.of_comparison(run)
