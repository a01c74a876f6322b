"""Chart of a leaderboard as far as it has come: size against loss, width beside depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from analysis.evaluate import perplexity_of
from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    HIGHLIGHT,
    LIGHT,
    MANUAL,
    Drawing,
    Theme,
    as_text,
    empty_figure,
)
from slicing.study.verdicts import Board
from slicing.board import Kind, kind_of
from slicing.study.verdicts import Standing
from slicing.runs import Contestant
from app.journal import Entry

Text = Literal["first", "second"]
"""The evaluation text that is looked at."""


class Side(NamedTuple):
    """How the entries of one kind are drawn."""

    name: str
    colour: str
    """Empty for the colour of labels, which depends on the theme."""
    dash: str


SIDES: dict[Kind, Side] = {
    "width": Side("slices", DYNAMIC, "solid"),
    "depth": Side("removes blocks", MANUAL, "dash"),
    "both": Side("does both", HIGHLIGHT, "dot"),
}
CONTROL = Side("control", "", "dashdot")
REFERENCE = Side("constant slicing", CONSTANT, "longdash")
SYMBOLS = {
    "none": "circle",
    "matrix": "square",
    "writer": "triangle-up",
    "block": "diamond",
    "writers": "star",
}
"""What closes the gaps, or repairs."""


def symbol_of(entry: Entry) -> str:
    """The marker of an entry, by what repairs it."""
    if entry.slices:
        return SYMBOLS["writers" if entry.repair else "none"]
    return SYMBOLS.get(entry.removal.closing, "x") if entry.removal else SYMBOLS["none"]


def draw_board(
    board: Board, chosen: str | None = None, text: Text = "first", theme: Theme = LIGHT
) -> Drawing:
    """Every entry over the sizes, as a multiple of the dense model's perplexity on a log axis."""
    figure = empty_figure(theme, height=520)
    dense = board.dense
    if dense is None:
        return Drawing(figure, f"{board.done} of {board.total} trials have run.")
    shown: set[str] = set()
    limit = _limit(board, text)
    reached = [100 * size for size in board.recipe.sizes]
    for entry in sorted(board.recipe.entries, key=lambda entry: entry.name == chosen):  # the chosen on top
        rows = [each for table in board.tables for each in table.standings if each.entry == entry]
        points = [(each, _nats(each, text)) for each in rows]
        known = sorted(
            ((each, nats) for each, nats in points if nats is not None), key=lambda pair: -pair[0].parameters
        )
        if not known:
            continue
        reached += [_fewer(each, dense) for each, _ in known]
        side = REFERENCE if entry == Entry() else CONTROL if entry.control else SIDES[kind_of(entry)]
        colour = side.colour or theme.label
        figure.add_trace(
            go.Scatter(
                x=[_fewer(each, dense) for each, _ in known],
                y=[min(perplexity_of(nats), limit) for _, nats in known],
                mode="lines+markers",
                name=side.name,
                legendgroup=side.name,
                showlegend=side.name not in shown,
                customdata=[entry.name] * len(known),
                line={"color": colour, "dash": side.dash, "width": 3 if entry.name == chosen else 1},
                marker={
                    "symbol": [
                        symbol_of(entry) if perplexity_of(nats) <= limit else "arrow-up" for _, nats in known
                    ],
                    "size": 14 if entry.name == chosen else 10,
                    "color": colour,
                },
                opacity=1.0 if chosen in (None, entry.name) else 0.45,
                text=[_told(each, nats) for each, nats in known],
                hovertemplate="%{text}<extra></extra>",
            )
        )
        shown.add(side.name)
    figure.add_hline(y=1.0, line={"color": theme.dense, "width": 1.5, "dash": "dash"})
    figure.update_layout(
        xaxis={
            "title": {"text": "parameters fewer than dense"},
            "ticksuffix": " %",
            "zeroline": False,
            "range": [min(reached) - 2, max(reached) + 2],  # one size alone would fill all the width
        },
        yaxis={
            "title": {"text": "perplexity, × dense (log)"},
            "type": "log",
            "tickformat": "~r",
            "zeroline": False,
        },
        hovermode="closest",
    )
    return Drawing(figure, _takeaway(board, text))


def _limit(board: Board, text: Text) -> float:
    """Where the axis ends: four times what slices, else chance. A model that broke would hide all others."""
    known = [
        (each.entry.control, nats)
        for table in board.tables
        for each in table.standings
        if (each.entry.control or each.entry.removal is None) and (nats := _nats(each, text)) is not None
    ]
    # Chance hits blocks that no model does without once it takes many.
    slicing = [nats for control, nats in known if not control] or [nats for _, nats in known]
    return 4 * perplexity_of(max(slicing)) if slicing else math.inf


def _nats(each: Standing, text: Text) -> float | None:
    return each.nats if text == "first" else each.other_nats


def _fewer(each: Standing, dense: Contestant) -> float:
    return 100 * (1 - each.parameters / dense.parameters)


def _told(each: Standing, nats: float) -> str:
    first = each.runs[0]
    blocks = f"<br>{as_text(first.layout.label)}" if first.layout else ""
    seeds = len(each.runs)
    return (
        f"{as_text(each.entry.name)}: {perplexity_of(nats):.2f} × dense"
        f"<br>{each.parameters:,} parameters, {seeds} calibration{'s' * (seeds > 1)}{blocks}"
    )


def _takeaway(board: Board, text: Text) -> str:
    told = []
    for table in board.tables:
        ranked = _ranked(table.standings, text)
        if ranked:
            nats, winner = ranked[0]
            size = f"{100 * (table.recipe.fewer or 0):.0f} % fewer"
            told.append(f"{size}: {winner.entry.name}, {perplexity_of(nats):.2f} times")
    where = "" if text == "first" else " on the second text"
    if not told:
        return "No size is done yet."
    limit = _limit(board, text)
    above = {
        each.entry.name
        for table in board.tables
        for each in table.standings
        if (nats := _nats(each, text)) is not None and perplexity_of(nats) > limit
    }
    off = f" Above the chart (arrows): {', '.join(sorted(above))}." if above else ""
    return f"Least perplexity against dense{where} at {'; at '.join(told)}.{off}"


def _ranked(standings: Sequence[Standing], text: Text) -> list[tuple[float, Standing]]:
    known = [(nats, each) for each in standings if (nats := _nats(each, text)) is not None]
    return sorted((pair for pair in known if not pair[1].entry.control), key=lambda pair: pair[0])
