"""Page: a grid of bases and targets as a map that fills while the worker runs, and size against loss."""

import streamlit as st

from app import controls, parts, state, wording
from app.figures.sweep import draw_grid, draw_pareto
from app.tables import grid_table, trial_table
from slicing.study.verdicts import Cell
from slicing.grid import Grid, read_grid
from slicing.study.results import Run
from slicing.runs import SweepRecipe, SweepResult


def maps(grid: Grid, run: Run | None = None) -> None:
    """The grid, the cell that was clicked on, and everyone by size and perplexity."""
    places = {(each.base, each.target): each for each in grid.cells}
    chosen = places.get(state.mark("sweep") or (-1.0, -1.0))

    def pick(point: dict) -> None:
        row, column = divmod(point["point_index"], len(grid.recipe.bases))
        state.choose_mark("sweep", (grid.recipe.bases[column], grid.recipe.targets[row]))

    parts.chart(draw_grid(grid, chosen, parts.theme()), "grid", grid_table(grid), pick)
    st.caption(f"{wording.GRID_READING} Click a cell for its numbers. {wording.METHODS[grid.recipe.method]}")
    if chosen:
        cell(chosen, grid, run)
    if len(grid.contestants()) > 1:
        st.subheader("Size against loss")
        parts.chart(draw_pareto(grid, parts.theme()), "pareto", trial_table(grid))


def cell(chosen: Cell, grid: Grid, run: Run | None) -> None:
    """One cell in numbers, and the way to the Tune page."""
    where = f"SB {wording.percent(chosen.base)}, SP {wording.percent(chosen.target)}"
    with st.container(border=True, key="cell-card"):
        st.markdown(f"**{where}**")
        if chosen.trial is None:
            st.markdown("The base reaches the target: every block loses the same, as in constant slicing.")
            return
        if chosen.contestant is None or chosen.gain is None:
            st.markdown("Not run yet.")
        else:
            constant = grid.constant[chosen.target]
            measured = chosen.contestant.evaluation
            st.markdown(
                f"Perplexity **{measured.perplexity:.2f}**"
                + (f" against {constant.evaluation.perplexity:.2f} for constant slicing" if constant else "")
                + f": {chosen.gain.verdict}. {wording.evidence(chosen.gain)}"
            )
            st.caption(
                f"{chosen.contestant.parameters:,} parameters, mean slice "
                f"{wording.percent(chosen.contestant.mean_slice)}. {measured.protocol}"
            )
        plan = chosen.trial.plan
        if plan and st.button("Open in Tune", icon=":material/tune:", on_click=controls.take, args=(plan,)):
            if run:
                state.show("profile", run.key)
            st.switch_page("app_pages/tune.py", query_params=controls.link_of(plan))


st.title("Which base, which target?")
st.markdown("Every cell is a model that was sliced and evaluated; nothing is filled in by guessing.")
choice, view = st.columns([3, 7], gap="large")
with choice:
    parts.set_up("Sweep", controls.sweep)
with view:
    if unfinished := state.unfinished("sweep"):
        parts.unfinished(unfinished, read_grid, maps)
    elif shown := parts.provenance("sweep"):
        recipe, result = shown.run.recipe, shown.run.result
        if isinstance(recipe, SweepRecipe) and isinstance(result, SweepResult):
            maps(read_grid(recipe, result), None if shown.bundled else shown.run)
            parts.reproduction(shown.run)
