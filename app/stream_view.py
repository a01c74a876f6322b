"""The part of the Profile and the Tune page that shows the stream before one block as a cloud of tokens."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from analysis.cloud import WIDEST, Cloud
from analysis.details import Details
from analysis.errors import StorageError
from app import controls, model_state, parts, state, wording
from app.figures.cloud import CloudView, Cost, Grip, alive
from app.story import case_of
from slicing.plans import Plan
from slicing.preview import Preview
from slicing.schedule import SlicingSchedule
from slicing.studies.results import Run
from slicing.studies.store import find_details


class _Kept(NamedTuple):
    """What a run kept of its stream."""

    details: Details
    cloud: Cloud


def show_stream(run: Run, block: int) -> None:
    """Show the stream that enters a block, with the width in the hands of whoever looks."""
    st.header(f"The stream before block {block}")
    if kept := _kept(run):
        view = _measured(run, kept) or CloudView.cut_by_a_quarter(kept.cloud, kept.details.pieces)
        _picture(view._replace(about=f"profile {run.key}"), block)
        st.caption(
            f"{_read(kept.cloud, block)} The energies are of all tokens but the first of each window. Drag "
            "the width: the thin directions go, and each token falls to the plane of those that are kept."
        )


def show_planned_stream(run: Run, plan: Plan, planned: SlicingSchedule) -> None:
    """Show the stream that enters a block, as wide as a plan leaves it; dragging the width moves the plan."""
    st.header("The stream as the plan leaves it")
    block = controls.block(run.result.profile)
    if kept := _kept(run):
        size = planned.hidden_size
        grip = Grip(block, max(1, round(size * (1.0 - plan.max_fraction))), plan.rounding)
        width, cost = float(planned.widths[block]), _cost(run, plan)
        _picture(CloudView(kept.cloud, kept.details.pieces, (), width, f"plan {run.key}", cost, grip), block)
        st.caption(
            f"{_read(kept.cloud, block)} Drag the width: when you let go, the plan cuts this block so, and "
            "the other blocks give way as above."
        )


def _kept(run: Run) -> _Kept | None:
    """Give the details of a run and its cloud; where there is none, the page says why."""
    try:
        found = find_details(run)
    except StorageError as error:
        st.warning(state.told(error), icon=":material/broken_image:")
        return None
    if found is not None and found.cloud is not None:
        return _Kept(found, found.cloud)
    shape = getattr(run.result, "shape", None)
    if shape is not None and shape.hidden_size > WIDEST:
        st.info(
            f"No token states are kept of a stream wider than {WIDEST:,}: its directions would take minutes."
        )
    else:
        st.info("This run was stored without token states: measure it again to see the stream here.")
    return None


def _measured(run: Run, kept: _Kept) -> CloudView | None:
    """The cloud with the widths whose perplexity is known, where the run is a comparison that knows some."""
    try:
        view = case_of(run, kept.details).cloud
    except StorageError:
        return None
    return view and view._replace(cloud=kept.cloud)


def _picture(view: CloudView, block: int) -> None:
    """The picture of one block."""
    alone = view._replace(cloud=view.cloud.only([view.cloud.nearest(block)]))
    picture = alive(alone, "cut", parts.theme(), alone.told("cut"), beside=True)
    st.html(picture, unsafe_allow_javascript=True)


def _read(cloud: Cloud, block: int) -> str:
    """Say what the picture is of, and which block had to stand in where that one was not kept."""
    nearest = int(cloud.blocks[cloud.nearest(block)])
    told = f"{cloud.tokens.size} real token states before block {nearest}, along their principal directions."
    if nearest == block:
        return told
    kept = wording.joined([str(each) for each in cloud.blocks])
    held = f"blocks {kept}" if len(cloud.blocks) > 1 else f"block {kept} alone"
    return f"This run kept the stream before {held}; the nearest to block {block} is shown. {told}"


def _cost(run: Run, plan: Plan) -> Cost | None:
    """What the plan costs by its preview, which is asked for above; ``None`` where none can be had."""
    if not getattr(run.result, "bases", False) or not model_state.is_current(run.request.model):
        return None
    found = state.known_preview(run, plan)
    if isinstance(found, str):
        return None
    if not isinstance(found, Preview):
        return Cost("…", "perplexity of the plan, being measured")
    return Cost(f"{found.planned.perplexity:.2f}", "perplexity of the plan, previewed")
