"""The tab of the Profile page that shows which parts inside the blocks carry the loss."""

from __future__ import annotations

import streamlit as st

from analysis.shape import ModelShape
from app import controls, model_state, parts, state, wording
from app.figures.units import draw_unit_agreement, draw_unit_curve, draw_unit_map, shown_parts
from app.proposal import with_units
from app.unit_tables import unit_agreement_table, unit_curve_table, unit_map_table
from slicing.inner.costs import Part, Prediction, UnitCosts, branch_of
from slicing.studies.results import Run
from slicing.studies.store import costs_inside

_SHARES = {0.1: "A tenth", 0.25: "A quarter", 0.5: "Half"}
_MEASURES = {"nats": "Nats per token", "per million": "Nats per million parameters"}


def show_units(run: Run) -> None:
    """What every part of every block costs, the curve of one, and predicted against measured."""
    result = run.result
    if result.shape is None:
        why = state.told(getattr(result, "not_sliceable", None) or "")
        st.info(f"The parts inside the blocks of this model are not known. {why}")
        return
    found = costs_inside(run)
    if found is None:
        _offer(
            run,
            "**Which channels, heads and sub-layers carry the loss?** One pass forward and one back over the "
            "windows predict what each costs. Takes about ten times as long as the profile.",
            "Predict what units cost",
        )
        return
    costs, shape = found
    part = _map(run, costs, shape)
    if part is not None:
        _curve(run, costs, part)
    _agreement(run, costs)


def _offer(run: Run, words: str, label: str, measured: bool = False) -> None:
    """A sentence, and a button that measures what is missing."""
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(words, width="stretch")
        if st.button(model_state.button(label, run.request.model), icon=":material/query_stats:"):
            parts.ask(lambda: with_units(run, measured))


def _map(run: Run, costs: UnitCosts, shape: ModelShape) -> Part | None:
    """Draw the map and ask for a part of a block; ``None`` where nothing is predicted."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        share = controls.choice("Of units, the cheapest", "unit-share", _SHARES, 0.25)
        measure = controls.choice("Colour", "unit-measure", _MEASURES, "nats")
    found = costs.parts(shape, share)
    rows = shown_parts(found)
    if not rows:
        st.info(
            "Nothing is predicted of this model: its attentions and MLPs have no units that can go alone."
        )
        return None
    chart = st.container()  # in front of the controls that choose what it frames
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        titles = {part: wording.part_title(part) for part in rows}
        part: Part = controls.choice("Part", "unit-part", titles, rows[-1])
    block = int(state.widget("block", 0))  # which is chosen above, beside its tokens
    drawing = draw_unit_map(costs, shape, share, measure != "nats", (block, part), parts.theme())

    def pick(point: dict[str, object]) -> None:
        state.choose_part(int(str(point["x"])), rows[int(str(point["y"]))])

    with chart:
        parts.chart(drawing, "units", unit_map_table(costs, shape, share), pick=pick)
        st.caption(f"{wording.units_found(costs)} {wording.UNITS_READING} Click a cell for its curve.")
    return part


def _curve(run: Run, costs: UnitCosts, part: Part) -> None:
    """What the attention or MLP of the chosen part costs while its units go."""
    block = state.widget("block", 0)
    branch = branch_of(costs, block, part)
    if branch is None:
        return
    st.markdown(
        f"**Block {block}, {wording.BRANCHES[branch.kind]}: cost while its units go, cheapest first**"
    )
    parts.chart(draw_unit_curve(block, branch, parts.theme()), "unit-curve", unit_curve_table(branch))


def _agreement(run: Run, costs: UnitCosts) -> None:
    """What is predicted of whole attentions and MLPs against what was measured."""
    st.markdown("**Predicted against measured**, for whole attentions and MLPs")
    if len(costs.compared()) < 3:
        if state.policy().demo_mode:
            st.info("What whole attentions and MLPs cost was not measured here.")
            return
        _offer(
            run,
            "What whole attentions and MLPs cost was not measured here: a pass without each says how far "
            "the prediction holds. Takes about thirty times as long as the profile.",
            "Measure them",
            measured=True,
        )
        return
    held = {by: title for by, title in wording.PREDICTIONS.items() if wording.units_agreement(costs, by)}
    by: Prediction = controls.choice("Predicted by", "unit-prediction", held, next(iter(held)))
    drawing = draw_unit_agreement(costs, by, parts.theme())
    parts.chart(drawing, "unit-agreement", unit_agreement_table(costs))
    st.caption(wording.PREDICTIONS_READING)
