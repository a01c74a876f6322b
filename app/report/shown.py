"""What a run has to show, part by part: every chart with its table, and what to know of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pandas as pd

from analysis.details import Details
from analysis.errors import StorageError
from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.shape import ModelShape
from app import wording
from app.body import body_of, body_table
from app.figures.base import Drawing
from app.figures.body import draw_body
from app.figures.cloud import CloudView, Stage
from app.figures.cloud_still import draw_cloud, draw_energies
from app.figures.compare import draw_differences, draw_perplexities, draw_windows
from app.figures.frontier import draw_frontier
from app.figures.healing import draw_healing
from app.figures.plan import draw_schedule
from app.figures.profile import (
    DAMAGES,
    draw_lens,
    draw_profile,
    draw_scatter,
    draw_similarity,
    draw_split,
)
from app.figures.ranking import draw_ranking
from app.figures.study import draw_map, draw_sizes
from app.figures.units import draw_unit_agreement, draw_unit_map
from app.planned import held_back, plan_asked
from app.shrink_tables import finalist_table, tried_table
from app.story.case import case_of
from app.tables import (
    cloud_table,
    compress_table,
    damage_table,
    difference_table,
    healing_table,
    int8_table,
    lens_table,
    map_table,
    passage_table,
    perplexity_table,
    ranking_table,
    recipe_table,
    schedule_table,
    similarity_table,
    size_table,
    split_table,
    task_table,
    trial_table,
)
from app.unit_tables import QUARTER, unit_agreement_table, unit_map_table
from slicing.library import block_notes
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, SearchRequest, ShrinkRequest, Trial
from slicing.studies.results import (
    CompressResult,
    Measurement,
    Run,
    SearchResult,
    ShrinkResult,
    StudyResult,
    TrialResult,
)
from slicing.studies.store import find_details
from slicing.studies.study import Study
from slicing.studies.verdicts import Board, Table, read_board, read_comparison, read_map


class Section(NamedTuple):
    """A part of a report: a heading, a chart where there is one, and the same as a table."""

    title: str
    drawing: Drawing | None
    table: pd.DataFrame
    text: str = ""
    """Several lines of it are a list."""


Sections = Iterator[Section]


def sections(run: Run) -> list[Section]:
    """Find what a run has to show, in the order of the pages."""
    return list(every_section(run))


def every_section(run: Run) -> Sections:
    """Give the same one by one: none is drawn before it is asked for."""
    yield from KINDS[run.request.kind](run.request, run.result)
    yield from _of_profile(run)


def _of_search(request: SearchRequest, result: SearchResult) -> Sections:
    yield cut_section(
        request.plan, result.profile, result.schedule, request.plan.constant(result.shape), "searched"
    )


def _of_compress(request: CompressRequest, result: CompressResult) -> Sections:
    yield Section("What was made", None, compress_table(result))
    plan = plan_asked(request)
    if plan and result.schedule and result.shape and not result.layout:
        constant = plan.constant(result.shape)
        yield cut_section(plan, result.profile, result.schedule, constant, request.recipe.short)
    yield from _body(result.shape, result)
    yield from _healing(result)
    yield from _recipes(request.recipes_used())


def _of_trial(request: Trial, result: TrialResult) -> Sections:
    yield Section("Perplexity", None, perplexity_table([result.measurement]))
    if (eight := int8_table([result.measurement])) is not None:
        yield Section("In 8 bits", None, eight, wording.INT8_READING)
    yield from _body(result.shape, result.measurement)
    yield from _healing(result.measurement)
    yield from _recipes(request.recipes_used())


def _of_shrink(request: ShrinkRequest, result: ShrinkResult) -> Sections:
    told = "\n".join(wording.shrunk(request, result)[1:])
    yield Section("What to take", None, finalist_table(result), told)
    pairs = [(f"winner against dense, {text}", each) for text, each in wording.beside_dense(result)]
    pairs += [(f"runner-up against winner, {text}", each) for text, each in wording.beside_winner(result)]
    yield Section("Paired difference", draw_differences(pairs), difference_table(pairs))
    if (scores := task_table([result.dense, *(each.measurement for each in result.finalists)])) is not None:
        yield Section("What they score on tasks", None, scores, TASKS_READING)
    yield from _healing(result.measurement)
    yield from _body(result.shape, result.measurement, of=f"{result.winner.recipe.title}.")
    yield Section("What was tried", None, tried_table(result), wording.TRIED_READING)
    yield from _recipes(tuple(each.recipe for each in result.finalists))


def _of_study(study: Study, result: StudyResult) -> Sections:
    board = read_board(study, result)
    yield from VIEWS[study.view](board, result)
    if study.view != "comparison" and (scores := task_table(_everyone(board))) is not None:
        yield Section("What they score on tasks", None, scores, TASKS_READING)
    if (eight := int8_table(_everyone(board))) is not None:
        yield Section("In 8 bits", None, eight, wording.INT8_READING)
    yield from _recipes(study.recipes, study)


def _everyone(board: Board) -> list[Any]:
    return [each.measured for each in wording.models(board)]


def _as_comparison(board: Board, result: StudyResult) -> Sections:
    found = read_comparison(board.study, result)
    planned, measured = found.planned, list(found.measured.values())
    pairs = wording.deciding(found)
    yield Section("Perplexity", draw_perplexities(measured), perplexity_table(measured))
    yield Section("Paired difference", draw_differences(pairs), difference_table(pairs))
    baseline = "dense" if planned == "constant" else "constant"
    windows = draw_windows(found, baseline, planned)
    yield Section("Where the difference comes from", windows, passage_table(found, baseline, planned))
    if (scores := task_table(measured)) is not None:
        yield Section("What they score on tasks", None, scores, TASKS_READING)
    yield Section("Four sizes, and what they took", None, size_table(found))
    schedule, constant = (found.measured[name].schedule for name in (planned, "constant"))
    if (plan := plan_asked(board.study)) and schedule and constant:
        yield cut_section(plan, result.profile, schedule, constant, planned)
    yield from _body(result.shape, found.measured[planned])


def _as_map(board: Board, result: StudyResult) -> Sections:
    if found := read_map(board):
        drawing, table = draw_map(found, board), map_table(found, board)
        yield Section("Which base, which target", drawing, table, wording.map_reading(board.study))
    yield Section("Size against loss", draw_sizes(board), trial_table(board))


def _as_ranking(board: Board, result: StudyResult) -> Sections:
    for table in board.tables:
        told = "\n".join([wording.RANKING_READING, *wording.ranking(table)])
        title = f"Who loses least: {table.budget.title}"
        yield Section(title, draw_ranking(table), ranking_table(table, result.shape), told)
        yield from _best_body(table, result.shape)


def _as_frontier(board: Board, result: StudyResult) -> Sections:
    told = "\n".join([wording.FRONTIER_READING, *wording.frontier(board)])
    yield Section("Size against loss", draw_frontier(board), trial_table(board), told)
    for table in board.tables:
        shown = ranking_table(table, result.shape)
        yield Section(f"Who loses least: {table.budget.title}", draw_ranking(table), shown)
        yield from _best_body(table, result.shape)


def _recipes(recipes: tuple[Recipe, ...], study: Study | None = None) -> Sections:
    """Every recipe with its title and its line, and what is known against what it does."""
    baseline = study.baseline if study else None
    yield Section("Recipes", None, recipe_table(recipes, baseline))
    if issues := wording.known_issues(recipes):
        yield Section("Known issues", None, pd.DataFrame(issues, columns=["step", "known issue"]))


def cut_section(
    plan: Plan, profile: LayerProfile, schedule: SlicingSchedule, constant: SlicingSchedule, name: str
) -> Section:
    """Show how much is cut where, beside constant slicing."""
    path, fractions = profile.block_path, held_back(schedule, plan)
    scores = profile.redundancy(profile.held(plan.score), plan.first_token)
    drawing = draw_schedule(schedule, constant, fractions, name, path)
    table = schedule_table(schedule, constant, fractions, scores, path)
    return Section("What was cut where", drawing, table)


def _healing(made: CompressResult | Measurement) -> Sections:
    """Show how the loss fell where what was left was trained."""
    if made.healed:
        yield Section("How it was healed", draw_healing(made.healed), healing_table(made.healed))


def _body(
    shape: ModelShape | None,
    made: CompressResult | Measurement,
    title: str = "Where it was cut",
    of: str = "",
) -> Sections:
    """Show where a model was cut that blocks are taken out of, or that is cut inside them."""
    if shape and (made.inner or made.layout):
        boxes = body_of(shape, made.inner, made.layout, made.schedule)
        yield Section(title, draw_body(boxes), body_table(boxes), f"{of} {wording.BODY_READING}".lstrip())


def _best_body(table: Table, shape: ModelShape) -> Sections:
    """The same of the recipe that loses least at a budget."""
    if best := table.best_of():
        title = f"Where the best recipe cut: {table.budget.title}"
        yield from _body(shape, best.runs[0], title, f"{best.recipe.title}.")


TASKS_READING = "By EleutherAI's lm-evaluation-harness, beside the perplexity of the same model."
KINDS: dict[str, Callable[[Any, Any], Sections]] = {
    "profile": lambda request, result: iter(()),
    "search": _of_search,
    "compress": _of_compress,
    "trial": _of_trial,
    "study": _of_study,
    "shrink": _of_shrink,
}
"""What a result has to show beside its profile, by its kind."""
VIEWS: dict[str, Callable[[Board, StudyResult], Sections]] = {
    "comparison": _as_comparison,
    "map": _as_map,
    "ranking": _as_ranking,
    "frontier": _as_frontier,
}
"""What a study has to show, by how it is looked at first."""


def _of_profile(run: Run) -> Sections:
    profile, plan = run.result.profile, plan_asked(run.request)
    score, first_token = profile.held((plan or Plan()).score), (plan or Plan()).first_token
    title, source = SCORES[score].title, SCORES[score].source
    told = f"{SCORES[score].about} Source: {source}."
    notes = block_notes(run)
    drawing = draw_profile(profile, score, first_token, notes=notes)
    yield Section(f"{title} of every block", drawing, profile.to_frame(first_token).round(4), told)
    if notes:
        yield Section("Notes on blocks", None, pd.DataFrame(notes.items(), columns=["block", "note"]))
    for damage in DAMAGES:
        if damage in profile.scores():
            drawing, table = (
                draw_scatter(profile, damage, first_token),
                damage_table(profile, damage, first_token),
            )
            yield Section(f"Against measured damage: {SCORES[damage].title}", drawing, table)
    details = None
    with suppress(StorageError):  # what is damaged of it is told where it is looked at; all else is shown
        details = find_details(run)
    if details:
        yield from _cloud(run, details)
        yield Section("Depth by depth", draw_similarity(details), similarity_table(details))
        if details.split is not None:
            yield Section("Heads and MLP", draw_split(details), split_table(details))
        if details.lens is not None:
            yield Section("Logit lens", draw_lens(details), lens_table(details), wording.LENS_READING)
    yield from _of_units(run)


def _cloud(run: Run, details: Details) -> Sections:
    """Show the stream as a cloud, whole and cut: by the width of constant slicing, or else by a quarter."""
    if details.cloud is None:
        return
    view = CloudView.cut_by_a_quarter(details.cloud, details.pieces)
    with suppress(StorageError):  # a run that is no comparison cuts by nothing of its own
        view = case_of(run, details).cloud or view
    table = cloud_table(view.cloud, round(view.width))
    shown: tuple[tuple[str, Stage], ...] = (("The stream as a cloud", "shaded"), ("The same, cut", "cut"))
    for title, stage in shown:
        yield Section(title, draw_cloud(view, stage, takeaway=view.told(stage)), table, wording.CLOUD_READING)
    yield Section("Energy of every direction", draw_energies(view), table)


def _of_units(run: Run) -> Iterator[Section]:
    """What the parts inside the blocks cost, where that was predicted, and how well."""
    result = run.result
    if result.kind != "profile" or result.units is None or result.shape is None:
        return
    costs, shape = result.units, result.shape
    told = f"{wording.units_found(costs)} Of units the cheapest quarter goes. {wording.UNITS_READING}"
    drawing, table = draw_unit_map(costs, shape, QUARTER), unit_map_table(costs, shape, QUARTER)
    yield Section("What units cost", drawing, table, told)
    if wording.units_agreement(costs):
        drawing, table = draw_unit_agreement(costs), unit_agreement_table(costs)
        yield Section("Predicted cost against measured", drawing, table)
