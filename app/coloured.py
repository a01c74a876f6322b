"""Text as HTML, every token coloured by how strongly a block changed it.

Knows nothing about streamlit or plotly.
"""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np

from analysis.details import Details
from analysis.errors import visible
from app.figures.base import DYNAMIC, HIGHLIGHT, Theme, rgb

SCRIPT = Path(__file__).with_name("figures").joinpath("tokens.js").read_text(encoding="utf-8")
"""What a click on a token does. The same in every page, so that its digest can be allowed."""

STRONGEST = 0.55
"""Opacity of the colour on the most changed token: text on it keeps a contrast above 4.5 on both themes."""


def coloured_text(details: Details, window: int, block: int, theme: Theme, chosen: int | None = None) -> str:
    """The tokens of a window; the strongest twentieth is underlined too, so that colour is not alone.

    The scale runs from the median to the 99th percentile of the block's changes, first tokens left out. The
    token at the place ``chosen`` has a frame.
    """
    change = details.change[window, :, block].astype(np.float32)
    rest = details.change[:, 1:, block].astype(np.float32)
    low, strong, high = np.percentile(rest, (50, 95, 99))
    weight = np.clip((change - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    spans = [
        _span(
            details.piece(int(token)),
            float(change[place]),
            float(weight[place]),
            change[place] >= strong,
            place,
            place == chosen,
        )
        for place, token in enumerate(details.tokens[window])
    ]
    style = (
        f"color:{theme.ink};line-height:1.75;font-size:0.95rem;max-height:13rem;overflow-y:auto;"
        "white-space:pre-wrap;overflow-wrap:anywhere"
    )
    label = f"Window {window}, coloured by how much block {block} changed each token"
    return (
        f'<div class="slicescope-tokens" role="region" tabindex="0" aria-label="{label}" style="{style}">'
        f"{''.join(spans)}</div>"
    )


def legend(details: Details, block: int) -> str:
    """Say what the colours mean, in a line of Markdown."""
    low, strong, high = np.percentile(details.change[:, 1:, block].astype(np.float32), (50, 95, 99))
    return (
        f"No colour: changed less than the median ({low:.3f}). Full colour: {high:.3f} or more "
        f"(99\N{NO-BREAK SPACE}%). Underlined: the strongest twentieth, from {strong:.3f}. Point at a token "
        "for its number, click on it for its path."
    )


def _span(piece: str, change: float, weight: float, strong: bool, place: int, chosen: bool) -> str:
    red, green, blue = rgb(DYNAMIC)
    style = f"background:rgba({red},{green},{blue},{STRONGEST * weight:.2f});border-radius:2px;cursor:pointer"
    if chosen:
        style += f";outline:3px solid {HIGHLIGHT};outline-offset:1px"
    if strong:
        style += ";text-decoration:underline;text-underline-offset:3px"
    shown = html.escape(visible(piece)).replace("\n", "↵\n")
    here = ' aria-current="true"' if chosen else ""
    return f'<span title="{change:.3f}" data-place="{place}"{here} style="{style}">{shown}</span>'
