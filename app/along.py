"""The part of the Tune page that shows a plan over its target: its size, and what previews cost.

A click on the curve sets the target.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from analysis.errors import PlanError
from analysis.shape import ModelShape
from app import model_state, parts, plan_form, state, wording
from app.figures.plan import draw_over_targets
from app.plan_tables import over_targets_table
from slicing.over_targets import SizesOverTargets, at_target, sizes_over_targets
from slicing.plans import Plan
from slicing.preview import Preview
from slicing.studies.results import Run

STEPS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""The targets that are previewed, beside the plan's own."""
_POLL = 0.8  # seconds between looks at a preview that is being measured


def show_along(run: Run, plan: Plan, shape: ModelShape) -> None:
    """Show the curve, and offer to preview the perplexity along it where the run kept its bases."""
    st.header("Along the target", anchor=False)
    able = getattr(run.result, "bases", False) and model_state.is_current(run.request.model)
    asked = able and st.toggle(
        "Preview the perplexity along it",
        key="along-previews",
        help=wording.typeset(
            "The plan is cut and evaluated at SP 10, 20, 30, 40 and 50 %, one after the other, each time "
            "that it changes. Each takes some seconds."
        ),
    )
    if asked and _next(run, plan) is not None:
        known = len(_found(run, plan)) + len(_missed(run, plan))
        parts.apart(_ask, run, plan, known, every=_POLL)
    _draw(run, plan, shape, able)


def _ask(run: Run, plan: Plan, known: int) -> None:
    """Ask for the next preview, and draw the page anew when there are more than ``known``."""
    following = _next(run, plan)
    if following is None or len(_found(run, plan)) + len(_missed(run, plan)) > known:
        st.rerun()
    if _is_whole(state.preview_of(run, plan)):  # the plan itself goes first
        state.preview_alone(run, following)
    st.caption(f"Previewing SP {100 * following.target:.0f}\N{NO-BREAK SPACE}%.")


def _draw(run: Run, plan: Plan, shape: ModelShape, able: bool) -> None:
    """Draw the curve, and let a click choose a target."""
    redundancy = run.result.profile.redundancy(plan.score, plan.first_token)
    told = plan.model_copy(update={"target": 0.0}).key
    sizes = _sizes(told, redundancy, shape.key, _plan=plan, _shape=shape)
    found = _found(run, plan) if able else {}

    def pick(point: dict[str, Any]) -> None:
        plan_form.take(at_target(plan, round(point["x"]) / 100))

    drawing = draw_over_targets(sizes, plan.target, found, parts.theme())
    parts.chart(drawing, "along", over_targets_table(sizes, found), pick)
    st.caption("Click the curve to set the target there. Undo goes back.")
    for target, why in _missed(run, plan).items() if able else ():
        st.caption(f"No preview at SP {100 * target:.0f}\N{NO-BREAK SPACE}%: {state.told(why)}")


@st.cache_data(show_spinner=False, max_entries=64)
def _sizes(
    plan: str, redundancy: tuple[float, ...], shape: str, *, _plan: Plan, _shape: ModelShape
) -> SizesOverTargets:
    """The sizes, counted once for plans that differ in their target alone; the names are those of both."""
    return sizes_over_targets(_plan, redundancy, _shape)


def _places(plan: Plan) -> list[Plan]:
    """The plan at the targets that are previewed, as far as it can meet them, and as it is."""
    found = [plan]
    for target in STEPS:
        try:
            found.append(at_target(plan, target))
        except PlanError:
            continue
    return found


def _next(run: Run, plan: Plan) -> Plan | None:
    """The first place of which nothing is known yet."""
    return next((each for each in _places(plan) if state.known_preview(run, each) is None), None)


def _found(run: Run, plan: Plan) -> dict[float, Preview]:
    """The previews that are known, by their targets."""
    known = {each.target: state.known_preview(run, each) for each in _places(plan)}
    return {target: found for target, found in known.items() if isinstance(found, Preview)}


def _missed(run: Run, plan: Plan) -> dict[float, str]:
    """Why previews failed, by their targets, but that of the plan itself, which is told above."""
    known = {each.target: state.known_preview(run, each) for each in _places(plan)[1:]}
    return {target: why for target, why in known.items() if isinstance(why, str)}


def _is_whole(found: Preview | str | None) -> bool:
    """Whether nothing of a preview is still being measured."""
    return isinstance(found, str) or (found is not None and found.gain is not None)
