"""Page: ways to decide where to cut against each other at equal size, on the same windows, beside chance."""

import streamlit as st

from app import controls, parts, state, wording
from app.figures.contest import draw_contest
from app.figures.plan import draw_schedule
from app.figures.profile import DAMAGES
from app.tables import contest_table, widths_table
from slicing.allocation import Fractions
from slicing.study.verdicts import Standing, Table
from slicing.contest import read_contest
from slicing.runs import ContestRecipe, ContestResult
from slicing.study.results import Run


def standings(table: Table, run: Run | None = None) -> None:
    """Everyone, what that says, and the entry that was clicked on."""
    chosen = table.standing(state.mark("contest") or "")

    def pick(point: dict) -> None:
        # The second text of an entry stands a little below its row.
        state.choose_mark("contest", table.standings[round(point["y"])].entry.name)

    parts.chart(draw_contest(table, chosen, parts.theme()), "contest", contest_table(table), pick)
    for sentence in wording.contest(table):
        st.markdown(f"- {sentence}")
    st.caption(f"{wording.CONTEST_READING} Click a row for its card. {wording.METHODS[table.recipe.method]}")
    if chosen:
        entry(chosen, table, run)


def entry(chosen: Standing, table: Table, run: Run | None) -> None:
    """One entry in numbers, what it cut where, and the way to the Tune page."""
    first, constant = chosen.runs[0], table.standing("constant")
    with st.container(border=True, key="entry-card"):
        st.markdown(f"**{chosen.entry.name}**")
        told = f"Perplexity **{chosen.perplexity:.2f}**"
        if chosen.gain and constant:
            told += f" against {constant.perplexity:.2f} for constant slicing"
            told += f": {chosen.gain.verdict}. {wording.evidence(chosen.gain)}"
        st.markdown(told)
        if chosen.other_perplexity is not None:
            told = f"On the second text **{chosen.other_perplexity:.2f}**"
            if chosen.other_gain:
                told += f": {chosen.other_gain.verdict}. {wording.evidence(chosen.other_gain)}"
            st.markdown(told)
        if repaired := wording.repaired(first):
            st.markdown(wording.verbatim(repaired))
        seeds = f"mean of {len(chosen.runs)} calibrations" if len(chosen.runs) > 1 else "one calibration"
        st.caption(
            f"{chosen.parameters:,} parameters, mean slice {wording.percent(first.mean_slice)}, {seeds}; "
            f"{wording.duration(chosen.seconds)} to decide and to slice. {first.evaluation.protocol}"
        )
        planned, beside = first.schedule, constant and constant.runs[0].schedule
        if planned is None or beside is None:
            return
        fractions = planned.block_fractions
        drawing = draw_schedule(
            planned,
            beside,
            Fractions(values=fractions, capped=(False,) * len(fractions)),
            chosen.entry.allocation,
            "",  # a contest as far as it has come holds no profile, which knows the path
            parts.theme(),
            height=300,
        )
        parts.chart(
            drawing, "entry-widths", widths_table([(chosen.entry.name, planned), ("constant", beside)])
        )
        entry = chosen.entry
        alike = table.recipe.plan.model_copy(update={"span": entry.span})
        plan = controls.by_hand(alike, fractions, scaled=False)
        if st.button("Open in Tune", icon=":material/tune:", on_click=controls.take, args=(plan,)):
            if run:
                state.show("profile", run.key)
            st.switch_page("app_pages/tune.py", query_params=controls.link_of(plan))


st.title("Which way to decide?")
st.markdown(
    "Every entry decides in its own way where to cut, and all end at the same size; what gains no more than "
    "chance has found nothing."
)
choice, view = st.columns([3, 7], gap="large")
with choice:
    parts.set_up("Contest", controls.contest)
with view:
    if unfinished := state.unfinished("contest"):
        parts.unfinished(unfinished, read_contest, standings)
    elif shown := parts.provenance("contest"):
        recipe, result = shown.run.recipe, shown.run.result
        if isinstance(recipe, ContestRecipe) and isinstance(result, ContestResult):
            standings(read_contest(recipe, result), None if shown.bundled else shown.run)
            if set(DAMAGES) & set(result.profile.scores()):
                st.subheader("Does the LR score foretell damage?")
                parts.damage_chart(result.profile)
            parts.reproduction(shown.run)
