"""Text that a model wrote as HTML: every token coloured by how unsure the model was, and where two part.

Knows nothing about streamlit or plotly.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from analysis.errors import visible
from analysis.writing import Place
from app.coloured import STRONGEST
from app.figures.base import CONSTANT, DYNAMIC, rgb

_STYLE = (
    "line-height:{height};font-size:1.02rem;white-space:pre-wrap;overflow-wrap:anywhere;"
    "max-height:26rem;overflow-y:auto"
)


def written_text(prompt: str, places: Sequence[Place], parted: int | None, label: str) -> str:
    """A text behind its prompt. At ``parted`` the two texts part, which is marked by a frame and in words."""
    spans = [_token(place, parted == at) for at, place in enumerate(places)]
    return _region(label, 1.75, _quiet(prompt) + "".join(spans))


def read_text(prompt: str, places: Sequence[Place], label: str) -> str:
    """The dense model's text as the smaller one reads it.

    Where the smaller one would have written something else, that stands above the token.
    """
    spans = [_token(place, False) if place.taken else _instead(place) for place in places]
    return _region(label, 2.5, _quiet(prompt) + "".join(spans))


def shown(piece: str) -> str:
    """A token as people can read it in a list: spaces at its ends and lines are seen."""
    text = visible(piece).replace("\n", "↵").replace("\t", "⇥")
    if not text:
        return "(part of a character)"
    front, back = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return "␣" * len(text) if not text.strip(" ") else "␣" * front + text.strip(" ") + "␣" * back


def share(probability: float) -> str:
    """A probability in percent, never a zero that is none."""
    percent = 100 * probability
    told = "< 0.1" if percent < 0.1 else f"{percent:.1f}" if percent < 10 else f"{percent:.0f}"
    return f"{told}\N{NO-BREAK SPACE}%"


def _region(label: str, height: float, content: str) -> str:
    style = _STYLE.format(height=height)
    return (
        f'<div role="region" tabindex="0" aria-label="{html.escape(label)}" style="{style}">{content}</div>'
    )


def _quiet(prompt: str) -> str:
    return f'<span style="opacity:0.75">{_broken(prompt)}</span>'


def _broken(text: str) -> str:
    return html.escape(visible(text)).replace("\n", "↵\n")


def _token(place: Place, parts: bool) -> str:
    red, green, blue = rgb(DYNAMIC)
    style = (
        f"background:rgba({red},{green},{blue},{STRONGEST * (1.0 - place.probability):.2f});border-radius:2px"
    )
    if not parts:
        return f'<span title="{_told(place)}" style="{style}">{_of(place)}</span>'
    style += f";outline:3px solid {CONSTANT};outline-offset:1px;font-weight:700"
    note = (
        f'<span style="background:{CONSTANT};color:#FFFFFF;font-size:0.72rem;border-radius:3px;'
        'padding:1px 5px;margin:0 5px;white-space:nowrap">they part here</span>'
    )
    return f'{note}<span title="{_told(place)}" style="{style}">{_of(place)}</span>'


def _instead(place: Place) -> str:
    """A token with what the model would have written in its place above it."""
    above = html.escape(shown(place.likeliest[0].piece.strip(" ") or " "))
    return f'<ruby>{_token(place, False)}<rt style="font-size:0.72rem;font-weight:600">{above}</rt></ruby>'


def _of(place: Place) -> str:
    return "<b>⏹</b>" if place.ends else _broken(place.piece)


def _told(place: Place) -> str:
    options = ", ".join(f"“{shown(each.piece)}” {share(each.probability)}" for each in place.likeliest)
    return html.escape(f"“{shown(place.piece)}” {share(place.probability)}; likeliest: {options}")
