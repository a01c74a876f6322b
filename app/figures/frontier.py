"""Chart of a study at several sizes, as far as it has come: the loss of every recipe over the sizes."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go

from analysis.errors import visible
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
from app.wording import budgets_line, counted
from slicing.studies.recipe import Kind, Recipe
from slicing.studies.results import Measurement
from slicing.studies.verdicts import Board, Standing

Text = Literal["first", "second"]
"""The evaluation text that is looked at."""


class End(NamedTuple):
    """Where a line ends that is told by name, and what is told of it."""

    fewer: float
    """Parameters fewer than dense, percent."""
    times: float
    """Perplexity, times the dense model's; where it is drawn, which is the end of the axis at most."""
    brief: str
    """The name beside the line."""
    title: str
    """The name in the key."""
    colour: str
    ink: str
    """The colour of its words."""
    dash: str
    is_first: bool = False


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
ROOM, LABEL, LINE = 112, 15, 16
"""Pixels right of the chart for the labels of lines; characters on a line of a label, and its height."""
HEIGHT, MARGINS = 320, 70
BEYOND = 1.3
"""Where marks of what lost too much to be drawn in its place stand, times the largest that is drawn there."""
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
    limit, edge = _limits(board, text)
    reached = [100 * budget.amount for budget in board.study.budgets if budget.measure == "parameters"]
    named = _named(board, text, chosen)
    heights: list[float] = []
    rank = {line: place for place, line in enumerate(reversed(named))}
    for recipe in sorted(board.study.recipes, key=lambda each: rank.get(each.line, -1)):  # the named on top
        known = _known(board, recipe, text)
        if not known:
            continue
        reached += [_fewer(each, dense) for each, _ in known]
        line = _line(recipe, known, board, (limit, edge), named, theme)
        figure.add_trace(line)
        reach: Any = line.y
        heights += reach
    low, high = (math.log10(end) for end in (min([1.0, *heights]), max([1.1, *heights])))
    span = (low - 0.06 * (high - low), high + 0.06 * (high - low))
    # One size alone would fill all the width. Right of the last there is room for lines to the labels.
    across = (min(reached) - 2, max(reached) + 3) if reached else None
    figure.add_hline(y=1.0, line={"color": theme.dense, "width": 1.5, "dash": "dash"})
    if across:
        _label_lines(figure, named_ends(board, text, chosen, theme), across[1], span)
    figure.update_layout(
        xaxis={
            "title": {"text": "parameters fewer than dense"},
            "ticksuffix": " %",
            "zeroline": False,
            "tickangle": 0,
            "nticks": 6,
            "range": across,
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


def named_ends(
    board: Board, text: Text = "first", chosen: str | None = None, theme: Theme = LIGHT
) -> list[End]:
    """Give the ends of the lines that are told by name, the highest first; the dense model's is the last."""
    limit, edge = _limits(board, text)
    named = _named(board, text, chosen)
    found = [End(0.0, 1.0, "dense", "dense: the model as it was", theme.dense, theme.label, "dash")]
    for line in named:
        recipe = board.study.recipe(line)
        known = _known(board, recipe, text) if recipe else []
        if not recipe or not known:
            continue
        (last, nats), side = known[-1], _side(board, recipe)
        times = perplexity_of(nats)
        repaired = ", repaired" if recipe.repaired != "none" else ""
        found.append(
            End(
                _fewer(last, board.dense),
                times if times <= limit else edge,
                _brief(recipe),
                f"{recipe.short_title}{repaired}",
                side.colour or theme.label,
                _ink(side, theme),
                side.dash,
                line == named[0],
            )
        )
    return sorted(found, key=lambda each: -each.times)


def _brief(recipe: Recipe) -> str:
    """A name for little room: of every step the method's own, where its title has it in brackets."""
    names = []
    for step in recipe.steps:
        title, _, own = step.short_title.partition(" (")
        names.append(title if step.axis == "stream" or not own else own.rstrip(")"))
    return " + ".join(names)


def _label_lines(figure: go.Figure, ends: Sequence[End], edge: float, span: tuple[float, float]) -> None:
    """Write the name of every line where it ends, and lead a thin line to it; no label stands on another.

    ``edge`` is the end of the horizontal axis, ``span`` are the ends of the vertical one, as logarithms.
    """
    pixels = (HEIGHT - MARGINS) / (span[1] - span[0])
    texts = [textwrap.wrap(each.brief, LABEL, max_lines=2, placeholder=" …") for each in ends]
    wished = [(math.log10(each.times) - span[0]) * pixels for each in ends]
    places = _apart(wished, [float(LINE * len(lines)) for lines in texts])
    for end, lines, place in zip(ends, texts, places, strict=True):
        said = "<br>".join(map(as_text, lines))
        level = span[0] + place / pixels
        figure.add_annotation(
            x=1.0,
            xref="paper",
            xanchor="left",
            xshift=5,
            y=level,
            yanchor="middle",
            align="left",
            text=f"<b>{said}</b>" if end.is_first else said,
            showarrow=False,
            font={"size": 12, "color": end.ink},
        )
        # The line of the dense model goes to the edge itself: a short piece of it leads to its label.
        begins = end.fewer or edge - 1.0
        figure.add_shape(
            type="line",
            x0=begins,
            x1=edge,
            y0=end.times,
            y1=10.0**level,
            line={"color": end.colour, "width": 1},
        )


def _apart(wished: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Give the middles of labels, the highest first: as near to where they are wished as they have room.

    Neighbours that would touch stand on each other around the mean of what all of them wish, at least half a
    label above 0.
    """
    groups: list[list[int]] = []
    middles: list[float] = []
    for index in range(len(wished)):
        groups.append([index])
        middles.append(wished[index])
        while len(groups) > 1:
            upper, lower = (sum(heights[each] for each in group) for group in groups[-2:])
            if middles[-2] - upper / 2 >= middles[-1] + lower / 2:
                break
            group = groups.pop(-2) + groups.pop()
            # Each wishes the middle of the whole to be where it would get its own place.
            whole, above, wishes = upper + lower, 0.0, []
            for each in group:
                wishes.append(wished[each] + above + heights[each] / 2 - whole / 2)
                above += heights[each]
            groups.append(group)
            middles[-2:] = [max(sum(wishes) / len(wishes), whole / 2)]
    places = []
    for group, middle in zip(groups, middles, strict=True):
        top = middle + sum(heights[each] for each in group) / 2
        for each in group:
            places.append(top - heights[each] / 2)
            top -= heights[each]
    return places


def key_of(ends: Sequence[End], beyond: Sequence[str] = ()) -> str:
    """Write the whole names of lines as HTML that takes as many rows as the screen is narrow.

    ``beyond``: what lost too much to be drawn in its place.
    """
    items = []
    for each in ends:
        told = f"{html.escape(visible(each.title))}, {each.times:.2f} ×"
        border = f"border-top: 3px {_BORDERS.get(each.dash, 'dashed')} {each.colour}"
        items.append(f'<span style="{border}"></span>{f"<strong>{told}</strong>" if each.is_first else told}')
    if beyond:
        items.append(f"▲ above the chart: {html.escape(visible('; '.join(beyond)))}")
    rows = "".join(f"<li><div>{item}</div></li>" for item in items)
    return f'<style>{_STYLE}</style><div class="slicescope-key"><ul>{rows}</ul></div>'


_BORDERS = {"solid": "solid", "dot": "dotted"}
_STYLE = """
.slicescope-key ul { display: flex; flex-wrap: wrap; gap: 0.1rem 1.4rem; margin: 0; padding: 0;
  list-style: none; font-size: 0.875rem; line-height: 1.35; }
.slicescope-key li { margin: 0; padding: 0; }
.slicescope-key span { display: inline-block; width: 1.6rem; margin-right: 0.5rem; vertical-align: 0.3em; }
"""


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
    limits: tuple[float, float],
    named: Sequence[str],
    theme: Theme,
) -> go.Scatter:
    side, told = _side(board, recipe), recipe.line in named
    colour = (side.colour if told else "") or theme.label
    limit, edge = limits
    first = recipe.line == named[0]
    name = side.name if told else OTHERS
    return go.Scatter(
        x=[_fewer(each, board.dense) for each, _ in known],
        y=[times if (times := perplexity_of(nats)) <= limit else edge for _, nats in known],
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


def _limits(board: Board, text: Text) -> tuple[float, float]:
    """The largest value that is drawn in its place, and where the marks of all larger ones are."""
    limit = _limit(board, text)
    known = [
        nats for table in board.tables for each in table.standings if (nats := _nats(each, text)) is not None
    ]
    drawn = [times for nats in known if (times := perplexity_of(nats)) <= limit]
    return limit, BEYOND * max([1.1, *drawn])


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
    told, ran, best = [], [], ""
    for table in board.tables:
        ranked = _ranked(table.standings, text)
        if ranked:
            nats, winner = ranked[0]
            told.append(f"{perplexity_of(nats):.2f}")
            ran.append(table.budget)
            best = winner.recipe.title
    where = "" if text == "first" else " on the second text"
    if not told:
        return "No size is done yet."
    winner = f"The best at the smallest size is “{best}”."
    off = beyond(board, text)
    above = f" {counted(len(off), 'recipe')} lost more than the chart shows (arrows)." if off else ""
    least = f"{'/'.join(told)} times at {budgets_line(ran)}"
    return f"Least perplexity against dense{where}: {least}. {winner}{above}"


def beyond(board: Board, text: Text = "first") -> list[str]:
    """Name the recipes that at some size lost too much to be drawn in their place."""
    limit = _limit(board, text)
    found = {
        each.recipe.short_title
        for table in board.tables
        for each in table.standings
        if (nats := _nats(each, text)) is not None and perplexity_of(nats) > limit
    }
    return sorted(found)


def _ranked(standings: Sequence[Standing], text: Text) -> list[tuple[float, Standing]]:
    known = [(nats, each) for each in standings if (nats := _nats(each, text)) is not None]
    return sorted((pair for pair in known if not pair[1].recipe.control), key=lambda pair: pair[0])
