"""Charts of a wish for a smaller model: what is known of it, what was tried, how far a training is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import plotly.graph_objects as go

from app.figures.base import (
    DYNAMIC,
    HIGHLIGHT,
    LIGHT,
    MANUAL,
    ROWS_HEIGHT,
    Drawing,
    Theme,
    as_text,
    empty_figure,
)
from slicing.healing.looks import Underway

FAR = 4.0
"""A perplexity of more times the dense model's is told, not drawn: it would squeeze all others together."""
BROKEN = 2.0
"""What loses so many nats per token more than the best is not drawn."""
WIDEST = 60
"""Characters of a title on one line, of which a screen 400 pixels wide has room for so many."""
AROUND, ROOM, LINE = 130, 36, 17
"""Pixels of a chart around its rows, of a row beside its title, and of a line of that."""
RUNGS = ("Previews", "Full forms", "Finalists")
"""The rungs of a shrink, the first one first."""


class Beside(NamedTuple):
    """A smaller model beside the dense one."""

    title: str
    times: float
    """Perplexity, of the dense model's."""
    ends: tuple[float, float] | None
    """The 95 % interval of that; ``None`` where too few windows tell it."""
    other: float | None = None
    """The same on the second text."""


class Point(NamedTuple):
    """One recipe at one rung of a shrink."""

    rung: int
    """From 1."""
    line: str
    nats: float
    """Loss on search windows, nats per token."""


def draw_beside(rows: Sequence[Beside], chosen: int | None = None, theme: Theme = LIGHT) -> Drawing:
    """One row for each model, in their order: its perplexity on both texts, times the dense model's at 1.

    Titles stand above their marks, so that a narrow screen has room for both. A mark has the place of its row
    as its ``customdata``. Rows are as high as their titles need, so that heights are in pixels.
    """
    labels = ["<br>".join(map(as_text, title_lines(each.title))) for each in rows]
    ends = list(accumulate((ROOM + LINE * (label.count("<br>") + 1) for label in labels), initial=0))
    places = [end - 15 for end in ends[1:]]
    figure = empty_figure(theme, height=AROUND + ends[-1])
    note = {"showarrow": False, "xref": "paper", "font": {"size": 13, "color": theme.ink}}
    for top, place, label, each in zip(ends, places, labels, rows, strict=False):
        told = " · ".join(map(_times, filter(None, (each.times, each.other))))
        figure.add_annotation(x=1.0, xanchor="right", y=place, text=told, bgcolor=theme.paper, **note)
        figure.add_annotation(
            x=0.0, xanchor="left", y=top + 4, yanchor="top", text=label, align="left", **note
        )
        figure.add_shape(
            type="line", x0=1, x1=1, y0=place - 8, y1=place + 8, line={"color": theme.dense, "width": 3}
        )
    _add_text(figure, rows, places, theme, second=False)
    if any(each.other is not None for each in rows):
        _add_text(figure, rows, places, theme, second=True)
    if chosen is not None:
        low, high = ends[chosen] + 1, ends[chosen + 1] - 1
        figure.add_hrect(y0=low, y1=high, line={"color": HIGHLIGHT, "width": 2}, layer="below")
    reach = _reach(rows)
    figure.update_layout(
        margin={"t": 34, "b": 60},
        xaxis={
            "title": {"text": "perplexity, times the dense model's (the tick at 1)"},
            # To the right there is room for the numbers.
            "range": [1.0 - 0.03 * (reach - 1.0), 1.0 + 1.42 * (reach - 1.0)],
            "tickvals": _ticks(reach),
            "zeroline": False,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": places,
            "showticklabels": False,
            "range": [ends[-1], 0],
            "zeroline": False,
        },
        hovermode="closest",
    )
    return Drawing(figure, _beside_told(rows))


def title_lines(title: str) -> list[str]:
    """Part a title into lines of at most ``WIDEST`` characters, after commas where that is possible.

    A part between two commas stays on one line where it has room, so that each line reads as a phrase. No
    word is parted at its hyphen.
    """
    lines: list[str] = []
    for part in re.findall(r"[^,]+,?", title):
        joined = f"{lines[-1]} {part.strip()}" if lines else part.strip()
        if lines and len(joined) <= WIDEST:
            lines[-1] = joined
        else:
            lines += textwrap.wrap(part.strip(), WIDEST, break_on_hyphens=False)
    return lines


def _times(value: float) -> str:
    return f"{value:.2f}×" if value <= FAR else f"{value:,.0f}× →"


def _add_text(
    figure: go.Figure, rows: Sequence[Beside], places: Sequence[float], theme: Theme, second: bool
) -> None:
    """The marks on one of the two texts; on the first with their intervals."""
    found = [(row, each, each.other if second else each.times) for row, each in enumerate(rows)]
    drawn = [(row, each, value) for row, each, value in found if value is not None and value <= FAR]
    ends = [each.ends or (value, value) for _, each, value in drawn]
    figure.add_trace(
        go.Scatter(
            x=[value for _, _, value in drawn],
            y=[places[row] for row, _, _ in drawn],
            customdata=[row for row, _, _ in drawn],
            mode="markers",
            name="second text" if second else "first text, with its 95 % interval",
            marker={
                "size": 11 if second else 13,
                "symbol": "diamond-open" if second else "circle",
                "color": theme.measured if second else DYNAMIC,
                "line": {"width": 2, "color": theme.measured if second else DYNAMIC},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value for (_, high), (_, _, value) in zip(ends, drawn, strict=True)],
                "arrayminus": [value - low for (low, _), (_, _, value) in zip(ends, drawn, strict=True)],
                "color": theme.ink,
                "thickness": 1.5,
                "width": 0,
                "visible": not second,
            },
            text=[as_text(each.title) for _, each, _ in drawn],
            hovertemplate="%{text}: %{x:.2f} times<extra></extra>",
        )
    )


def _reach(rows: Sequence[Beside]) -> float:
    """The largest that is drawn."""
    found = [each.times for each in rows] + [each.other or 1.0 for each in rows]
    found += [high for each in rows if each.times <= FAR for _, high in (each.ends or (1.0, 1.0),)]
    return max(1.05, *(value for value in found if value <= FAR), 1.05)


def _ticks(reach: float) -> list[float]:
    """From 1 on, so few that they have room."""
    span = reach - 1.0
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if span / step <= 6)
    return [round(1.0 + step * number, 2) for number in range(int(span / step + 0.5) + 1)]


def _beside_told(rows: Sequence[Beside]) -> str:
    if not rows:
        return "Nothing is known yet."
    best = rows[0]
    told = f"“{best.title}” comes first, with {best.times:.2f} times the dense model's perplexity"
    told += "" if best.other is None else f" and {best.other:.2f} times on the second text"
    if len(rows) > 1:
        told += f"; the others here have {rows[1].times:.2f} to {max(each.times for each in rows[1:]):,.2f}"
    return f"{told}."


def draw_race(points: Sequence[Point], theme: Theme = LIGHT) -> Drawing:
    """A row for each rung, with the loss of everything that was tried there; the best of each is named."""
    figure = empty_figure(theme, height=250)
    told = []
    # What broke would squeeze all others together.
    cap = min((each.nats for each in points), default=0.0) + BROKEN
    for rung, title in enumerate(RUNGS, 1):
        here = sorted((each for each in points if each.rung == rung), key=lambda each: each.nats)
        drawn = [each for each in here if each.nats <= cap]
        if not here:
            continue
        figure.add_trace(
            go.Scatter(
                x=[each.nats for each in drawn],
                y=[rung - 1] * len(drawn),
                mode="markers",
                name=title,
                marker={
                    "size": 12,
                    "color": [MANUAL, *[theme.measured] * (len(drawn) - 1)],
                    "opacity": [1.0, *[0.75] * (len(drawn) - 1)],
                    "symbol": ["star", *["circle-open"] * (len(drawn) - 1)],
                    "line": {"width": 2},
                },
                text=[as_text(each.line) for each in drawn],
                hovertemplate="%{text}: %{x:.3f} nats per token<extra></extra>",
            )
        )
        best = here[0]
        figure.add_annotation(
            x=best.nats,
            y=rung - 1,
            yshift=18,
            xanchor="left",
            xshift=-8,
            text=as_text(textwrap.shorten(best.line, 60, placeholder=" …")),
            showarrow=False,
            font={"size": 13, "color": theme.ink},
        )
        told.append(f"{title}: {len(here)} tried, least loss {best.nats:.3f} by {best.line}.")
    figure.update_layout(
        showlegend=False,
        xaxis={"title": {"text": "loss on search windows, nats per token"}, "zeroline": False},
        yaxis={
            "tickmode": "array",
            "tickvals": [0, 1, 2],
            "ticktext": list(RUNGS),
            "range": [2.5, -0.7],
            "automargin": True,
            "zeroline": False,
        },
        hovermode="closest",
    )
    return Drawing(figure, " ".join(told) or "Nothing has been tried yet.")


def draw_underway(training: Underway, theme: Theme = LIGHT, height: int = ROWS_HEIGHT) -> Drawing:
    """The loss on windows held out, by the tokens trained on, as far as a training has come."""
    figure = empty_figure(theme, height)
    tokens, losses = [look.tokens for look in training.looks], [look.loss for look in training.looks]
    figure.add_trace(
        go.Scatter(
            x=tokens,
            y=losses,
            mode="lines+markers",
            line={"color": theme.measured, "width": 3},
            marker={"size": 9},
            hovertemplate="%{x:,} tokens<br>%{y:.4f} nats per token<extra></extra>",
        )
    )
    figure.add_vline(x=training.tokens, line={"color": theme.label, "width": 1, "dash": "dot"})
    if losses:
        figure.add_annotation(
            x=tokens[-1],
            y=losses[-1],
            text=f"{losses[-1]:.3f}",
            showarrow=False,
            yshift=18,  # over the line that says how far it is
            font={"size": 14, "color": theme.ink},
        )
    figure.update_xaxes(
        title={"text": "tokens trained on (dotted: now)"},
        range=[0, 1.06 * max(training.expected or 1, training.tokens, 1)],
    )
    figure.update_yaxes(title={"text": "loss, nats per token"})
    figure.update_layout(showlegend=False)
    return Drawing(figure, _underway_told(training))


def _underway_told(training: Underway) -> str:
    told = f"'{training.step}' has used {100 * training.used:.0f} % of its budget"
    told += f", {training.tokens:,} tokens"
    if len(training.looks) < 2:
        return f"{told}; the first look at the loss comes after a tenth."
    first, last = training.looks[0].loss, training.looks[-1].loss
    return f"{told}. The loss on {training.windows} windows held out went from {first:.3f} to {last:.3f}."
