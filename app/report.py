"""A run as one HTML file: every chart with its table, what was asked for, and how to get the same again.

Needs no network, prints, and takes nothing from a run but as text. Knows nothing about streamlit.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pandas as pd

from analysis.details import Details
from analysis.errors import StorageError, visible
from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.shape import ModelShape
from app import wording
from app.body import body_of, body_table
from app.cells import html_table
from app.citations import bibtex
from app.figures.base import LIGHT, Drawing
from app.figures.body import draw_body
from app.figures.cloud import CloudView, Stage, draw_cloud, draw_energies
from app.figures.compare import draw_differences, draw_perplexities, draw_windows
from app.figures.frontier import draw_frontier
from app.figures.healing import draw_healing
from app.figures.page import FUNCTIONS, embedded, script
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
from app.other_way import best_other_way
from app.planned import held_back, plan_asked
from app.repeat import STUDY_FILE, command, study_file
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
    text_table,
    trial_table,
)
from app.unit_tables import QUARTER, unit_agreement_table, unit_map_table
from slicing.library import block_notes, note_of
from slicing.plan import Plan
from slicing.schedule import SlicingSchedule
from slicing.study.recipe import Recipe
from slicing.study.requests import CompressRequest, SearchRequest, ShrinkRequest, Trial
from slicing.study.results import (
    CompressResult,
    Measurement,
    Request,
    Run,
    SearchResult,
    ShrinkResult,
    StudyResult,
    TrialResult,
)
from slicing.study.results import warnings as told_of
from slicing.study.store import find_details
from slicing.study.study import Study
from slicing.study.verdicts import Board, Comparison, Table, read_board, read_comparison, read_map


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
    return [*KINDS[run.request.kind](run.request, run.result), *_of_profile(run)]


def _of_search(request: SearchRequest, result: SearchResult) -> Sections:
    yield _cut(request.plan, result.profile, result.schedule, request.plan.constant(result.shape), "searched")


def _of_compress(request: CompressRequest, result: CompressResult) -> Sections:
    yield Section("What was made", None, compress_table(result))
    plan = plan_asked(request)
    if plan and result.schedule and result.shape and not result.layout:
        constant = plan.constant(result.shape)
        yield _cut(plan, result.profile, result.schedule, constant, request.recipe.short)
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
        yield _cut(plan, result.profile, schedule, constant, planned)
    yield from _body(result.shape, found.measured[planned])


def _as_map(board: Board, result: StudyResult) -> Sections:
    if found := read_map(board):
        drawing, table = draw_map(found, board), map_table(found, board)
        yield Section("Which base, which target", drawing, table, wording.map_reading(board.study))
    yield Section("Size against loss", draw_sizes(board), trial_table(board))


def _as_ranking(board: Board, result: StudyResult) -> Sections:
    for table in board.tables:
        told = " ".join([wording.RANKING_READING, *wording.ranking(table)])
        title = f"Who loses least: {table.budget.title}"
        yield Section(title, draw_ranking(table), ranking_table(table, result.shape), told)
        yield from _best_body(table, result.shape)


def _as_frontier(board: Board, result: StudyResult) -> Sections:
    told = " ".join([wording.FRONTIER_READING, *wording.frontier(board)])
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


def _cut(
    plan: Plan, profile: LayerProfile, schedule: SlicingSchedule, constant: SlicingSchedule, name: str
) -> Section:
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


def build_report(run: Run, may_see: Callable[[str], bool] = lambda key: True) -> str:
    """Write the whole file. ``may_see`` says of the key of a stored run whether it may be told of."""
    title = note_of(run.key).label or wording.title(run.request)
    compared = _compared(run)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{_text(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style>{script()}{FUNCTIONS}</head><body><main>"
        f"<p class=brand>slicescope</p><h1>{_text(title)}</h1>{_head(run, compared, may_see)}"
        + "".join(_section(each, number) for number, each in enumerate(sections(run)))
        + (_samples(compared) if compared else "")
        + _foot(run)
        + "</main></body></html>"
    )


def _compared(run: Run) -> Comparison | None:
    """The run as a comparison from near, where it is looked at so."""
    request, result = run.request, run.result
    if request.kind == "study" and result.kind == "study" and request.view == "comparison":
        return read_comparison(request, result)
    return None


def _head(run: Run, compared: Comparison | None, may_see: Callable[[str], bool]) -> str:
    said = [f"<p class=quiet>{_text(wording.run_line(run))} · run {run.key}</p>"]
    if note := note_of(run.key).text:
        said.append(f"<p class=note>{_text(note)}</p>")
    request, result = run.request, run.result
    if compared:
        said.append(f"<p class=verdict>{_text(wording.cost(compared))}</p>")
        if compared.planned != "constant":
            told = wording.without_colours(wording.verdict(compared))
            said.append(f"<p class=verdict>{_text(told)}</p>")
        pairs = wording.deciding(compared)
        said += [
            f"<p>{_text(how.capitalize())}: <b>{_text(each.verdict)}</b>. {_text(wording.evidence(each))}</p>"
            for how, each in pairs
        ]
        said.append(embedded(draw_differences(pairs), "chart-answer"))
        best = best_other_way(run, compared, may_see)
        known = f" From run {best.key}." if best else ""
        said.append(f"<p>{_text(wording.other_way(compared, best) + known)}</p>")
        if noise := wording.noise_reading(compared.study):
            said.append(f"<p class=quiet>{_text(noise)}</p>")
        protocol = compared.measured["dense"].evaluation.protocol
        said.append(f"<p class=quiet>{_text(compared.result.evaluation.label)}: {_text(protocol)}.</p>")
    if request.kind == "shrink" and result.kind == "shrink":
        said.append(f"<p class=verdict>{_text(wording.answer(result))}</p>")
    if way := wording.sequential_or_one_shot(request):
        said.append(f"<p class=quiet>{_text(way)}</p>")
    if result.kind == "trial" or result.kind == "study" or result.kind == "shrink":
        said.append(f"<p class=quiet>{_text(wording.window_reading(result.evaluation))}</p>")
    warnings = request.warnings(result.shape) + told_of(result)
    said += [f"<p class=note>{_text(warning)}</p>" for warning in warnings]
    return "".join(said)


def _told(text: str) -> str:
    if "\n" in text:
        return f"<ul class=quiet>{''.join(f'<li>{_text(each)}</li>' for each in text.splitlines())}</ul>"
    return f"<p class=quiet>{_text(text)}</p>" if text else ""


def _section(section: Section, number: int) -> str:
    chart = embedded(section.drawing, f"chart-{number}") if section.drawing else ""
    table = html_table(section.table)
    twin = f"<details><summary>The same as a table</summary><div class=wide>{table}</div></details>"
    told = _told(section.text)
    shown = chart + twin if chart else f"<div class=wide>{table}</div>"
    return f"<section><h2>{_text(section.title)}</h2>{told}{shown}</section>"


def _samples(compared: Comparison) -> str:
    cards = "".join(
        f"<div><h3>{_text(each.title)}</h3><p>{_text(each.sample.text.strip())}</p></div>"
        for each in compared.measured.values()
        if each.sample
    )
    if not cards:
        return ""
    return (
        f"<section><h2>An illustration, not evidence</h2><p class=quiet>Each model continues the prompt "
        f"greedily: “{_text(compared.study.prompt)}”</p><div class=cards>{cards}</div></section>"
    )


def _foot(run: Run) -> str:
    where = run.environment
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    table = text_table(run).drop(columns="passages", errors="ignore")
    request = run.request
    parts: list[tuple[str, str]] = [
        ("The command that repeats it", f"<pre>{_text(command(request))}</pre>"),
        *_study_file(request),
        (
            "Where and with what",
            f"<p>{run.created:%d %b %Y %H:%M} UTC, {_text(wording.duration(run.seconds))} on "
            f"{_text(where.device)} ({_text(where.device_name)}) in {_text(where.dtype)} with "
            f"{where.threads} threads. {_text(where.platform)}; {_text(versions)}</p>"
            f"<div class=wide>{html_table(table)}</div>",
        ),
        ("Request", f"<pre>{_text(request.to_json())}</pre>"),
        ("To cite", f"<pre>{_text(bibtex(request, _chosen(run)))}</pre>"),
    ]
    return "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in parts)


def _chosen(run: Run) -> tuple[Recipe, ...]:
    """The recipes that a run came to and its request does not name."""
    return tuple(each.recipe for each in run.result.finalists) if run.result.kind == "shrink" else ()


def _study_file(request: Request) -> list[tuple[str, str]]:
    """Give the file that the command reads, where it reads one."""
    if request.kind == "profile" or request.kind == "compress" or request.kind == "shrink":
        return []
    return [(f"{STUDY_FILE}, which the command reads", f"<pre>{_text(study_file(request))}</pre>")]


def _text(value: object) -> str:
    return html.escape(visible(str(value)))


STYLE = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #fff; color: {LIGHT.ink}; font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1, h2 {{ font-family: Georgia, serif; line-height: 1.2; }}
h1 {{ font-size: 1.9rem; margin: 0 0 .4rem; }}
h2 {{ font-size: 1.35rem; margin: 2.4rem 0 .6rem; }}
h3 {{ font-size: 1rem; margin: 0 0 .3rem; }}
.brand {{ margin: 0 0 1rem; font: 600 1rem Georgia, serif; color: {LIGHT.measured}; }}
.quiet, figcaption {{ color: {LIGHT.label}; font-size: .92rem; }}
.verdict {{ font: 600 1.25rem/1.35 Georgia, serif; }}
.note {{ border-left: 4px solid #CC79A7; padding-left: .8rem; }}
figure {{ margin: 0; }}
button {{ font: inherit; padding: .1rem .5rem; margin-left: .3rem; cursor: pointer; }}
pre {{ background: #F4F5F2; padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .85rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #DADDD7; white-space: nowrap; }}
details {{ margin: .6rem 0; }}
summary {{ cursor: pointer; }}
.cards {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); }}
.cards div {{ border: 1px solid #DADDD7; border-radius: .4rem; padding: .8rem; }}
.cards p {{ margin: 0; white-space: pre-wrap; }}
@media print {{
  button, details:not([open]) {{ display: none; }}
  section, figure {{ break-inside: avoid; }}
  main {{ max-width: none; padding: 0; }}
}}
"""
