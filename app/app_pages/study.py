"""Page: a study, from its form to its numbers: a map, a ranking, or size against loss."""

import math

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from analysis.errors import SlicescopeError
from app import controls, forms, model_state, parts, plan_form, row_actions, state, wording
from app.body import body_of, body_table
from app.figures.body import draw_body
from app.figures.frontier import beyond, draw_frontier, key_of, named_ends
from app.figures.healing import draw_healing
from app.figures.plan import draw_schedule
from app.figures.profile import DAMAGES
from app.figures.ranking import draw_ranking
from app.figures.study import draw_map, draw_sizes
from app.map_rows import base_name
from app.planned import held_back, plan_of
from app.tables import healing_table, map_table, ranking_table, trial_table, widths_table
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.studies.recipe import Recipe
from slicing.studies.results import Run
from slicing.studies.store import is_stored
from slicing.studies.verdicts import Board, Map, Standing, Table, read_board, read_map

# The titles of recipes begin alike, so that they are shown whole; cells and rows need room for words.
_STYLE = """<style>
[data-tag] { max-width: 100%; height: auto; }
[data-tag] > span { max-width: none; white-space: normal; }
[data-testid="stMultiSelectTagsContainer"] { max-height: none; }
/* A warning of a study that ran is small, and stands below what it found. */
.st-key-found > [data-testid="stElementContainer"]:has(> [data-testid="stAlert"]) p { font-size: 0.875rem; }
.st-key-found [data-testid="stAlertContainer"] { padding: 0.3rem 0.75rem; }
.st-key-map { overflow-x: auto; }
</style>"""
_VIEWS = {"map": "Map", "ranking": "Ranking", "frontier": "Size against loss"}
_DEMOS = {
    "demo-map": "Bases by targets: a map",
    "demo-ranking": "Recipes at one size: a ranking",
    "demo-frontier": "Recipes at several sizes: size against loss",
}


def _set_up() -> None:
    """The form of a new study; what it does not ask for is as on the Tune page."""
    profiled = state.shown("profile")
    if profiled is None:
        return
    usual = state.proposal(profiled.run)
    form, ready = st.columns([3, 2], gap="large")
    with form:
        try:
            study = forms.study_form(usual, model_state.shape_of(usual.judged.model, profiled.run))
        except SlicescopeError as error:
            study = None
            ready.warning(state.told(error), icon=":material/warning:")
    with ready:
        if study is None:
            st.button("Run", disabled=True, icon=":material/play_arrow:", width="stretch")
            return
        parts.warn(study, profiled.run)
        st.caption(wording.trials_size(study, profiled.run))
        seen = state.shown("study")
        label = model_state.button("Run", study.model, profiled.run, seen.run if seen else None)
        parts.start(label, lambda: study, ":material/play_arrow:")


def _demos() -> None:
    """The studies that ship with slicescope."""
    with st.popover("Demo studies", icon=":material/school:"):
        for name, title in _DEMOS.items():
            st.button(title, on_click=state.show_run, args=("study", name), width="stretch", key=name)


def _views(board: Board, run: Run | None = None) -> None:
    """The study as it is looked at, and the recipe that was clicked on."""
    found = read_map(board)
    several = len(board.tables) > 1 or board.study.budgets[0].measure == "mean_slice"
    offered = [*(["map"] if found else []), "ranking", *(["frontier"] if several else [])]
    usual = board.study.view if board.study.view in offered else "ranking"
    bar = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    view = usual
    if len(offered) > 1:
        view = bar.segmented_control(
            "View",
            offered,
            format_func=_VIEWS.__getitem__,
            default=usual,
            required=True,
            key=f"view-{board.study.key}",
            persist_state="session",
        )
    if view == "map" and found:
        _map(found, board)
    elif view == "frontier":
        _frontier(board, bool(found), bar)
    else:
        _ranking(board, run, bar)
    _card(board, run)


def _map(found: Map, board: Board) -> None:
    """Bases by targets."""
    mark = state.chosen_recipe()
    chosen = next((each for each in found.cells if (each.recipe.line, each.budget.line) == mark), None)

    def pick(point: dict) -> None:
        cell = found.cells[point["point_index"]]
        state.choose_recipe(cell.recipe.line, cell.budget.line)

    # Of many bases the cells would be too narrow for their numbers: then the map alone is scrolled.
    st.html(f"<style>.st-key-map .js-plotly-plot {{ min-width: {7 + 3 * len(found.bases)}rem; }}</style>")

    def pick_cell(row: int, column: str) -> None:
        table = board.tables[row]
        bases = {base_name(base): found.cell(base, table.budget).recipe.line for base in found.bases}
        if line := bases.get(column):
            state.choose_recipe(line, table.budget.line)

    drawing, table = draw_map(found, board, chosen, parts.theme()), map_table(found, board)
    parts.chart(drawing, "map", table, pick, told_first=True, pick_cell=pick_cell, by="cell")
    told = wording.sequential_or_one_shot(board.study)
    st.caption(f"{wording.map_reading(board.study)} Click a cell for its card, here or in the table. {told}")


def _pick_row(board: Board, shown: pd.DataFrame) -> parts.PickCell:
    """What chooses the recipe of a row, of a table with a recipe and a budget in each."""

    def pick(row: int, _: str) -> None:
        line, title = shown["recipe"].iloc[row], shown["budget"].iloc[row]
        for table in board.tables:
            if table.budget.title == title:
                state.choose_recipe(str(line), table.budget.line)

    return pick


def _ranking(board: Board, run: Run | None, bar: DeltaGenerator) -> None:
    """All recipes at one budget, best first, and what that says."""
    ran = [table for table in board.tables if table.standings] or [board.tables[0]]
    titles = {table.budget.line: table.budget.title for table in ran}
    line = next(iter(titles))
    if len(titles) > 1:
        with bar:
            line = controls.choice("At", "study-budget", titles, line)
    table = next(table for table in ran if table.budget.line == line)
    mark, _ = state.chosen_recipe()

    def pick(point: dict) -> None:
        # The second text of a recipe stands a little below its row.
        state.choose_recipe(table.standings[round(point["y"])].name, table.budget.line)

    shape = run.result.shape if run else None
    drawing = draw_ranking(table, table.standing(mark), parts.theme())
    ranked = ranking_table(table, shape)
    parts.chart(drawing, "ranking", ranked, pick, told_first=True, pick_cell=_pick_row(board, ranked))
    for sentence in wording.ranking(table):
        st.markdown(f"- {sentence}")
    told = wording.sequential_or_one_shot(board.study)
    st.caption(f"{wording.RANKING_READING} Click a row for its card, here or in the table. {told}")


def _frontier(board: Board, is_map: bool, bar: DeltaGenerator) -> None:
    """All recipes over the sizes."""
    if is_map or len(board.tables) == 1:
        ran = trial_table(board)
        sizes = draw_sizes(board, parts.theme())
        parts.chart(sizes, "sizes", ran, told_first=True, pick_cell=_pick_row(board, ran))
        return
    mark, _ = state.chosen_recipe()

    def pick(point: dict) -> None:
        line = point["customdata"]
        ran = [(each.parameters, table) for table in board.tables if (each := table.standing(line))]
        ordered = sorted(ran, key=lambda pair: -pair[0])  # as the chart draws them
        state.choose_recipe(line, ordered[point["point_index"]][1].budget.line)

    titles = {"first": "First text", "second": "Second text"}
    with bar:
        text = (
            controls.choice("Evaluated on", "study-text", titles, "first") if board.study.other else "first"
        )
    everyone = pd.concat([ranking_table(table) for table in board.tables], ignore_index=True)
    drawing = draw_frontier(board, mark or None, text, parts.theme())
    choose = _pick_row(board, everyone)
    parts.chart(drawing, "frontier", everyone, pick, told_first=True, pick_cell=choose)
    # Beside the lines a narrow screen has room for short names alone.
    st.html(key_of(named_ends(board, text, mark or None, parts.theme()), beyond(board, text)))
    _choices(board)
    st.caption(f"{wording.FRONTIER_READING} Click a point, or a row of the table, to follow a recipe.")


def _choices(board: Board) -> None:
    """Say which recipe to take, the sizes beside each other where there is room."""
    if not (told := wording.choices(board)):
        st.markdown(f"{board.done} of {board.total} trials have run.")
        return
    for column, choice in zip(st.columns(len(told), gap="medium"), told, strict=True):
        with column.container(border=True, height="stretch"):
            near = "\n".join(f"- {each[:1].upper()}{each[1:]}" for each in choice.near)
            st.markdown(f"**{choice.size}** {choice.take}.\n\n{near}")
    st.caption(" ".join(wording.choices_reading(board)))


def _card(board: Board, run: Run | None) -> None:
    """The recipe that was clicked on, at its budget: what it is, what it cost, and what to do with it."""
    line, at = state.chosen_recipe()
    recipe = board.study.recipe(line)
    table = next((each for each in board.tables if each.budget.line == at), None)
    if recipe is None or table is None:
        return
    standing = table.standing(line)
    with st.container(border=True, key="recipe-card"):
        st.markdown(f"**{wording.verbatim(recipe.title)}**, {wording.verbatim(table.budget.title)}")
        st.code(recipe.line, language=None, wrap_lines=True)
        if standing:
            _numbers(standing, table)
        elif recipe.is_constant_at(table.budget):
            st.markdown("The base reaches the target: every block loses the same, as in constant slicing.")
        else:
            st.markdown("Not run yet.")
        for title, issue in wording.known_issues([recipe]):
            st.markdown(f"Known issue of {wording.verbatim(title)}: {wording.verbatim(issue)}")
        if standing:
            _widths(standing, table, run)
            _body(standing, run)
            _healing(standing)
        _ways_on(board, recipe, table.budget, standing, run)


def _numbers(standing: Standing, table: Table) -> None:
    """Say in sentences what a recipe cost."""
    first, baseline = standing.runs[0], table.baseline
    told = f"Perplexity **{standing.perplexity:.2f}**"
    if standing.gain and baseline:
        told += f" against {baseline.perplexity:.2f} for the baseline"
        told += f": {standing.gain.verdict}. {wording.evidence(standing.gain)}"
    st.markdown(told)
    if standing.other_perplexity is not None:
        told = f"On the second text **{standing.other_perplexity:.2f}**"
        if standing.other_gain:
            told += f": {standing.other_gain.verdict}. {wording.evidence(standing.other_gain)}"
        st.markdown(told)
    if first.layout:
        st.markdown(f"Blocks: {wording.verbatim(first.layout.label)}.")
    if first.inner:
        st.markdown(f"Inside blocks: {wording.verbatim(first.inner.label)}.")
    if repaired := wording.repaired(first):
        st.markdown(wording.verbatim(repaired))
    if sinks := [each.sink for each in standing.runs if each.sink]:
        worst = min(sinks, key=lambda sink: sink.ratio)
        st.warning(wording.typeset(worst.told), icon=":material/warning:")
    if standing.noise is not None:
        st.markdown(f"Repeated with noise, it moves by {wording.percent(math.expm1(standing.noise))}.")
    seeds = wording.draws(len(standing.runs))
    mean = f", mean slice {wording.percent(first.mean_slice)}" if first.schedule else ""
    st.caption(
        f"{standing.parameters:,} parameters{mean}, {seeds}; {wording.duration(standing.seconds)} to decide "
        f"and to make. {first.evaluation.protocol}"
    )


def _widths(standing: Standing, table: Table, run: Run | None) -> None:
    """Draw the widths that a recipe left, beside those of the baseline."""
    planned, plan = standing.runs[0].schedule, plan_of(standing.recipe, table.budget)
    beside = table.baseline and table.baseline.runs[0].schedule
    if planned is None or beside is None or plan is None:
        return
    drawing = draw_schedule(
        planned,
        beside,
        held_back(planned, plan),
        standing.recipe.short,
        run.result.profile.block_path if run else "",
        parts.theme(),
        height=300,
    )
    named = [(standing.recipe.short, planned), (table.study.baseline.short, beside)]
    parts.chart(drawing, "recipe-widths", widths_table(named))


def _body(standing: Standing, run: Run | None) -> None:
    """Draw where a recipe cut that takes out blocks, or cuts inside them; the shape comes with the run."""
    first, shape = standing.runs[0], run.result.shape if run else None
    if shape and (first.inner or first.layout):
        boxes = body_of(shape, first.inner, first.layout, first.schedule)
        st.markdown("**Where it was cut**")
        parts.chart(draw_body(boxes, parts.theme()), "recipe-body", body_table(boxes))
        st.caption(wording.BODY_READING)


def _healing(standing: Standing) -> None:
    """Draw how the loss fell where what was left was trained."""
    if healed := standing.runs[0].healed:
        st.markdown("**How it was healed**")
        parts.chart(draw_healing(healed, parts.theme()), "recipe-healing", healing_table(healed))


def _ways_on(
    board: Board, recipe: Recipe, budget: Budget, standing: Standing | None, run: Run | None
) -> None:
    """To the Tune page, and to the model itself."""
    schedule = standing.runs[0].schedule if standing else None
    plan = _tunable(recipe, budget, schedule)
    if plan and st.button("Open in Tune", icon=":material/tune:", on_click=plan_form.take, args=(plan,)):
        if run and is_stored(run.key):
            state.show_run("profile", run.key)
        st.switch_page("app_pages/tune.py", query_params=plan_form.link_of(plan))
    if standing:
        row_actions.of_standing(board.study, recipe, budget, standing)


def _tunable(recipe: Recipe, budget: Budget, schedule: SlicingSchedule | None) -> Plan | None:
    """The plan of a recipe that slices and does no more, or what it cut as shares by hand."""
    plan = plan_of(recipe, budget)
    if plan is None:
        return None
    if budget.measure == "mean_slice" and plan.allocation in plan_form.BY_HAND:
        return plan
    alike = plan.model_copy(update={"score": Plan().score})
    return plan_form.by_hand(alike, schedule.block_fractions, scaled=False) if schedule else None


st.html(_STYLE)
st.title("Which recipe, at which size?")
st.markdown(
    "Recipes that make this model smaller, at equal size and on the same windows. Every number is of a model "
    "that was made and judged."
)
form, ready = st.columns([5, 1])
if profiled := state.shown("profile"):
    label = wording.verbatim(state.proposal(profiled.run).judged.model.label)
    with form, st.expander(f"A new study of {label}", icon=":material/play_arrow:"):
        parts.apart(_set_up)
with ready, st.container(horizontal=True, horizontal_alignment="right"):
    _demos()
if unfinished := state.unfinished():
    parts.follow(unfinished, _views)
else:
    shown = parts.provenance("study", warned=False)
    run = shown.run if shown else None
    if run and run.request.kind == "study" and run.result.kind == "study":
        _views(read_board(run.request, run.result), run)
        with st.container(key="found"):
            parts.warn(run.request, run)
        if set(DAMAGES) & set(run.result.profile.scores()):
            st.header("Does the LR score foretell damage?")
            parts.damage_chart(run.result.profile)
        parts.reproduction(run)
with st.expander("Not among the recipes", icon=":material/block:"):
    st.markdown("These methods train, so no machine makes them beside the others in minutes.")
    parts.rows(pd.DataFrame(wording.NOT_RUN, columns=["method", "source", "takes"]), "not-run")
