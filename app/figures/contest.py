"""Chart of a contest as far as it has come: what everyone keeps of the loss of constant slicing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    HIGHLIGHT,
    LIGHT,
    MANUAL,
    SHARED,
    Drawing,
    Theme,
    as_text,
    empty_figure,
)
from app.wording import chance
from slicing.allocation import find_allocation
from slicing.study.verdicts import Standing, Table
from app.journal import Entry

ROW = 34
"""Height of an entry."""
BELOW = 0.3
"""How far below its point, in rows, an entry's second text stands; its range over seeds as far above."""


FAR = 4.0
"""Shares of constant slicing's loss beyond this are told, not drawn."""


class Role(NamedTuple):
    """What an entry is in a contest, and so how it is drawn."""

    name: str
    symbol: str
    colour: str
    """Empty for the colour of labels, which depends on the theme."""


ROLES = (
    Role("constant", "square", CONSTANT),
    Role("rule", "circle", DYNAMIC),
    Role("measured or searched", "diamond", MANUAL),
    Role("shared basis", "triangle-up", SHARED),
    Role("repaired", "star", HIGHLIGHT),
    Role("control", "circle-open", ""),
)
REMOVING = (
    Role("removes blocks", "hexagon", MANUAL),
    Role("removes blocks, gaps closed", "hexagram", MANUAL),
    Role("removes and slices", "star-diamond", HIGHLIGHT),
)
"""Roles that only a leaderboard has; their colours are those of their kind there."""


def role_of(entry: Entry) -> Role:
    """The role of an entry: repair before any rule, since it gains more."""
    if entry.removal and not entry.control:
        return REMOVING[2 if entry.slices else entry.removal.closing != "none"]
    if entry.repair:
        place = 4
    elif entry.control:
        place = 5
    elif entry.span:
        place = 3
    elif entry.allocation == "constant":
        place = 0
    else:
        place = 2 if find_allocation(entry.allocation).made else 1
    return ROLES[place]


def interval(each: Standing) -> tuple[float, float] | None:
    """The 95 % interval of a share of constant slicing's loss, from the paired difference to it."""
    if each.gain is None or each.gain.nats_interval is None:
        return None
    constant = each.nats - each.gain.nats
    low, high = each.gain.nats_interval
    return (1 + low / constant, 1 + high / constant) if constant > 0 else None


def draw_contest(table: Table, chosen: Standing | None = None, theme: Theme = LIGHT) -> Drawing:
    """One row for each entry, best first: what it keeps of constant slicing's loss, where dense has 0 %.

    With its interval over windows, its range over calibration seeds, the second text below it, and the
    band of the random draws behind all.
    """
    rows = table.standings
    figure = empty_figure(theme, height=150 + ROW * len(rows))
    if not rows:
        return Drawing(figure, f"{table.done} of {table.total} trials have run.")
    if band := chance(table):
        figure.add_vrect(
            x0=100 * band[0],
            x1=100 * band[1],
            fillcolor=theme.label,
            opacity=0.18,
            layer="below",
            line_width=0,
        )
        figure.add_annotation(
            x=100 * band[1],
            xanchor="right",  # to the left there is room
            y=len(rows) - 0.15,
            text="chance: random draws",
            showarrow=False,
            font={"size": 13, "color": theme.label},
        )
    figure.add_shape(
        type="line",
        x0=100,
        x1=100,
        y0=-0.6,
        y1=len(rows) - 0.5,  # not through the words below
        line={"color": CONSTANT, "width": 1.5, "dash": "dash"},
        layer="below",
    )
    for role in (*ROLES, *REMOVING):
        if members := [(row, each) for row, each in enumerate(rows) if role_of(each.entry) == role]:
            _add_role(figure, role, members, theme)
    for row, each in enumerate(rows):
        if each.share > FAR:  # a model that broke would squeeze all others into a corner
            figure.add_annotation(
                x=100 * FAR,
                xanchor="right",
                y=row,
                text=f"{100 * each.share:,.0f} % →",
                showarrow=False,
                font={"size": 13, "color": theme.label},
            )
    _add_second_text(figure, rows, theme)
    _add_ranges(figure, rows, theme)
    if chosen:
        row = rows.index(chosen)
        figure.add_hrect(y0=row - 0.5, y1=row + 0.5, line={"color": HIGHLIGHT, "width": 2})
    figure.update_layout(
        xaxis={
            "title": {"text": "loss kept, % of constant"},
            "range": _reach(rows),
            "ticksuffix": " %",
            "zeroline": False,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": [as_text(each.entry.name) for each in rows],
            "range": [len(rows) + 0.2, -0.6],
            "automargin": True,
            "zeroline": False,
        },
        hovermode="closest",
    )
    return Drawing(figure, _takeaway(rows, band))


def _add_role(figure: go.Figure, role: Role, members: Sequence[tuple[int, Standing]], theme: Theme) -> None:
    colour = role.colour or theme.label
    bounds = [interval(each) or (each.share, each.share) for _, each in members]
    figure.add_trace(
        go.Scatter(
            x=[100 * each.share for _, each in members],
            y=[row for row, _ in members],
            mode="markers",
            name=role.name,
            marker={
                "size": 13,
                "symbol": role.symbol,
                "color": colour,
                "line": {"width": 2, "color": colour},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [
                    100 * (high - each.share) for (_, high), (_, each) in zip(bounds, members, strict=True)
                ],
                "arrayminus": [
                    100 * (each.share - low) for (low, _), (_, each) in zip(bounds, members, strict=True)
                ],
                "color": theme.ink,
                "thickness": 2,
                "width": 0,
            },
            text=[_told(each) for _, each in members],
            hovertemplate="%{text}<extra></extra>",
        )
    )


def _add_ranges(figure: go.Figure, rows: Sequence[Standing], theme: Theme) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for row, each in enumerate(rows):
        if len(each.runs) > 1 and each.nats > 0:
            x += [100 * each.share * end / each.nats for end in each.spread] + [None]
            y += [row - BELOW, row - BELOW, None]
    if x:
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines+markers",
                name="range over seeds",
                line={"color": theme.label, "width": 1},
                marker={"symbol": "line-ns-open", "size": 6, "color": theme.label},
                hoverinfo="skip",
            )
        )


def _add_second_text(figure: go.Figure, rows: Sequence[Standing], theme: Theme) -> None:
    found = [(row, each, each.other_share) for row, each in enumerate(rows) if each.other_share is not None]
    if found:
        figure.add_trace(
            go.Scatter(
                x=[100 * share for _, _, share in found],
                y=[row + BELOW for row, _, _ in found],
                mode="markers",
                name="second text",
                marker={
                    "size": 8,
                    "symbol": [role_of(each.entry).symbol for _, each, _ in found],
                    "color": [role_of(each.entry).colour or theme.label for _, each, _ in found],
                    "opacity": 0.6,
                },
                text=[
                    f"{as_text(each.entry.name)} on the second text: {100 * share:.1f} %"
                    for _, each, share in found
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )


def _reach(rows: Sequence[Standing]) -> list[float]:
    """From the least to the largest that is drawn, constant among them, and some room."""
    ends = [1.0, *(each.share for each in rows), *(each.other_share or 1.0 for each in rows)]
    ends += [end for each in rows for end in interval(each) or ()]
    ends += [each.share * end / each.nats for each in rows if each.nats > 0 for end in each.spread]
    ends = [min(end, FAR) for end in ends]
    room = 0.04 * (max(ends) - min(ends)) + 0.005
    return [100 * (min(ends) - room), 100 * (max(ends) + room)]


def _told(each: Standing) -> str:
    between = interval(each)
    ends = f" (95 % {100 * between[0]:.1f} to {100 * between[1]:.1f} %)" if between else ""
    verdict = f"<br>{each.gain.percent:+.1f} % perplexity, {each.gain.verdict}" if each.gain else ""
    return (
        f"{as_text(each.entry.name)}: {100 * each.share:.1f} % of the loss{ends}{verdict}"
        f"<br>perplexity {each.perplexity:.2f}, {each.parameters:,} parameters"
    ).replace("-", "−")


def _takeaway(rows: Sequence[Standing], band: tuple[float, float] | None) -> str:
    best = rows[0]
    between = interval(best)
    ends = f" (95 % interval {100 * between[0]:.1f} to {100 * between[1]:.1f} %)" if between else ""
    told = (
        f"Of {len(rows)} entries {best.entry.name} keeps least of constant slicing's loss, "
        f"{100 * best.share:.1f} %{ends}"
    )
    if band is None:
        return f"{told}."
    beyond = [each for each in rows if not each.entry.control and each.share < band[0]]
    drawn = "blocks" if any(each.entry.removal for each in rows if each.entry.control) else "shares"
    return (
        f"{told}; random {drawn} keep {100 * band[0]:.1f} to {100 * band[1]:.1f} %, and {len(beyond)} of the "
        f"others {'keeps' if len(beyond) == 1 else 'keep'} less than that."
    )
