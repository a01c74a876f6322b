"""The dial of sizes: one prompt continued by the same model at several sizes, alive and still.

Alive it is HTML with a script of our own, which needs no network. Knows nothing about streamlit or about the
sentences around it.
"""

from __future__ import annotations

import html
import json
import re
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from analysis.errors import visible
from app.figures.base import DYNAMIC, INSIDE, LIGHT, Drawing, Theme, rgb
from app.figures.story import SIZE, on_stage

SCRIPT = Path(__file__).with_name("dial.js").read_text(encoding="utf-8")
"""What turns the dial. The same in every page, so that its digest can be allowed."""


class Size(NamedTuple):
    """The model at one size."""

    parameters: int
    fewer: float
    """Share of the dense model's parameters that is gone."""
    perplexity: float
    text: str
    """What it wrote behind the prompt."""

    @property
    def label(self) -> str:
        """The size in whole percent, as it stands at the dial."""
        return f"−{100 * self.fewer:.0f}\N{NO-BREAK SPACE}%" if self.fewer > 0 else "dense"


class DialView(NamedTuple):
    """One prompt at several sizes."""

    prompt: str
    sizes: tuple[Size, ...]
    """From the dense model down."""
    about: str
    """Name of what is shown: a dial that shows the same stays where it stood."""


def marked_words(text: str, dense: str) -> list[tuple[str, bool]]:
    """Give every word of ``text``, and whether the dense model wrote another one there, or none.

    Words are compared in their order (longest common parts, ``difflib``). A word keeps the space before it.
    """
    words, theirs = re.findall(r"\s*\S+", text), dense.split()
    alike = SequenceMatcher(None, theirs, [word.strip() for word in words], autojunk=False)
    same = {place for match in alike.get_matching_blocks() for place in range(match.b, match.b + match.size)}
    return [(word, place not in same) for place, word in enumerate(words)]


def parts_at(text: str, dense: str) -> int | None:
    """Tell at which word, from 1, two texts part; ``None`` where they do not."""
    words, theirs = text.split(), dense.split()
    for place, (word, other) in enumerate(zip(words, theirs, strict=False), start=1):
        if word != other:
            return place
    return None if len(words) == len(theirs) else min(len(words), len(theirs)) + 1


def turning(view: DialView, theme: Theme, may_turn: bool) -> str:
    """Write the dial as HTML that lives; where it may not turn it shows the dense model alone."""
    dense = view.sizes[0]
    told = {
        "about": view.about,
        "prompt": visible(view.prompt),
        "open": may_turn,
        "sizes": [
            {
                "label": size.label,
                "turn": round(size.fewer / max(view.sizes[-1].fewer, 1e-9), 4),
                "perplexity": f"{size.perplexity:.2f}",
                "rise": _rise(size, dense),
                "parameters": _millions(size),
                "fewer": _fewer(size),
                "words": [[words, gone] for words, gone in _runs(size.text, dense.text)],
            }
            for size in view.sizes
        ],
        "labels": LABELS,
    }
    held = json.dumps(told, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    return (
        f"<style>{_STYLE}</style>"
        f'<div class="slicescope-dial" style="{_colours(theme)}" data-dial="{html.escape(held)}"></div>'
        f"<script>{SCRIPT}</script>"
    )


LABELS = {
    "dial": "Size of the model",
    "perplexity": "perplexity",
    "parameters": "parameters",
    "marked": "Marked: words that the dense model does not write there",
    "hint": "turn the dial, or press ↑ or ↓",
}


def listed(view: DialView, theme: Theme = LIGHT) -> str:
    """Write all sizes under each other, as HTML that stands still, for paper."""
    dense = view.sizes[0]
    rows = [
        f"<dt><b>{size.perplexity:.2f}</b> {_fewer(size)}</dt><dd>{_still(size, dense)}</dd>"
        for size in view.sizes
    ]
    return (
        f'<style>{_STYLE}</style><div class="slicescope-sizes" style="{_colours(theme)}">'
        f'<p class="prompt">{html.escape(visible(view.prompt))} …</p>'
        f"<dl>{''.join(rows)}</dl><p>{LABELS['marked']}. In front: perplexity.</p></div>"
    )


def draw_sizes(view: DialView, theme: Theme = LIGHT, concealed: bool = False) -> Drawing:
    """Draw perplexity over size. Concealed, only the dense model is there."""
    figure = go.Figure()
    fewer = np.asarray([100 * size.fewer for size in view.sizes], dtype=np.float32)
    costs = np.asarray([size.perplexity for size in view.sizes], dtype=np.float32)
    for first, last, colour in ((0, 1, theme.dense), (1, len(costs), INSIDE)):
        if first == 0 or not concealed:
            figure.add_trace(
                go.Scatter(
                    x=fewer[first:last],
                    y=costs[first:last],
                    mode="markers+text",
                    text=[f"{cost:.2f}" for cost in costs[first:last]],
                    textposition="top center",
                    textfont={"size": SIZE, "color": theme.ink},
                    marker={"size": 16, "color": colour},
                    hovertemplate="%{x:.1f} % fewer parameters: perplexity %{y:.2f}<extra></extra>",
                    showlegend=False,
                )
            )
    on_stage(figure, theme)
    room = 0.25 * float(costs.max() - costs.min())
    figure.update_xaxes(
        title_text="fewer parameters",
        ticksuffix=" %",
        range=[-0.1 * float(fewer[-1]), 1.1 * float(fewer[-1])],
        showgrid=False,
    )
    figure.update_yaxes(
        title_text="perplexity", range=[float(costs.min()) - room, float(costs.max()) + 1.4 * room]
    )
    told = ", ".join(f"{size.perplexity:.2f} with {_fewer(size)}" for size in view.sizes[1:])
    return Drawing(figure, f"Perplexity is {view.sizes[0].perplexity:.2f} for the dense model, {told}.")


def _millions(size: Size) -> str:
    return f"{size.parameters / 1e6:.1f}\N{NO-BREAK SPACE}M"


def _fewer(size: Size) -> str:
    return f"{100 * size.fewer:.1f}\N{NO-BREAK SPACE}% fewer" if size.fewer > 0 else "dense"


def _rise(size: Size, dense: Size) -> str:
    if size is dense:
        return "dense"
    return f"{100 * (size.perplexity / dense.perplexity - 1):+.0f}\N{NO-BREAK SPACE}% against dense"


def _runs(text: str, dense: str) -> list[tuple[str, bool]]:
    """Join neighbouring words that are marked alike. A word keeps the space or the line break before it.

    Blank lines would push the text off the slide, so that every gap with line breaks is one.
    """
    runs: list[tuple[str, bool]] = []
    for marked, words in groupby(marked_words(text, dense), key=lambda each: each[1]):
        runs.append(("".join(_gap(word) + visible(word.strip()) for word, _ in words), marked))
    return runs


def _gap(word: str) -> str:
    before = word[: len(word) - len(word.lstrip())]
    return "\n" if "\n" in before else before[:1] and " "


def _still(size: Size, dense: Size) -> str:
    told = []
    for words, gone in _runs(size.text, dense.text):
        told.append(f"<mark>{html.escape(words.strip())}</mark>" if gone else html.escape(words.strip()))
    return " ".join([*told, "…"])


def _colours(theme: Theme) -> str:
    red, green, blue = rgb(DYNAMIC)
    strength = 0.16 if theme == LIGHT else 0.28
    return (
        f"--ink:{theme.ink};--quiet:{theme.label};--knob:{theme.measured};--edge:{theme.dense};"
        f"--mark:rgba({red},{green},{blue},{strength});--line:{DYNAMIC}"
    )


_STYLE = """
.slicescope-dial { display: grid;
  grid-template-columns: minmax(16rem, 29%) 1fr; gap: 0 clamp(1.2rem, 3vw, 4rem);
  width: 100%; height: 100%; min-height: 18rem; align-items: center; color: var(--ink); }
.slicescope-dial .hand { display: flex; flex-direction: column;
  align-items: center; gap: 0.4rem; min-width: 0; }
.slicescope-dial .knob { width: min(100%, 52dvh); touch-action: none; cursor: grab; border-radius: 50%; }
.slicescope-dial .knob[aria-disabled="true"] { cursor: default; opacity: 0.6; }
.slicescope-dial .knob:focus-visible { outline: 3px solid var(--knob); outline-offset: 2px; }
.slicescope-dial svg { display: block; width: 100%; height: auto; overflow: visible; user-select: none; }
.slicescope-dial .needle { transition: transform 0.25s ease-out; }
.slicescope-dial .counters { display: grid;
  grid-template-columns: auto auto; gap: 0 1.4rem; line-height: 1.15; }
.slicescope-dial .counters b { display: block; font-size: clamp(1.5rem, 2.7vw, 3.6rem); font-weight: 600;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.slicescope-dial .counters span { display: block; font-size: clamp(0.9rem, 1.15vw, 1.5rem);
  color: var(--quiet); }
.slicescope-dial .written { font-size: clamp(1.25rem, 2.5vw, 3.4rem); line-height: 1.42; margin: 0;
  white-space: pre-line; overflow-wrap: anywhere; }
.slicescope-dial .written .prompt { color: var(--quiet); }
.slicescope-dial .fresh { animation: slicescope-fresh 0.3s; }
.slicescope-dial .legend { font-size: clamp(0.85rem, 1.05vw, 1.4rem);
  color: var(--quiet); margin: 0.8rem 0 0; }
.slicescope-dial mark, .slicescope-sizes mark { background: var(--mark); color: inherit;
  border-bottom: 0.09em solid var(--line); border-radius: 0.15em; padding: 0 0.08em;
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.slicescope-sizes { color: var(--ink); font-size: 1.05rem; line-height: 1.4; }
.slicescope-sizes .prompt { font-size: 1.2rem; margin: 0 0 0.6rem; }
.slicescope-sizes dl { display: grid;
  grid-template-columns: max-content 1fr; gap: 0.55rem 1.2rem; margin: 0; }
.slicescope-sizes dt { font-weight: 400; white-space: nowrap; } .slicescope-sizes dd { margin: 0; }
.slicescope-sizes p:last-child { color: var(--quiet); font-size: 0.9rem; margin: 0.7rem 0 0; }
@keyframes slicescope-fresh { from { opacity: 0.25; } }
@media (prefers-reduced-motion: reduce) {
  .slicescope-dial .needle { transition: none; } .slicescope-dial .fresh { animation: none; }
}
@media (max-width: 700px) {
  .slicescope-dial { grid-template: auto 1fr / 1fr; gap: 0.8rem; align-items: start; }
  .slicescope-dial .hand { display: grid; grid-template-columns: 9.5rem 1fr; gap: 1rem; width: 100%; }
  .slicescope-dial .counters { grid-template-columns: auto; gap: 0.5rem; }
}
"""
