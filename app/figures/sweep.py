"""Charts of a sweep: the grid as far as it has come, and size against perplexity."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    LIGHT,
    Drawing,
    Theme,
    empty_figure,
    frame,
    luminance,
    rgb,
)
from slicing.study.verdicts import Cell, pareto
from slicing.grid import Grid

SIGNS = {"better": "▼ better", "worse": "▲ worse", "no clear difference": "≈ no clear difference"}


def draw_grid(grid: Grid, chosen: Cell | None = None, theme: Theme = LIGHT) -> Drawing:
    """Change of perplexity against constant slicing in every cell; blank where nothing ran.

    Blue is better and orange worse; the number and a sign say the same. An invisible marker over every cell
    answers to a click.
    """
    bases = [f"SB {100 * base:g} %" for base in grid.recipe.bases]
    targets = [f"SP {100 * target:g} %" for target in grid.recipe.targets]
    cells = [[grid.cell(base, target) for base in grid.recipe.bases] for target in grid.recipe.targets]
    values = [[each.gain.percent if each.gain else math.nan for each in row] for row in cells]
    known = [each.gain.percent for each in grid.cells if each.gain]
    reach = max([1.0, *(abs(value) for value in known)])
    figure = empty_figure(theme, height=130 + 70 * len(targets))
    figure.add_trace(
        go.Heatmap(
            z=np.asarray(values, dtype=np.float32),
            x=bases,
            y=targets,
            colorscale=[[0.0, CONSTANT], [0.5, theme.middle], [1.0, DYNAMIC]],
            zmin=-reach,
            zmax=reach,
            xgap=3,
            ygap=3,
            colorbar={
                "title": {"text": "vs constant"},
                "ticksuffix": " %",
                "thickness": 14,
                "outlinewidth": 0,
            },
            hoverinfo="skip",
        )
    )
    flat = [each for row in cells for each in row]
    figure.add_trace(
        go.Scatter(
            x=[bases[grid.recipe.bases.index(each.base)] for each in flat],
            y=[targets[grid.recipe.targets.index(each.target)] for each in flat],
            mode="markers+text",
            marker={"symbol": "square", "size": 34, "color": "rgba(0,0,0,0)"},
            text=[_label(each) for each in flat],
            textfont={"size": 15, "color": [_ink(each, reach, theme) for each in flat]},
            hovertext=[_told(each) for each in flat],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
        )
    )
    if chosen:
        column, row = grid.recipe.bases.index(chosen.base), grid.recipe.targets.index(chosen.target)
        frame(figure, row, column)
    figure.update_xaxes(title={"text": "slice base"}, showgrid=False, zeroline=False)
    figure.update_yaxes(title={"text": "target"}, showgrid=False, zeroline=False, autorange="reversed")
    return Drawing(figure, _takeaway(grid))


def _label(cell: Cell) -> str:
    if cell.trial is None:
        return "= constant"
    if cell.gain is None:
        return ""
    sign = SIGNS.get(cell.gain.verdict, "")[:1]
    return f"{cell.gain.percent:+.1f} % {sign}".replace("-", "−")


def _told(cell: Cell) -> str:
    where = f"SB {100 * cell.base:g} %, SP {100 * cell.target:g} %"
    if cell.trial is None:
        return f"{where}: the base reaches the target, which is constant slicing"
    if cell.gain is None or cell.contestant is None:
        return f"{where}: not run yet"
    interval = cell.gain.percent_interval
    between = f"<br>95 % interval {interval[0]:+.1f} to {interval[1]:+.1f} %" if interval else ""
    told = (
        f"{where}: {cell.gain.percent:+.1f} % perplexity, {cell.gain.verdict}{between}"
        f"<br>perplexity {cell.contestant.evaluation.perplexity:.2f}, "
        f"{cell.contestant.parameters:,} parameters"
    )
    return told.replace("-", "−")


def _ink(cell: Cell, reach: float, theme: Theme) -> str:
    """Text that can be read on the cell: white or black, whichever stands out more."""
    if cell.gain is None:
        return theme.label
    share = min(abs(cell.gain.percent) / reach, 1.0)
    end = CONSTANT if cell.gain.percent < 0 else DYNAMIC
    light = luminance([(1 - share) * a + share * b for a, b in zip(rgb(theme.middle), rgb(end), strict=True)])
    return "#FFFFFF" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000000"


def _takeaway(grid: Grid) -> str:
    gains = [each for each in grid.cells if each.gain]
    if not gains:
        return f"{grid.done} of {grid.total} trials have run."
    best = min(gains, key=lambda each: each.gain.percent if each.gain else math.inf)
    assert best.gain is not None
    clear = sum(each.gain.verdict == "better" for each in gains if each.gain)
    return (
        f"{clear} of {len(gains)} cells predict clearly better than constant slicing at the same target; the "
        f"largest change is {best.gain.percent:+.1f} % at SB {100 * best.base:g} %, "
        f"SP {100 * best.target:g} %."
    ).replace("-", "−")


def draw_pareto(grid: Grid, theme: Theme = LIGHT) -> Drawing:
    """Parameters against perplexity of all that ran, with the line of those that nobody beats in both."""
    found = grid.contestants()
    front = pareto(found)
    figure = empty_figure(theme, height=420)
    groups = (
        ("dense", theme.dense, "star", [pair for pair in found if pair[1].name == "dense"]),
        ("constant", CONSTANT, "square", [pair for pair in found if pair[1].name == "constant"]),
        ("dynamic", DYNAMIC, "circle", [p for p in found if p[1].name not in ("dense", "constant")]),
    )
    line = sorted(
        (each.parameters / 1e6, each.evaluation.perplexity) for name, each in found if name in front
    )
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in line],
            y=[y for _, y in line],
            mode="lines",
            name="beaten by nobody",
            line={"color": theme.ink, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    for title, colour, symbol, pairs in groups:
        figure.add_trace(
            go.Scatter(
                x=[each.parameters / 1e6 for _, each in pairs],
                y=[each.evaluation.perplexity for _, each in pairs],
                mode="markers",
                name=title,
                marker={"size": 12, "color": colour, "symbol": symbol},
                text=[name for name, _ in pairs],
                hovertemplate="%{text}<br>%{x:.1f} M parameters, perplexity %{y:.2f}<extra></extra>",
            )
        )
    figure.update_layout(
        xaxis={"title": {"text": "parameters, millions"}},
        yaxis={"title": {"text": "perplexity, lower is better"}},
    )
    sliced = [name for name in front if name != "dense"]
    named = "; ".join(sliced) if sliced else "none but the dense model"
    return Drawing(figure, f"Beaten by nobody in both size and perplexity: {named}.")
