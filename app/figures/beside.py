"""Charts of two runs side by side: their profiles, block by block, and what parts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from analysis.differences import ProfileDifference
from app import wording
from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    LIGHT,
    WHISKERS,
    Drawing,
    Theme,
    as_text,
    block_axis,
    empty_figure,
)

SIDES = (("circle-open", "dash"), ("circle", "solid"))
"""Marker and dash of the first profile and of the second, which colour alone must not tell apart."""


def draw_two_profiles(
    found: ProfileDifference, names: Sequence[str], blocks: int, theme: Theme = LIGHT
) -> Drawing:
    """Draw how much every block changes its input in two profiles, blocks by their numbers when dense.

    ``blocks`` is how many the dense model has: one that was removed leaves a gap. The axis is a log axis
    where all values are above 0.
    """
    title = wording.change_title(found.score)
    positive = bool(min(found.first.min(), found.second.min()) > 0.0)
    figure = empty_figure(theme, height=360)
    for name, values, colour, (symbol, dash) in zip(
        names, (found.first, found.second), (theme.label, DYNAMIC), SIDES, strict=True
    ):
        numbers, shown = _with_gaps(found.blocks, values)
        figure.add_trace(
            go.Scatter(
                x=numbers,
                y=shown,
                name=as_text(name),
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 8, "symbol": symbol, "color": colour},
                hovertemplate=f"block %{{x}}: {title} %{{y:.4f}}<extra>%{{fullData.name}}</extra>",
            )
        )
    figure.update_yaxes(title_text=f"{title} (log)" if positive else title)
    if positive:
        figure.update_yaxes(type="log", dtick="D2", tickformat="~r", minor={"showgrid": False})
    block_axis(figure, blocks)
    _shade_gaps(figure, found, blocks, theme)
    figure.update_layout(legend={"orientation": "v", "x": 0, "y": 1.02, "yanchor": "bottom"})
    gone = blocks - found.blocks.size
    missing = f" Shaded: {gone} of {blocks} blocks that are not in both." if gone else ""
    return Drawing(
        figure,
        f"{title} of {found.blocks.size} blocks: {np.median(found.first):.3g} in the median for {names[0]}, "
        f"{np.median(found.second):.3g} for {names[1]}.{missing}",
    )


def draw_profile_difference(found: ProfileDifference, blocks: int, theme: Theme = LIGHT) -> Drawing:
    """Draw the difference of two profiles at every block with its interval, around zero."""
    unit = " %" if found.relative else ""
    figure = empty_figure(theme, height=320)
    clear, up = found.clear, found.difference > 0
    kinds = (
        ("changes its input more", clear & up, DYNAMIC, "triangle-up"),
        ("changes its input less", clear & ~up, CONSTANT, "triangle-down"),
        (
            "no clear difference" if found.p_values is not None else "no interval",
            ~clear,
            theme.dense,
            "circle",
        ),
    )
    for name, chosen, colour, symbol in kinds:
        if chosen.any():
            figure.add_trace(
                go.Scatter(
                    x=found.blocks[chosen],
                    y=found.difference[chosen],
                    error_y=_reach(found, chosen, theme),
                    mode="markers",
                    name=name,
                    marker={"size": 9, "color": colour, "symbol": symbol},
                    hovertemplate=f"block %{{x}}: %{{y:+.3~g}}{unit}<extra>{name}</extra>",
                )
            )
    figure.add_hline(y=0, line={"color": theme.ink, "width": 1.5})
    figure.update_yaxes(
        title_text="difference"
        + (" of the change" if found.relative else "")
        + (f"<br>{WHISKERS}" if found.interval is not None else ""),
        ticksuffix=unit,
        zeroline=False,
    )
    block_axis(figure, blocks)
    _shade_gaps(figure, found, blocks, theme)
    return Drawing(figure, wording.profiles_apart(found))


def _shade_gaps(figure: go.Figure, found: ProfileDifference, blocks: int, theme: Theme) -> None:
    """Shade the blocks of the dense model that are not in both profiles."""
    for block in sorted(set(range(blocks)) - set(found.blocks.tolist())):
        figure.add_vrect(x0=block - 0.5, x1=block + 0.5, fillcolor=theme.label, opacity=0.15, line_width=0)


def _reach(found: ProfileDifference, chosen: np.ndarray, theme: Theme) -> dict[str, Any]:
    """Give the whiskers of some blocks; none where there are too few windows."""
    if found.interval is None:
        return {"visible": False}
    ends = found.interval[chosen]
    return {
        "symmetric": False,
        "array": ends[:, 1] - found.difference[chosen],
        "arrayminus": found.difference[chosen] - ends[:, 0],
        "color": theme.ink,
        "thickness": 1.2,
        "width": 4,
    }


def _with_gaps(blocks: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give a value for every number between the first and the last block, NaN where there is none."""
    numbers = np.arange(blocks[0], blocks[-1] + 1)
    shown = np.full(numbers.size, np.nan)
    shown[blocks - blocks[0]] = values
    return numbers, shown
