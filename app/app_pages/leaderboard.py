"""Page: slicing beside removing whole blocks, at equal size: which one, for this model and this budget?"""

import pandas as pd
import streamlit as st

from analysis.shape import ModelShape
from app import controls, parts, state, wording
from app.figures.board import draw_board
from app.figures.contest import draw_contest
from app.tables import board_table
from slicing.study.verdicts import Board, read_board
from slicing.study.verdicts import Standing, Table
from slicing.runs import LeaderboardRecipe, LeaderboardResult, RemoveRecipe
from slicing.study.store import MODEL_FOLDER, folder_of


def standings(board: Board, shape: ModelShape | None = None) -> None:
    """What to use at which size, everyone over the sizes, and one size from near."""
    for sentence in wording.board(board):
        st.markdown(f"- {sentence}")
    chosen = state.mark("leaderboard")

    def pick(point: dict) -> None:
        state.choose_mark("leaderboard", point["customdata"])

    text = controls.board_text() if board.recipe.other else "first"
    everyone = pd.concat([board_table(table, shape) for table in board.tables], ignore_index=True)
    parts.chart(draw_board(board, chosen, text, parts.theme()), "leaderboard", everyone, pick)
    st.caption(f"{wording.BOARD_READING} Click a point to follow an entry over the sizes.")
    sizes = [table for table in board.tables if table.standings]
    if not sizes:
        return
    size = controls.board_size([table.recipe.fewer or 0.0 for table in sizes])
    near(next(table for table in sizes if (table.recipe.fewer or 0.0) == size), shape, chosen)


def near(table: Table, shape: ModelShape | None, chosen: str | None) -> None:
    """Everyone at one size, beside constant slicing."""
    found = table.standing(chosen or "")

    def pick(point: dict) -> None:
        state.choose_mark("leaderboard", table.standings[round(point["y"])].entry.name)

    parts.chart(draw_contest(table, found, parts.theme()), "board-size", board_table(table, shape), pick)
    if found:
        entry(found, table)


def entry(chosen: Standing, table: Table) -> None:
    """One entry at one size, in numbers, and the model itself."""
    first = chosen.runs[0]
    with st.container(border=True, key="board-card"):
        st.markdown(f"**{chosen.entry.name}**: perplexity **{chosen.perplexity:.2f}**")
        if first.layout:
            st.markdown(f"Blocks: {first.layout.label}.")
        if repaired := wording.repaired(first):
            st.markdown(wording.verbatim(repaired))
        if chosen.entry.removal:
            fault = chosen.entry.removal.rule().fault
            st.markdown(f"Known of the method: {fault}" if fault else "")
        st.caption(
            f"{chosen.parameters:,} parameters; {wording.duration(chosen.seconds)} to decide and to make. "
            f"{first.evaluation.protocol}"
        )
        if first.layout and not chosen.entry.slices:
            keep(table.recipe.trial(chosen.entry, table.recipe.seeds[0]).remove_recipe(first.layout))


def keep(recipe: RemoveRecipe) -> None:
    """The model itself: make it, or say where it is."""
    if state.policy().demo_mode:  # nothing is kept for strangers
        return
    folder = folder_of(recipe) / MODEL_FOLDER
    if folder.is_dir():
        st.markdown(wording.kept_model(plain=not any(folder.glob("modeling_*.py"))))
        st.code(str(folder), language=None, wrap_lines=True)
    elif st.button("Make and keep this model", icon=":material/layers_clear:"):
        parts.queue(lambda: recipe)


st.title("Slice, or remove whole blocks?")
st.markdown("Every way to make this model smaller, at the same sizes, on the same text.")
choice, view = st.columns([3, 7], gap="large")
with choice:
    parts.set_up("Leaderboard", controls.leaderboard)
with view:
    if unfinished := state.unfinished("leaderboard"):
        parts.unfinished(unfinished, read_board, standings)
    elif shown := parts.provenance("leaderboard"):
        recipe, result = shown.run.recipe, shown.run.result
        if isinstance(recipe, LeaderboardRecipe) and isinstance(result, LeaderboardResult):
            standings(read_board(recipe, result), result.shape)
            parts.reproduction(shown.run)
with st.expander("Not on the board", icon=":material/block:"):
    st.markdown("These methods train, so no machine makes them beside the others in minutes.")
    parts.rows(pd.DataFrame(wording.NOT_RUN, columns=["method", "source", "takes"]), "not-run")
