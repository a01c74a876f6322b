"""Chart of a study at one size, as far as it has come: the excess loss of every recipe, best first."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    HIGHLIGHT,
    INSIDE,
    LIGHT,
    MANUAL,
    SHARED,
    WHISKERS,
    Drawing,
    Theme,
    as_text,
    empty_figure,
)
from app.wording import baseline_name, change, noise, random_band
from app.wording.numbers import counted, unparted
from slicing.studies.recipe import Recipe
from slicing.studies.verdicts import Standing, Table

ROW, LINE = 34, 15
"""Height of a recipe's row at least, and of a line of its title."""
WIDEST = 30
"""Characters of a title on one line."""
BELOW = 0.3
"""How far below its point, in rows, a recipe's second text stands; its range over seeds as far above."""
FAR = 4.0
"""Excess losses beyond so many times the baseline's are told, not drawn."""


class Role(NamedTuple):
    """What a recipe is in a ranking, and so how it is drawn."""

    name: str
    symbol: str
    colour: str
    """Empty for the colour of labels, which depends on the theme."""


BASELINE = Role("baseline", "square", CONSTANT)
TO_BEAT = Role("baseline to beat", "circle-open", "")
RULE = Role("rule", "circle", DYNAMIC)
MADE = Role("measured or searched", "diamond", MANUAL)
SHARING = Role("shared basis", "triangle-up", SHARED)
REPAIRED = Role("repaired", "star", HIGHLIGHT)
REMOVES = Role("removes blocks", "hexagon", MANUAL)
REMOVES_REPAIRED = Role("removes blocks, repaired", "hexagram", MANUAL)
CUTS_INSIDE = Role("cuts inside blocks", "pentagon", INSIDE)
CUTS_INSIDE_REPAIRED = Role("cuts inside blocks, repaired", "star-triangle-up", INSIDE)
BOTH = Role("does both", "star-diamond", HIGHLIGHT)
ROLES = (
    *(BASELINE, RULE, MADE, SHARING, REPAIRED, TO_BEAT),
    *(REMOVES, REMOVES_REPAIRED, CUTS_INSIDE, CUTS_INSIDE_REPAIRED, BOTH),
)


def role_of(recipe: Recipe, baseline: Recipe) -> Role:
    """The role of a recipe: repair before any rule, since it gains more."""
    if recipe == baseline:
        return BASELINE
    repaired = recipe.repaired != "none"
    if recipe.kind != "width" and not recipe.control:
        if recipe.kind == "both":
            return BOTH
        plain, fitted = (
            (CUTS_INSIDE, CUTS_INSIDE_REPAIRED) if recipe.kind == "inner" else (REMOVES, REMOVES_REPAIRED)
        )
        return fitted if repaired else plain
    if repaired:
        return REPAIRED
    if recipe.control:
        return TO_BEAT
    step = recipe.cutting[-1]
    if getattr(step, "blocks_per_basis", 0) or getattr(step, "plain", False):
        return SHARING
    rule = getattr(step, "rule", None)
    return MADE if rule and rule().made else RULE


def share_interval(each: Standing) -> tuple[float, float] | None:
    """The 95 % interval of an excess loss, of the baseline's, from the paired difference to it."""
    if each.gain is None or each.gain.nats_interval is None:
        return None
    baseline = each.nats - each.gain.nats
    low, high = each.gain.nats_interval
    return (1 + low / baseline, 1 + high / baseline) if baseline > 0 else None


def row_label(recipe: Recipe) -> str:
    """The title of a recipe beside its row, on as many lines as it needs."""
    return "<br>".join(map(as_text, textwrap.wrap(unparted(recipe.title), WIDEST, break_on_hyphens=False)))


def draw_ranking(table: Table, chosen: Standing | None = None, theme: Theme = LIGHT) -> Drawing:
    """One row for each recipe, best first: its excess loss, of the baseline's, where dense has 0 %.

    With its interval over windows, its range over calibration seeds, the second text below it, and the
    band of the random baselines behind all.
    """
    rows = table.standings
    labels = [row_label(each.recipe) for each in rows]
    if labels:
        labels[0] = f"<b>{labels[0]}</b>"  # the winner
    lines = max((label.count("<br>") + 1 for label in labels), default=1)
    figure = empty_figure(theme, height=150 + max(ROW, 8 + LINE * lines) * len(rows))
    if not rows:
        return Drawing(figure, "Nothing has run beside the baseline yet.")
    _add_marks(figure, table, theme)
    for role in ROLES:
        if members := [(row, each) for row, each in enumerate(rows) if _role(table, each) == role]:
            _add_role(figure, role, members, theme)
    _add_second_text(figure, table, theme)
    _add_ranges(figure, rows, theme)
    if chosen:
        row = rows.index(chosen)
        figure.add_hrect(y0=row - 0.5, y1=row + 0.5, line={"color": HIGHLIGHT, "width": 2})
    figure.update_layout(
        xaxis={
            "title": {"text": f"excess loss, % of the baseline's<br>{WHISKERS}"},
            "range": _reach(rows),
            "ticksuffix": " %",
            "zeroline": False,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": labels,
            "range": [len(rows) + 0.2, -0.6],
            "tickfont": {"size": 12, "color": theme.label},
            "automargin": True,
            "zeroline": False,
        },
        hovermode="closest",
    )
    return Drawing(figure, _takeaway(table))


def _role(table: Table, each: Standing) -> Role:
    return role_of(each.recipe, table.study.baseline)


def _add_marks(figure: go.Figure, table: Table, theme: Theme) -> None:
    """The band of the random baselines, the line of the baseline, and how far off is what is not drawn."""
    rows = table.standings
    note = {"showarrow": False, "font": {"size": 13, "color": theme.label}}
    if band := random_band(table):
        low, high = (100 * each for each in band)
        figure.add_vrect(x0=low, x1=high, fillcolor=theme.label, opacity=0.18, layer="below", line_width=0)
        # To the left there is room.
        figure.add_annotation(x=high, xanchor="right", y=len(rows) - 0.15, text="random baselines", **note)
    figure.add_shape(
        type="line",
        x0=100,
        x1=100,
        y0=-0.6,
        y1=len(rows) - 0.5,  # not through the words below
        line={"color": CONSTANT, "width": 1.5, "dash": "dash"},
        layer="below",
    )
    for row, each in enumerate(rows):
        if each.share > FAR:  # a model that broke would squeeze all others into a corner
            far = f"{100 * each.share:,.0f} % →"
            figure.add_annotation(x=100 * FAR, xanchor="right", y=row, text=far, **note)


def _add_role(figure: go.Figure, role: Role, members: Sequence[tuple[int, Standing]], theme: Theme) -> None:
    colour = role.colour or theme.label
    bounds = [share_interval(each) or (each.share, each.share) for _, each in members]
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


def _add_second_text(figure: go.Figure, table: Table, theme: Theme) -> None:
    rows = enumerate(table.standings)
    found = [(row, each, each.other_share) for row, each in rows if each.other_share is not None]
    if found:
        figure.add_trace(
            go.Scatter(
                x=[100 * share for _, _, share in found],
                y=[row + BELOW for row, _, _ in found],
                mode="markers",
                name="second text",
                marker={
                    "size": 8,
                    "symbol": [_role(table, each).symbol for _, each, _ in found],
                    "color": [_role(table, each).colour or theme.label for _, each, _ in found],
                    "opacity": 0.6,
                },
                text=[
                    f"{as_text(each.recipe.title)} on the second text: {100 * share:.1f} %"
                    for _, each, share in found
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )


def _reach(rows: Sequence[Standing]) -> list[float]:
    """From the least to the largest that is drawn, constant among them, and some room."""
    ends = [1.0, *(each.share for each in rows), *(each.other_share or 1.0 for each in rows)]
    ends += [end for each in rows for end in share_interval(each) or ()]
    ends += [each.share * end / each.nats for each in rows if each.nats > 0 for end in each.spread]
    ends = [min(end, FAR) for end in ends]
    room = 0.04 * (max(ends) - min(ends)) + 0.005
    return [100 * (min(ends) - room), 100 * (max(ends) + room)]


def _told(each: Standing) -> str:
    between = share_interval(each)
    ends = f" (95 % {100 * between[0]:.1f} to {100 * between[1]:.1f} %)" if between else ""
    gain = each.gain
    verdict = f"<br>{change(gain)} perplexity, {gain.verdict}" if gain else "<br>the baseline"
    if gain and (moved := noise(gain)):
        verdict += f"; {moved}"
    return (
        f"{as_text(each.recipe.title)}: excess loss {100 * each.share:.1f} %{ends}{verdict}"
        f"<br>perplexity {each.perplexity:.2f}, {each.parameters:,} parameters"
        f"<br>{as_text(each.recipe.line)}"
    )


def _takeaway(table: Table) -> str:
    rows, band = table.standings, random_band(table)
    best = rows[0]
    between = share_interval(best)
    ends = f" (95 % interval {100 * between[0]:.1f} to {100 * between[1]:.1f} %)" if between else ""
    told = (
        f"Of {counted(len(rows), 'recipe')} “{best.recipe.title}” has the least excess loss, "
        f"{100 * best.share:.1f} %{ends}, where {baseline_name(table.study)} has 100 %"
    )
    if band is None:
        return f"{told}."
    others = [each for each in rows if not each.recipe.control]
    beyond = [each for each in others if each.share < band[0]]
    share = f"{len(beyond)} of the {counted(len(others), 'other recipe')}"
    if len(others) > 1 and len(beyond) == len(others):
        share = f"all {counted(len(others), 'other recipe')}"
    return (
        f"{told}; random baselines have {100 * band[0]:.1f} to {100 * band[1]:.1f} %, and {share} "
        f"{'has' if len(beyond) == 1 else 'have'} less than that."
    )
