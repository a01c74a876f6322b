"""Chart of a study at several sizes, as far as it has come: the loss of every recipe over the sizes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go

from analysis.evaluate import perplexity_of
from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    HIGHLIGHT,
    INSIDE,
    LIGHT,
    MANUAL,
    Drawing,
    Theme,
    as_text,
    empty_figure,
    luminance,
    rgb,
)
from app.wording import budgets_line
from slicing.studies.recipe import Kind, Recipe
from slicing.studies.results import Measurement
from slicing.studies.verdicts import Board, Standing

Text = Literal["first", "second"]
"""The evaluation text that is looked at."""


class Side(NamedTuple):
    """How the recipes of one kind are drawn."""

    name: str
    colour: str
    """Empty for the colour of labels, which depends on the theme."""
    dash: str


SIDES: dict[Kind | None, Side] = {
    "width": Side("slices", DYNAMIC, "solid"),
    "depth": Side("removes blocks", MANUAL, "dash"),
    "inner": Side("cuts inside blocks", INSIDE, "solid"),
    "both": Side("does both", HIGHLIGHT, "dot"),
}
TO_BEAT = Side("baseline to beat", "", "dashdot")
BASELINE = Side("baseline", CONSTANT, "longdash")
OTHERS = "others"
"""The name of the lines that are no best of their kind, all of them grey."""
ROOM, LABEL, LINE = 175, 24, 16
"""Pixels right of the chart for the labels of lines; characters on a line of a label, and its height."""
HEIGHT, MARGINS = 460, 70
SYMBOLS = {
    "none": "circle",
    "linear": "square",
    "last-writer": "triangle-up",
    "train-block": "diamond",
    "writers": "star",
    "projections": "hexagram",
}
"""Markers of repairs; others are crosses."""


def symbol_of(recipe: Recipe) -> str:
    """The marker of a recipe, by what repairs it."""
    return SYMBOLS.get(recipe.repaired, "x")


def draw_frontier(
    board: Board, chosen: str | None = None, text: Text = "first", theme: Theme = LIGHT
) -> Drawing:
    """Every recipe over the sizes, as a multiple of the dense model's perplexity on a log axis.

    ``chosen`` is the line of a recipe. A point carries the line of its own, which answers to a click.
    """
    figure = empty_figure(theme, height=HEIGHT)
    dense = board.dense
    if dense is None:
        return Drawing(figure, f"{board.done} of {board.total} trials have run.")
    limit = _limit(board, text)
    reached = [100 * budget.amount for budget in board.study.budgets if budget.measure == "parameters"]
    named = _named(board, text, chosen)
    ends: list[tuple[float, Recipe]] = []
    heights: list[float] = []
    rank = {line: place for place, line in enumerate(reversed(named))}
    for recipe in sorted(board.study.recipes, key=lambda each: rank.get(each.line, -1)):  # the named on top
        known = _known(board, recipe, text)
        if not known:
            continue
        reached += [_fewer(each, dense) for each, _ in known]
        line = _line(recipe, known, board, limit, named, theme)
        figure.add_trace(line)
        reach: Any = line.y
        heights += reach
        if recipe.line in named:
            ends.append((reach[-1], recipe))
    low, high = (math.log10(end) for end in (min([1.0, *heights]), max([1.1, *heights])))
    span = (low - 0.06 * (high - low), high + 0.06 * (high - low))
    _label_lines(figure, ends, board, named, span, theme)
    figure.add_hline(y=1.0, line={"color": theme.dense, "width": 1.5, "dash": "dash"})
    figure.update_layout(
        xaxis={
            "title": {"text": "parameters fewer than dense"},
            "ticksuffix": " %",
            "zeroline": False,
            # One size alone would fill all the width.
            "range": [min(reached) - 2, max(reached) + 2] if reached else None,
        },
        yaxis={
            "title": {"text": "perplexity, × dense (log)"},
            "type": "log",
            "tickformat": "~r",
            "zeroline": False,
            "range": span,
            "dtick": "D2",
        },
        showlegend=False,
        margin={"r": ROOM, "t": 10},
        hovermode="closest",
    )
    return Drawing(figure, _takeaway(board, text))


def _known(board: Board, recipe: Recipe, text: Text) -> list[tuple[Standing, float]]:
    """The standings of a recipe with their losses, largest first."""
    rows = (each for table in board.tables for each in table.standings if each.recipe == recipe)
    known = [(each, nats) for each in rows if (nats := _nats(each, text)) is not None]
    return sorted(known, key=lambda pair: -pair[0].parameters)


def _side(board: Board, recipe: Recipe) -> Side:
    if recipe == board.study.baseline:
        return BASELINE
    return TO_BEAT if recipe.control else SIDES[recipe.kind]


def _named(board: Board, text: Text, chosen: str | None) -> list[str]:
    """The lines that are told by name, the most important first: what was clicked on, the winner, the best of
    each other kind, and the baseline. Judged at the smallest size that ran.
    """
    tables = [ranked for table in board.tables if (ranked := _ranked(table.standings, text))]
    best: dict[Kind | None, str] = {}
    for _, each in tables[-1] if tables else []:
        if each.recipe != board.study.baseline:
            best.setdefault(each.recipe.kind, each.name)
    known = [*([chosen] if chosen else []), *best.values(), board.study.baseline.line]
    return list(dict.fromkeys(known))


def _label_lines(
    figure: go.Figure,
    ends: Sequence[tuple[float, Recipe]],
    board: Board,
    named: Sequence[str],
    span: tuple[float, float],
    theme: Theme,
) -> None:
    """Write the title of every named line where it ends; no label stands on another."""
    pixels = (HEIGHT - MARGINS) / (span[1] - span[0])
    ordered = sorted(ends, key=lambda pair: pair[0])
    texts = [textwrap.wrap(_label(recipe), LABEL, max_lines=2, placeholder=" …") for _, recipe in ordered]
    free, places = float(HEIGHT - MARGINS), []
    for (y, _), lines in zip(reversed(ordered), reversed(texts), strict=True):  # from above
        half = LINE * len(lines) / 2
        places.append(min((math.log10(y) - span[0]) * pixels, free - half))
        free = places[-1] - half
    lowest = 0.0
    for (y, recipe), lines, above in zip(ordered, texts, reversed(places), strict=True):  # and none below
        half, at = LINE * len(lines) / 2, (math.log10(y) - span[0]) * pixels
        place = max(above, lowest + half)
        lowest = place + half
        said = "<br>".join(map(as_text, lines))
        figure.add_annotation(
            x=1.0,
            xref="paper",
            xanchor="left",
            xshift=8,
            y=math.log10(y),
            yshift=place - at,
            align="left",
            text=f"<b>{said}</b>" if recipe.line == named[0] else said,
            showarrow=False,
            font={"size": 12, "color": _ink(_side(board, recipe), theme)},
        )


def _label(recipe: Recipe) -> str:
    return f"{recipe.short_title}{', repaired' if recipe.repaired != 'none' else ''}"


def _ink(side: Side, theme: Theme) -> str:
    """The colour of a family for words: where words of it could not be read, that of labels."""
    if not side.colour:
        return theme.label
    light = luminance(rgb(side.colour))
    readable = light < 0.2 if theme is LIGHT else light > 0.17
    return side.colour if readable else theme.ink


def _line(
    recipe: Recipe,
    known: Sequence[tuple[Standing, float]],
    board: Board,
    limit: float,
    named: Sequence[str],
    theme: Theme,
) -> go.Scatter:
    side, told = _side(board, recipe), recipe.line in named
    colour = (side.colour if told else "") or theme.label
    first = recipe.line == named[0]
    name = side.name if told else OTHERS
    return go.Scatter(
        x=[_fewer(each, board.dense) for each, _ in known],
        y=[min(perplexity_of(nats), limit) for _, nats in known],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        customdata=[recipe.line] * len(known),
        line={"color": colour, "dash": side.dash, "width": 3 if first else 2 if told else 1},
        marker={
            "symbol": [
                symbol_of(recipe) if perplexity_of(nats) <= limit else "arrow-up" for _, nats in known
            ],
            "size": 14 if first else 11 if told else 7,
            "color": colour,
        },
        opacity=1.0 if told else 0.4,
        text=[_told(each, nats) for each, nats in known],
        hovertemplate="%{text}<extra></extra>",
    )


def _limit(board: Board, text: Text) -> float:
    """Where the axis ends: four times what slices, else the random baselines; what broke hides none."""
    known = [
        (each.recipe.control, nats)
        for table in board.tables
        for each in table.standings
        if (each.recipe.control or each.recipe.kind == "width") and (nats := _nats(each, text)) is not None
    ]
    # Many blocks drawn at random hold one that no model does without.
    slicing = [nats for control, nats in known if not control] or [nats for _, nats in known]
    return 4 * perplexity_of(max(slicing)) if slicing else math.inf


def _nats(each: Standing, text: Text) -> float | None:
    return each.nats if text == "first" else each.other_nats


def _fewer(each: Standing, dense: Measurement | None) -> float:
    return 100 * (1 - each.parameters / dense.parameters) if dense else 0.0


def _told(each: Standing, nats: float) -> str:
    first = each.runs[0]
    blocks = f"<br>{as_text(first.layout.label)}" if first.layout else ""
    seeds = len(each.runs)
    return (
        f"{as_text(each.recipe.title)}: {perplexity_of(nats):.2f} × dense"
        f"<br>{as_text(each.recipe.line)}"
        f"<br>{each.parameters:,} parameters, {seeds} calibration{'s' * (seeds > 1)}{blocks}"
    )


def _takeaway(board: Board, text: Text) -> str:
    told = []
    for table in board.tables:
        ranked = _ranked(table.standings, text)
        if ranked:
            nats, winner = ranked[0]
            size = budgets_line((table.budget,))
            told.append(f"{size}: {winner.recipe.title}, {perplexity_of(nats):.2f} times")
    where = "" if text == "first" else " on the second text"
    if not told:
        return "No size is done yet."
    limit = _limit(board, text)
    above = {
        each.recipe.title
        for table in board.tables
        for each in table.standings
        if (nats := _nats(each, text)) is not None and perplexity_of(nats) > limit
    }
    off = f" Above the chart (arrows): {'; '.join(sorted(above))}." if above else ""
    return f"Least perplexity against dense{where} at {'; at '.join(told)}.{off}"


def _ranked(standings: Sequence[Standing], text: Text) -> list[tuple[float, Standing]]:
    known = [(nats, each) for each in standings if (nats := _nats(each, text)) is not None]
    return sorted((pair for pair in known if not pair[1].recipe.control), key=lambda pair: pair[0])
