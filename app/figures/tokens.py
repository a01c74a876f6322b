"""Charts of single tokens: how strongly a block changes them, and what all blocks do to one."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from analysis.details import Details
from analysis.errors import visible
from app.figures.base import DYNAMIC, HIGHLIGHT, LIGHT, Drawing, Theme, block_axis, empty_figure

LEAST = 1e-4
"""Changes below this are drawn as this: they were kept in 16 bits, and a log axis has no zero."""


def draw_tokens(details: Details, block: int, theme: Theme = LIGHT) -> Drawing:
    """Draw how strongly a block changes single tokens: their distribution, first tokens marked."""
    change = details.change[:, :, block].astype(np.float32)
    rest, first = change[:, 1:].ravel(), change[:, 0]
    low, middle, high = np.percentile(rest, (5, 50, 95))
    figure = empty_figure(theme, height=320)
    counts, edges = np.histogram(rest, bins=60, range=(0.0, float(max(change.max(), 1e-3))))
    figure.add_trace(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=100.0 * counts / rest.size,
            width=np.diff(edges),
            marker={"color": theme.measured, "line": {"width": 0}},
            name="tokens",
            hovertemplate="change %{x:.3f}: %{y:.1f} % of tokens<extra></extra>",
        )
    )
    # On a phone the names would run into each other if all stood in the middle of their lines.
    for value, name, side in ((low, "5 %", "right"), (middle, "median", "left"), (high, "95 %", "left")):
        figure.add_vline(
            x=float(value),
            line={"color": theme.ink, "width": 1.5, "dash": "solid" if name == "median" else "dot"},
            annotation={
                "text": name,
                "font": {"color": theme.ink, "size": 13},
                "yanchor": "bottom",
                "xanchor": side,
            },
            annotation_position="top",
        )
    figure.add_trace(
        go.Scatter(
            x=first,
            y=np.zeros(first.size),
            mode="markers",
            cliponaxis=False,  # most of them stand at the very end of the axis
            name="first tokens of the windows",
            marker={
                "symbol": "triangle-up",
                "size": 13,
                "color": HIGHLIGHT,
                "line": {"color": theme.ink, "width": 1},
            },
            hovertemplate="first token: change %{x:.3f}<extra></extra>",
        )
    )
    figure.update_layout(
        bargap=0,
        margin_t=50,
        legend={"y": 1.15},
        xaxis={"title": {"text": "change of a token: 1 − cosine"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "tokens, %"}, "ticksuffix": " %"},
    )
    return Drawing(
        figure,
        f"Block {block} changes half of the tokens by less than {middle:.3f} (1 − cosine), one in twenty by "
        f"more than {high:.3f}, and the first token of a window by "
        f"{_at_least_shown(float(np.median(first)))}.",
    )


def _at_least_shown(change: float) -> str:
    """Write a change with three decimals, and one that would read as none as what it is below."""
    return f"{change:.3f}" if change >= 0.0005 else "less than 0.001"


def draw_token_path(details: Details, window: int, place: int, block: int, theme: Theme = LIGHT) -> Drawing:
    """Draw how strongly every block changes one token, beside the mean of all tokens, on a log axis.

    The band holds nine tenths of the tokens; ``block`` is the one that is looked at from near.
    """
    own, mean = details.path(window, place), details.mean_change()
    others = details.change[:, min(1, details.change.shape[1] - 1) :].astype(np.float32)
    low, high = np.maximum(np.percentile(others, (5, 95), axis=(0, 1)), LEAST)
    blocks, piece = np.arange(own.size), visible(details.piece(int(details.tokens[window, place])))
    figure = empty_figure(theme, height=260)
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([blocks, blocks[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            fillcolor="rgba(128,136,146,0.22)",
            line={"width": 0},
            hoverinfo="skip",
            name="9 of 10 tokens",
        )
    )
    for name, values, colour, dash in (
        ("mean token", mean, theme.measured, "dash"),
        ("this token", own, DYNAMIC, "solid"),
    ):
        figure.add_trace(
            go.Scatter(
                x=blocks,
                y=np.maximum(values, LEAST),
                customdata=values,
                mode="lines+markers" if name == "this token" else "lines",
                name=name,
                line={"color": colour, "width": 2.5, "dash": dash},
                marker={"size": 6, "color": colour},
                hovertemplate=f"block %{{x}}: %{{customdata:.4f}}<extra>{name}</extra>",
            )
        )
    figure.add_vline(x=block, line={"color": HIGHLIGHT, "width": 2, "dash": "dot"})
    figure.update_layout(margin_t=34)
    figure.update_yaxes(
        title_text="1 − cosine (log)", type="log", dtick="D2", tickformat="~r", minor={"showgrid": False}
    )
    block_axis(figure, own.size)
    times, named = own / np.maximum(mean, 1e-9), piece.strip() or repr(piece)
    most = int(times.argmax())
    told = (
        f"Token {place} of window {window}, “{named}”: block {block} changes it by {own[block]:.3g}, "
        f"{times[block]:.1f} times as much as the mean token"
    )
    if most == block:
        return Drawing(figure, f"{told}. No other block exceeds the mean by so much.")
    return Drawing(figure, f"{told}. Block {most} exceeds the mean most: {times[most]:.1f} times as much.")
