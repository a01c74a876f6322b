"""Charts of what the parts inside blocks cost: a map of all, the curve of one, predicted against measured."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from analysis.shape import ModelShape
from app import wording
from app.figures.base import (
    DYNAMIC,
    LIGHT,
    MANUAL,
    Drawing,
    Theme,
    block_axis,
    block_step,
    empty_figure,
    frame,
)
from slicing.inner.costs import BranchCosts, Part, PartCost, Prediction, UnitCosts
from slicing.inner.widths import KINDS

SMALLEST = 1e-6
"""Nats per token: what costs less, or nothing, is drawn as this on a logarithmic scale."""
SYMBOLS = {"attention": ("circle", DYNAMIC), "mlp": ("diamond", MANUAL)}
"""Marker and colour of the two kinds of branches."""
DASHES = {"channels": "solid", "kv_groups": "solid", "value_pairs": "dash"}


def shown_parts(found: list[PartCost]) -> list[Part]:
    """The parts that some block has, in their order."""
    return [part for part in wording.PARTS if any(each.part == part for each in found)]


def draw_unit_map(
    costs: UnitCosts,
    shape: ModelShape,
    share: float,
    per_million: bool = False,
    chosen: tuple[int, Part] | None = None,
    theme: Theme = LIGHT,
) -> Drawing:
    """What each part of each block costs, bright for much, on a logarithmic scale.

    Of units the cheapest ``share`` goes. ``per_million``: for every million parameters that this saves. An
    invisible marker over every cell answers to a click, which a heat map's cells do not.
    """
    found = costs.parts(shape, share)
    rows = shown_parts(found)
    values = np.full((len(rows), len(costs.blocks)), np.nan)
    for each in found:
        values[rows.index(each.part), each.block] = each.per_million if per_million else each.cost
    logs = np.log10(np.maximum(values, SMALLEST))
    # The few that cost least, such as ranks that no token needs, would leave the others one colour.
    low, high = float(np.nanpercentile(logs, 2)), float(np.nanmax(logs))
    ticks = _ticks(10.0**low, 10.0**high)
    figure = empty_figure(theme, height=110 + 50 * len(rows))
    figure.add_trace(
        go.Heatmap(
            z=logs,
            x=np.arange(len(costs.blocks)),
            y=np.arange(len(rows)),
            colorscale="Cividis",
            zmin=low,
            zmax=max(high, low + 1e-9),
            xgap=1,
            ygap=1,
            colorbar={
                "title": {"text": "nats per M" if per_million else "nats"},
                "tickvals": np.log10(ticks),
                "ticktext": [f"{tick:g}" for tick in ticks],
                "thickness": 14,
                "outlinewidth": 0,
            },
            hoverinfo="skip",
        )
    )
    figure.add_trace(_clickable(found, rows))
    if chosen and chosen[1] in rows:
        frame(figure, rows.index(chosen[1]), chosen[0])
    block_axis(figure, len(costs.blocks))
    step = block_step(2 * len(costs.blocks))  # beside the names of parts there is less room
    figure.update_xaxes(range=[-0.5, len(costs.blocks) - 0.5], dtick=step, zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[wording.part_title(part) for part in rows],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(margin_t=10)
    return Drawing(figure, wording.units_told(found, per_million))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, for a logarithmic scale: powers of ten, or closer ones."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), range(1, 10)):
        found = [step * 10.0**decade for decade in decades for step in steps]
        if len(within := [each for each in found if low <= each <= high]) > 1:
            return within
    return [low, high]


def _clickable(found: list[PartCost], rows: list[Part]) -> go.Scatter:
    return go.Scatter(
        x=[each.block for each in found],
        y=[rows.index(each.part) for each in found],
        mode="markers",
        marker={"symbol": "square", "size": 20, "opacity": 0},
        customdata=[
            (
                wording.part_gone(each),
                wording.in_nats(each.cost),
                wording.as_perplexity(each.cost),
                f"{each.saved / 1e6:.2f}",
            )
            for each in found
        ],
        hovertemplate="block %{x}: %{customdata[0]}<br>%{customdata[1]}, perplexity %{customdata[2]}<br>"
        "%{customdata[3]} M parameters fewer<extra></extra>",
        showlegend=False,
    )


def draw_unit_curve(block: int, branch: BranchCosts, theme: Theme = LIGHT) -> Drawing:
    """What an attention or MLP costs while its units go, the cheapest first, on a logarithmic scale."""
    symbol, colour = SYMBOLS[branch.kind]
    figure = empty_figure(theme, height=360)
    lowest = highest = SMALLEST if branch.whole is None else max(branch.whole, SMALLEST)
    for kind in ("channels", "kv_groups", "value_pairs"):
        curve = branch.curve(kind)
        if curve is None or not curve.gone:
            continue
        heights = np.maximum(curve.costs, SMALLEST)
        lowest, highest = min(lowest, heights.min()), max(highest, heights.max())
        figure.add_trace(
            go.Scatter(
                x=100.0 * np.asarray(curve.gone) / curve.count,
                y=heights,
                name=KINDS[kind],
                mode="lines" if len(curve.gone) > 32 else "lines+markers",
                line={"color": colour, "width": 2, "dash": DASHES[kind]},
                customdata=[
                    (gone, curve.count, wording.in_nats(cost), wording.as_perplexity(cost))
                    for gone, cost in curve.points()
                ],
                hovertemplate=f"%{{customdata[0]:,}} of %{{customdata[1]:,}} {KINDS[kind]} gone<br>"
                "%{customdata[2]}, perplexity %{customdata[3]}<extra></extra>",
            )
        )
    wholes = (("all of it, predicted", branch.whole, f"{symbol}-open"), ("measured", branch.measured, symbol))
    for label, cost, marker in wholes:
        if cost is None:
            continue
        lowest, highest = min(lowest, max(cost, SMALLEST)), max(highest, cost)
        figure.add_trace(
            go.Scatter(
                x=[100.0],
                y=[max(cost, SMALLEST)],
                name=label,
                mode="markers",
                marker={"symbol": marker, "size": 12, "color": colour, "line": {"width": 2, "color": colour}},
                hovertemplate=f"all of it, {label.removeprefix('all of it, ')}<br>{wording.in_nats(cost)}, "
                f"perplexity {wording.as_perplexity(cost)}<extra></extra>",
            )
        )
    _nats_axis(figure, lowest, highest)
    figure.update_xaxes(title={"text": "units that are gone, %"}, range=[-1, 102], ticksuffix=" %")
    return Drawing(figure, wording.branch_told(block, branch))


def _nats_axis(figure: go.Figure, lowest: float, highest: float) -> None:
    """A logarithmic axis of nats per token, with what they make of the perplexity."""
    ticks = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    figure.update_yaxes(
        type="log",
        title={"text": "predicted cost, nats per token"},
        tickvals=[10.0**tick for tick in ticks],
        ticktext=[f"{10.0**tick:g} ({wording.as_perplexity(10.0**tick)})" for tick in ticks],
        minor={"showgrid": False},
    )


def draw_unit_agreement(costs: UnitCosts, by: Prediction = "whole", theme: Theme = LIGHT) -> Drawing:
    """Measured against predicted costs of whole attentions and MLPs, both on logarithmic scales.

    Those that are off by a factor of ``wording.OFF`` or more are labelled.
    """
    compared, off = costs.compared(by), {id(branch) for _, branch in wording.units_off(costs, by)}
    figure = empty_figure(theme, height=460)
    predicted, measured = (
        np.maximum([getattr(branch, name) for _, branch in compared], SMALLEST) for name in (by, "measured")
    )
    low, high = min(predicted.min(), measured.min()), max(predicted.max(), measured.max())
    for kind, (symbol, colour) in SYMBOLS.items():
        own = [(block, branch) for block, branch in compared if branch.kind == kind]
        figure.add_trace(
            go.Scatter(
                x=[max(getattr(branch, by), SMALLEST) for _, branch in own],
                y=[max(branch.measured or 0.0, SMALLEST) for _, branch in own],
                name=wording.BRANCHES[kind],
                mode="markers+text",
                marker={"symbol": symbol, "size": 10, "color": colour},
                text=[str(block) if id(branch) in off else "" for block, branch in own],
                textposition=[
                    "top center" if (branch.ratio_to(by) or 0.0) > 1.0 else "bottom center"
                    for _, branch in own
                ],
                textfont={"size": 12, "color": theme.ink},
                customdata=[
                    (block, wording.in_nats(getattr(b, by)), wording.in_nats(b.measured or 0.0))
                    for block, b in own
                ],
                hovertemplate=f"block %{{customdata[0]}}, {wording.BRANCHES[kind]}<br>predicted "
                "%{customdata[1]}<br>measured %{customdata[2]}<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line={"color": theme.dense, "width": 2, "dash": "dash"},
            name="as predicted",
            hoverinfo="skip",
        )
    )
    for axes, title, values in (
        (figure.update_xaxes, "predicted", predicted),
        (figure.update_yaxes, "measured", measured),
    ):
        ends = values.min() / 1.8, values.max() * 1.8
        ticks = _ticks(*ends)
        axes(
            type="log",
            title={"text": f"{title} cost, nats per token"},
            range=np.log10(ends),
            tickvals=ticks,
            ticktext=[f"{tick:g}" for tick in ticks],
            minor={"showgrid": False},
        )
    return Drawing(figure, " ".join(wording.units_agreement(costs, by)))
