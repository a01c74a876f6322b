"""The half of the Tune page that cuts inside the blocks: one slider, and its plan as a picture of the body.

The widths follow from costs that a profile holds, so that the slider is answered without the weights.
"""

from __future__ import annotations

import streamlit as st

from analysis.device import DTYPES
from analysis.errors import PlanError, SlicescopeError, visible
from analysis.shape import CACHED_TOKENS, ModelShape
from app import controls, model_state, parts, repeat, state, wording
from app.body import body_of, body_table
from app.figures.body import draw_body
from app.proposal import with_units
from slicing.budget import Budget
from slicing.inner.costs import UnitCosts, predicted_cost, widths_at
from slicing.inner.widths import InnerWidths
from slicing.studies.possible import check_study
from slicing.studies.requests import Judged
from slicing.studies.results import Run
from slicing.studies.store import costs_inside
from slicing.studies.study import Study, recipes

COMPARED = ("slice(constant)", "mixed")
"""The recipes of the comparison: the baseline, and the one that shares one budget out as the picture does."""


def tuning(run: Run) -> None:
    """The slider with its plan and what to do with it; without costs, a way to measure them."""
    found = costs_inside(run)
    if found is None:
        _no_costs(run)
        return
    costs, shape = found
    choice, view = st.columns([3, 7], gap="large")
    with choice:
        fewer = controls.share(
            "Fewer parameters",
            "fewer",
            0.2,
            "Of all parameters of the model. Embedding and head stay as they are.",
            low=5,
            high=60,
        )
    size = round(shape.parameters * (1 - fewer))
    try:
        widths = widths_at(costs, shape, size)
    except PlanError as error:
        with view:
            st.error(state.told(error), icon=":material/error:")
        return
    try:
        study = _study(run, size)
        check_study(study, shape)
    except SlicescopeError as error:
        study = None
        choice.warning(state.told(error), icon=":material/warning:")
    with view:
        _draw(widths, costs, shape, DTYPES[run.environment.dtype].itemsize)
        if (
            not costs.measured_windows
            and not state.policy().demo_mode
            and st.button(
                model_state.button("Measure attentions and MLPs too", run.request.model),
                icon=":material/query_stats:",
            )
        ):
            parts.ask(lambda: with_units(run, measured=True))
        if study:
            st.caption(_compared(study, size))
    if study:
        with choice:
            _actions(run, study)


def _no_costs(run: Run) -> None:
    """Say what is missing, and measure it."""
    with st.container(border=True):
        st.markdown(
            "This profile does not hold **what the parts inside the blocks cost**. Costs are predicted from "
            "one pass forward and one back over the windows; then every plan is answered at once."
        )
        measured = not state.policy().demo_mode and st.toggle(
            "Measure whole attentions and MLPs too",
            key="measure-branches",
            help="In the first blocks predictions are too low, and are scaled to what is measured. Takes a "
            "pass for every attention and every MLP.",
        )
        label = model_state.button("Measure the costs", run.request.model)
        if st.button(label, type="primary", icon=":material/query_stats:"):
            parts.ask(lambda: with_units(run, measured))


def _draw(widths: InnerWidths, costs: UnitCosts, shape: ModelShape, itemsize: int) -> None:
    """Where the plan cuts, what that is predicted to cost, and what it would leave."""
    st.markdown(wording.predicted_loss(predicted_cost(costs, widths)))
    boxes = body_of(shape, widths)
    parts.chart(draw_body(boxes, parts.theme()), "body", body_table(boxes))
    st.caption(f"{wording.BODY_READING} {wording.first_blocks(costs)}")
    left = widths.shape_after(shape)
    grid = st.grid(4, min_column_width=150, gap="medium")
    for label, words, size_of in (
        ("Parameters", wording.millions, lambda s: s.parameters),
        ("Weight memory", wording.memory, lambda s: s.weight_bytes(itemsize)),
        ("FLOPs per token", wording.flops, lambda s: s.flops_per_token),
        (
            f"Cache of {CACHED_TOKENS:,} tokens",
            wording.memory,
            lambda s: s.cache_bytes(CACHED_TOKENS, itemsize),
        ),
    ):
        dense, ours = map(size_of, (shape, left))
        if dense:  # a model without attention caches nothing
            parts.card(grid, label, words(ours), ours / dense - 1, f"dense: {words(dense)}")


def _actions(run: Run, study: Study) -> None:
    """Compare the plan with constant slicing of the same size, or pass it on."""
    parts.warn(study, run)
    parts.start("Compare at this size", lambda: study, ":material/balance:")
    blind = state.policy().blind(study)
    with st.popover("Share", icon=":material/share:"):
        st.caption("This page with these settings")
        st.code(state.link(), language=None, wrap_lines=True)
        st.caption(f"The same comparison from the command line, which reads {repeat.STUDY_FILE}")
        st.code(visible(repeat.command(blind)), language="bash", wrap_lines=True)
        st.code(visible(repeat.study_file(blind)), language="toml", wrap_lines=True)


def _compared(study: Study, size: int) -> str:
    """Say what a comparison does, in Markdown."""
    return (
        f"The comparison makes two models of {size:,} parameters, by {' and '.join(COMPARED)}. It calibrates "
        f"on {wording.verbatim(study.calibration.label)} and evaluates on "
        f"{wording.verbatim(study.evaluation.label)}, {wording.windows_of_both(study)}. It finds the "
        "costs anew on its own windows, so that widths may differ from this picture."
    )


def _study(run: Run, size: int) -> Study:
    """Ask for both recipes at a size, on the model and the texts of a run (``PlanError``)."""
    judged = state.proposal(run).judged
    if not judged.model.is_same(run.request.model):
        raise PlanError(
            f"This size is one of {run.request.model.label}, and the model of this session is "
            f"{judged.model.label}: work on {run.request.model.label} to compare it."
        )
    shared = {name: getattr(judged, name) for name in Judged.model_fields}
    return Study(
        **shared,
        recipes=recipes(*COMPARED),
        budgets=(Budget(measure="size", amount=size),),
        seeds=(judged.seed,),
        view="ranking",
    )
