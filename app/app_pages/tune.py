"""Page: how much to cut where. Every slider answers at once, since nothing here needs the weights."""

import json
from typing import Any

import streamlit as st

from analysis.device import DTYPES
from analysis.errors import PlanError, visible
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from app import controls, inside, model_state, parts, plan_form, plan_state, repeat, state, wording
from app.along import show_along
from app.figures.handles import HEADROOM, handles
from app.figures.plan import draw_schedule
from app.proposal import with_bases
from app.stream_view import show_planned_stream
from app.tables import schedule_table
from slicing.by_hand import by_hand, give_way, give_way_at_size
from slicing.plans import Plan
from slicing.preview import Preview
from slicing.schedule import SlicingSchedule
from slicing.studies.results import Run

_WAYS = {"width": "Slice the width", "inside": "Cut inside blocks"}
_STYLE = """<style>
@media (max-width: 640px) {
  [data-testid="stColumn"]:has(> div > div > .st-key-plan-picture),
  [data-testid="stColumn"] > div:has(> div > .st-key-plan-picture) { display: contents; }
  :has(> .st-key-plan-picture) { order: -1; flex: 1 1 100%; }
  :has(> .st-key-plan-more) { flex: 1 1 100%; }
}
</style>"""
"""On a phone the chart stands before its controls, and all else behind them."""
HEIGHT = 300
"""Of the chart, so that it stands on a small screen with what it says."""
HELD = {"mean": "Mean slice", "size": "Parameters"}
"""What the other blocks hold when a bar is moved."""
_ABOUT = {
    "width": "Every block loses the base or more, up to the rounding of widths; the redundant ones lose "
    "more, until the mean is the target.",
    "inside": "Channels, heads, value ranks and whole attentions and MLPs go: first those that are predicted "
    "to cost least for their parameters, wherever they are.",
}


def _draw(plan: Plan, profile: LayerProfile, shape: ModelShape) -> tuple[SlicingSchedule, SlicingSchedule]:
    """Draw what the plan and constant slicing would leave (``PlanError`` if the plan cannot be met)."""
    redundancy = profile.redundancy(plan.score, plan.first_token)
    fractions = plan.fractions(redundancy)
    plan_state.keep_plan(plan)
    planned, constant = plan.schedule(redundancy, shape), plan.constant(shape)
    st.markdown(wording.reduction(planned, shape))
    table = schedule_table(planned, constant, fractions, redundancy, profile.block_path)
    path, theme = profile.block_path, parts.theme()
    drawing = draw_schedule(planned, constant, fractions, plan.allocation, path, theme, HEIGHT, HEADROOM)
    parts.chart(drawing, "plan", table)
    _by_hand(plan, planned, redundancy, shape)
    return planned, constant


def _by_hand(plan: Plan, planned: SlicingSchedule, redundancy: tuple[float, ...], shape: ModelShape) -> None:
    """Let people move the tops of the bars; the others give way so that what they choose holds."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        held = controls.choice("The others keep", "held", HELD, "mean")
        st.caption(
            "Drag the top of a bar, or focus it and press the arrow keys: up and down change it, left and "
            "right go to the next. The other blocks give way.",
            width="stretch",
        )
    st.text_input(
        "Block and percent",
        key="plan-move",
        on_change=_move,
        args=(plan, planned.block_fractions, redundancy, shape, held),
    )
    step = plan.rounding / shape.hidden_size
    told = handles(planned.block_fractions, step, plan.max_fraction, plan_state.moves_taken(), parts.theme())
    st.html(told, unsafe_allow_javascript=True)


def _move(
    plan: Plan,
    shares: tuple[float, ...],
    redundancy: tuple[float, ...],
    shape: ModelShape,
    held: str,
) -> None:
    """Take the bar that was moved as it is now, and let the others give way; only in a callback."""
    moved = plan_state.moved_bar()
    if moved is None or moved[0] >= len(shares):
        return
    if held == "size":
        found = give_way_at_size(plan, shares, *moved, redundancy, shape)
        plan_form.take(by_hand(plan, found))
        return
    found = give_way(shares, *moved, plan.target, plan.max_fraction)
    plan_form.take(by_hand(plan, found).model_copy(update={"target": plan.target}))


def _sizes(planned: SlicingSchedule, constant: SlicingSchedule, shape: ModelShape, itemsize: int) -> None:
    """The four sizes, each against dense and beside constant slicing's."""
    grid = st.grid(4, min_column_width=150, gap="medium")
    mean = f"constant: {wording.percent(constant.mean_slice)}"
    parts.card(grid, "Mean slice", wording.percent(planned.mean_slice), None, mean)
    shapes = (shape, planned.shape_after(shape), constant.shape_after(shape))
    for label, words, size_of in (
        ("Parameters", wording.millions, lambda s: s.parameters),
        ("Weight memory", wording.memory, lambda s: s.weight_bytes(itemsize)),
        ("FLOPs per token", wording.flops, lambda s: s.flops_per_token),
    ):
        dense, ours, theirs = map(size_of, shapes)
        note = f"constant: {words(theirs)}, {wording.percent(theirs / dense - 1, signed=True)}"
        parts.card(grid, label, words(ours), ours / dense - 1, note)


_POLL = 0.4  # seconds between looks at a preview that is being measured


def _previews(run: Run, plan: Plan) -> None:
    """The perplexity that the plan would leave, where the run kept its bases."""
    if not getattr(run.result, "bases", False):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(
                "**Preview the perplexity** of every plan as you move the sliders: the bases of the stream "
                "are kept from one pass over the model, and each plan then takes seconds.",
                width="stretch",
            )
            label = model_state.button("Prepare previews", run.request.model)
            parts.start(label, lambda: with_bases(run), ":material/speed:", primary=False, width="content")
        return
    if not model_state.is_current(run.request.model):
        st.caption("Plans are previewed on the model of this session alone, and this is a run of another.")
        return
    waiting = _missing(state.preview_of(run, plan))
    parts.apart(_preview, run, plan, waiting, every=_POLL if waiting else None)


def _missing(found: Preview | str | None) -> int:
    """Count what of a preview is still being measured: the plan, and constant slicing beside it."""
    return 2 if found is None else int(isinstance(found, Preview) and found.gain is None)


def _pending(grid: Any, label: str) -> None:
    """The card of a number that is being measured."""
    with grid.container(border=True, height="stretch"):
        st.metric(label, "…")
        st.caption("measuring")


def _preview(run: Run, plan: Plan, waiting: int) -> None:
    found = state.preview_of(run, plan)
    if _missing(found) < waiting:
        # All of the page: the curve and the cloud tell the plan's number too, and at last nothing polls.
        st.rerun()
    if isinstance(found, str):
        st.warning(f"No preview: {state.told(found)}", icon=":material/speed:")
        return
    grid = st.grid(3, min_column_width=150, gap="medium")
    if found is None:
        for label in ("Preview perplexity", "Constant", "Plan against constant"):
            _pending(grid, label)
        st.caption("Cutting in the bases of the dense stream, then evaluating: some seconds.")
        return
    dense = found.dense.perplexity
    for label, value in (("Preview perplexity", found.planned), ("Constant", found.constant)):
        if value is None:
            _pending(grid, label)
        else:
            parts.card(
                grid, label, f"{value.perplexity:.2f}", value.perplexity / dense - 1, f"dense: {dense:.2f}"
            )
    if found.gain is None:
        _pending(grid, "Plan against constant")
    else:
        with grid.container(border=True, height="stretch"):
            st.metric("Plan against constant", wording.change(found.gain))
            st.caption(wording.preview_verdict(found.gain))
    st.caption(wording.previewed(found))


def _actions(run: Run, plan: Plan, planned: SlicingSchedule) -> None:
    """What to do with the plan: compare it, keep it, pass it on."""
    proposal = state.proposal(run).comparison()
    if plan.allocation != "manual":
        by_hand = plan_form.by_hand(plan, planned.block_fractions)
        st.button(
            "Edit by hand",
            icon=":material/edit:",
            on_click=plan_form.take,
            args=(by_hand,),
            width="stretch",
            help="Start from these bars and change single blocks.",
        )
    parts.warn(proposal, run)
    label = model_state.button("Compare with constant", proposal.model, run)
    parts.start(label, lambda: proposal, ":material/balance:")
    with st.container(horizontal=True):
        content = {"model": run.request.model.label, "plan": plan, "schedule": planned}
        st.download_button(
            "plan.json",
            json.dumps(content, indent=2, default=lambda value: value.model_dump(mode="json")),
            file_name="plan.json",
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        with st.popover("Share", icon=":material/share:"):
            st.caption("This page with these settings")
            st.code(state.link(), language=None, wrap_lines=True)
            st.caption("The same comparison from the command line")
            st.code(visible(repeat.command(state.policy().blind(proposal))), language="bash", wrap_lines=True)
    st.caption(
        f"The comparison slices on {wording.verbatim(proposal.calibration.label)} and evaluates on "
        f"{wording.verbatim(proposal.evaluation.label)}, {wording.windows_of_both(proposal)}."
        + (
            ""
            if wording.profiled(proposal) == wording.profiled(run.request)
            else " It profiles anew on its own calibration windows, so widths may differ a little from this "
            "preview."
        )
    )


def _tuning(run: Run, shape: ModelShape) -> None:
    """Controls and preview together, so that a slider redraws nothing else."""
    itemsize = DTYPES[run.environment.dtype].itemsize
    st.html(_STYLE)
    choice, view = st.columns([3, 7], gap="large")
    try:
        with choice:
            top = st.container()
            plan = plan_form.plan(run.result.profile, shape, run.request.model.device)
        with view, st.container(key="plan-picture"):
            planned, constant = _draw(plan, run.result.profile, shape)
        with view, st.container(key="plan-more"):
            _sizes(planned, constant, shape, itemsize)
            _previews(run, plan)
        with top:  # now that the plan before this one is known
            plan_form.starts(run.result.profile, shape)
        with choice:
            _actions(run, plan, planned)
        show_along(run, plan, shape)
        show_planned_stream(run, plan, planned)
    except PlanError as error:
        with view:
            st.error(state.told(error), icon=":material/error:")


st.title("How much to cut where?")
way = controls.choice("What to cut", "cut", _WAYS, "width")
st.markdown(_ABOUT[way])
if shown := parts.provenance("profile"):
    if shown.run.result.shape is None:
        why = state.told(getattr(shown.run.result, "not_sliceable", None) or "")
        st.warning(f"This model cannot be sliced. {why}")
    elif way == "inside":
        parts.apart(inside.tuning, shown.run)
    else:
        parts.apart(_tuning, shown.run, shown.run.result.shape)
