"""A run as one HTML file: every chart with its table, what was asked for, and how to get the same again.

Needs no network, prints, and takes nothing from a run but as text. Knows nothing about streamlit.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pandas as pd

from analysis.errors import StorageError, visible
from analysis.scores import SCORES
from app import wording
from app.cells import html_table
from app.citations import bibtex
from app.figures.base import LIGHT, Drawing
from app.figures.board import draw_board
from app.figures.compare import draw_differences, draw_perplexities, draw_windows
from app.figures.contest import draw_contest
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
from app.figures.sweep import draw_grid, draw_pareto
from app.tables import (
    board_table,
    contest_table,
    damage_table,
    difference_table,
    grid_table,
    lens_table,
    passage_table,
    perplexity_table,
    removal_table,
    schedule_table,
    similarity_table,
    size_table,
    split_table,
    task_table,
    text_table,
    trial_table,
)
from slicing.study.verdicts import read_board
from slicing.contest import read_contest
from slicing.grid import read_grid
from slicing.library import note_of
from slicing.plan import Plan
from slicing.runs import CompareRecipe, CompareResult, ContestRecipe, ContestResult, LeaderboardRecipe, LeaderboardResult, RemoveRecipe, RemoveResult, SliceRecipe, SliceResult, SweepRecipe, SweepResult
from slicing.study.results import Run, TextUsed
from slicing.study.store import find_details


class Section(NamedTuple):
    """A part of a report: a heading, a chart where there is one, and the same as a table."""

    title: str
    drawing: Drawing | None
    table: pd.DataFrame
    text: str = ""


def sections(run: Run) -> list[Section]:
    """What a run has to show, in the order of the pages."""
    return [*_of_kind(run), *_of_profile(run)]


def _of_kind(run: Run) -> Iterator[Section]:
    recipe, result = run.recipe, run.result
    if isinstance(recipe, CompareRecipe) and isinstance(result, CompareResult):
        planned = recipe.planned
        pairs = wording.paired_differences(result, planned)
        contestants = result.contestants
        yield Section("Perplexity", draw_perplexities(contestants), perplexity_table(contestants))
        yield Section("Paired difference", draw_differences(pairs), difference_table(pairs))
        baseline = "dense" if planned == "constant" else "constant"
        windows = draw_windows(result, baseline, planned)
        yield Section("Where the difference comes from", windows, passage_table(result, baseline, planned))
        if (scores := task_table(contestants)) is not None:
            told = "By EleutherAI's lm-evaluation-harness, beside the perplexity of the same model."
            yield Section("What they score on tasks", None, scores, told)
        yield Section("Four sizes, and what they took", None, size_table(result))
        schedule, constant = result.contestant(planned).schedule, result.contestant("constant").schedule
        if schedule and constant:
            path, scores = (
                result.profile.block_path,
                result.profile.redundancy(result.profile.held(recipe.plan.score)),
            )
            drawing = draw_schedule(schedule, constant, result.fractions, planned, path)
            table = schedule_table(schedule, constant, result.fractions, scores, path)
            yield Section("What was cut where", drawing, table)
    elif isinstance(recipe, SliceRecipe) and isinstance(result, SliceResult):
        path, scores = (
            result.profile.block_path,
            result.profile.redundancy(result.profile.held(recipe.plan.score)),
        )
        constant = recipe.plan.constant(result.shape)
        drawing = draw_schedule(result.schedule, constant, result.fractions, recipe.plan.allocation, path)
        table = schedule_table(result.schedule, constant, result.fractions, scores, path)
        yield Section("What was cut where", drawing, table)
    elif isinstance(recipe, SweepRecipe) and isinstance(result, SweepResult):
        grid = read_grid(recipe, result)
        yield Section("Which base, which target", draw_grid(grid), grid_table(grid), wording.GRID_READING)
        yield Section("Size against loss", draw_pareto(grid), trial_table(grid))
    elif isinstance(recipe, LeaderboardRecipe) and isinstance(result, LeaderboardResult):
        board = read_board(recipe, result)
        told = " ".join([wording.BOARD_READING, *wording.board(board)])
        yield Section(
            "Size against loss", draw_board(board), board_table(board.tables[0], result.shape), told
        )
        for table in board.tables:
            size = f"{wording.percent(table.recipe.fewer or 0.0)} fewer parameters"
            yield Section(size, draw_contest(table), board_table(table, result.shape))
    elif isinstance(recipe, RemoveRecipe) and isinstance(result, RemoveResult):
        yield Section("What was removed", None, removal_table(result))
    elif isinstance(recipe, ContestRecipe) and isinstance(result, ContestResult):
        found = read_contest(recipe, result)
        told = " ".join([wording.CONTEST_READING, *wording.contest(found)])
        yield Section("Who loses least", draw_contest(found), contest_table(found), told)


def _of_profile(run: Run) -> Iterator[Section]:
    recipe, profile = run.recipe, run.result.profile
    plan = getattr(recipe, "plan", None)
    score, first_token = profile.held((plan or Plan()).score), (plan or Plan()).first_token
    title, source = SCORES[score].title, SCORES[score].source
    told = f"{SCORES[score].description} Source: {source}."
    drawing = draw_profile(profile, score, first_token)
    yield Section(f"{title} of every block", drawing, profile.to_frame(first_token).round(4), told)
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
        yield Section("Depth by depth", draw_similarity(details), similarity_table(details))
        if details.split is not None:
            yield Section("Heads and MLP", draw_split(details), split_table(details))
        if details.lens is not None:
            yield Section("Logit lens", draw_lens(details), lens_table(details), wording.LENS_READING)


def build_report(run: Run) -> str:
    """The whole file."""
    title = note_of(run.key).label or wording.title(run.recipe)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{_text(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style>{script()}{FUNCTIONS}</head><body><main>"
        f"<p class=brand>slicescope</p><h1>{_text(title)}</h1>{_head(run)}"
        + "".join(_section(each, number) for number, each in enumerate(sections(run)))
        + _samples(run)
        + _foot(run)
        + "</main></body></html>"
    )


def _head(run: Run) -> str:
    said = [f"<p class=quiet>{_text(wording.run_line(run))} · run {run.key}</p>"]
    if note := note_of(run.key).text:
        said.append(f"<p class=note>{_text(note)}</p>")
    recipe, result = run.recipe, run.result
    if isinstance(recipe, CompareRecipe) and isinstance(result, CompareResult):
        planned = recipe.planned
        said.append(f"<p class=verdict>{_text(wording.plain(wording.verdict(result, planned)))}</p>")
        said += [
            f"<p>{_text(how.capitalize())}: <b>{_text(each.verdict)}</b>. {_text(wording.evidence(each))}</p>"
            for how, each in wording.paired_differences(result, planned)
        ]
        protocol = result.contestant("dense").evaluation.protocol
        said.append(
            f"<p class=quiet>{_text(result.evaluation.label)}: {_text(protocol)}. "
            f"{_text(wording.METHODS[recipe.method])}</p>"
        )
    if isinstance(evaluation := getattr(result, "evaluation", None), TextUsed):
        said.append(f"<p class=quiet>{_text(wording.window_reading(evaluation))}</p>")
    warnings = recipe.warnings(result.shape) + result.profile.warnings()
    said += [f"<p class=note>{_text(warning)}</p>" for warning in warnings]
    return "".join(said)


def _section(section: Section, number: int) -> str:
    chart = embedded(section.drawing, f"chart-{number}") if section.drawing else ""
    table = html_table(section.table)
    twin = f"<details><summary>The same as a table</summary><div class=wide>{table}</div></details>"
    told = f"<p class=quiet>{_text(section.text)}</p>" if section.text else ""
    shown = chart + twin if chart else f"<div class=wide>{table}</div>"
    return f"<section><h2>{_text(section.title)}</h2>{told}{shown}</section>"


def _samples(run: Run) -> str:
    result = run.result
    if not isinstance(result, CompareResult) or not any(each.sample for each in result.contestants):
        return ""
    prompt = run.recipe.prompt if isinstance(run.recipe, CompareRecipe) else ""
    cards = "".join(
        f"<div><h3>{_text(each.title)}</h3><p>{_text(each.sample.text.strip())}</p></div>"
        for each in result.contestants
        if each.sample
    )
    return (
        f"<section><h2>An illustration, not evidence</h2><p class=quiet>Each model continues the prompt "
        f"greedily: “{_text(prompt)}”</p><div class=cards>{cards}</div></section>"
    )


def _foot(run: Run) -> str:
    where = run.environment
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    table = text_table(run).drop(columns="passages", errors="ignore")
    parts: list[tuple[str, str]] = [
        ("The command that repeats it", f"<pre>{_text(wording.command(run.recipe))}</pre>"),
        (
            "Where and with what",
            f"<p>{run.created:%d %b %Y %H:%M} UTC, {_text(wording.duration(run.seconds))} on "
            f"{_text(where.device)} ({_text(where.device_name)}) in {_text(where.dtype)} with "
            f"{where.threads} threads. {_text(where.platform)}; {_text(versions)}</p>"
            f"<div class=wide>{html_table(table)}</div>",
        ),
        ("Recipe", f"<pre>{_text(run.recipe.to_json())}</pre>"),
        ("To cite", f"<pre>{_text(bibtex(run.recipe))}</pre>"),
    ]
    return "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in parts)


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
