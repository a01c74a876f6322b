"""How the loss fell while what was left of a model was trained."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.base import (
    HIGHLIGHT,
    LIGHT,
    OVERLAY,
    ROWS_HEIGHT,
    Drawing,
    Theme,
    empty_figure,
    overlay_colour,
)
from slicing.healing.record import Healed


def draw_healing(healed: Sequence[Healed], theme: Theme = LIGHT) -> Drawing:
    """A line for each step that heals: the loss on windows held out, by the tokens trained on."""
    figure = empty_figure(theme, ROWS_HEIGHT)
    told = []
    for place, each in enumerate(healed):
        dash, symbol = OVERLAY[place % len(OVERLAY)]
        tokens, losses = [look.tokens for look in each.looks], [look.loss for look in each.looks]
        figure.add_trace(
            go.Scatter(
                x=tokens,
                y=losses,
                mode="lines+markers",
                name=each.step,
                line={"color": overlay_colour(place, theme), "dash": dash, "width": 3},
                marker={"symbol": symbol, "size": 9},
                hovertemplate="%{x:,} tokens<br>%{y:.4f} nats per token<extra></extra>",
            )
        )
        best = losses.index(min(losses))
        figure.add_trace(
            go.Scatter(
                x=[tokens[best]],
                y=[losses[best]],
                mode="markers",
                marker={"symbol": "circle-open", "size": 18, "color": HIGHLIGHT, "line": {"width": 3}},
                name="kept",
                showlegend=False,
                hoverinfo="skip",
            )
        )
        told.append(each.told)
    figure.update_xaxes(title={"text": "tokens trained on"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "loss, nats per token"})
    figure.update_layout(showlegend=len(healed) > 1)
    return Drawing(figure, " ".join(told))
