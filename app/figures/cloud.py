"""The picture of slicing: real token states turn to their principal axes, and the thin axes are cut.

As HTML with a script of our own that draws on a canvas without a network; as a still chart it is in
``cloud_still.py``. Knows nothing about streamlit or about the sentences around a picture.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from analysis.cloud import DRAWN, Cloud
from analysis.errors import visible
from app.figures.base import HIGHLIGHT, LIGHT, Theme

Stage = Literal["askew", "turned", "shaded", "cut"]
"""Before the turn; turned to the principal axes; thin axes shaded; thin axes gone."""
STAGES: tuple[Stage, ...] = ("askew", "turned", "shaded", "cut")
BARS = 192
"""At most so many bars show the energies: several directions share one of a wide stream."""
NAMED = 7
"""Tokens whose text stands beside them: those that lie farthest out."""
SCRIPT = Path(__file__).with_name("cloud.js").read_text(encoding="utf-8")
"""What draws it alive. The same in every page, so that its digest can be allowed."""


class Cost(NamedTuple):
    """What the cut costs at the width where it stands at first, where no other width was measured."""

    value: str
    note: str


class Grip(NamedTuple):
    """What dragging the width changes outside the picture: the slice of one block of a plan."""

    block: int
    least: int
    """The width may not be less."""
    step: int
    """Widths that an arrow key passes."""


class CloudView(NamedTuple):
    """A cloud and what a cut of it costs."""

    cloud: Cloud
    pieces: dict[int, str]
    """The text of every token id."""
    stops: tuple[tuple[float, float], ...]
    """Widths of the stream whose perplexity was measured, from the dense one down, each with it."""
    width: float
    """Where the cut stands at first; one of ``stops``."""
    about: str
    """Name of what is shown: a picture that shows the same goes on where the one before stood."""
    cost: Cost | None = None
    grip: Grip | None = None

    @property
    def size(self) -> int:
        """The width of the dense stream."""
        return self.cloud.principal.shape[1]

    @property
    def gone(self) -> int:
        """How many directions are cut."""
        return self.size - round(self.width)

    @property
    def block(self) -> int:
        """The block that pictures begin with."""
        return int(self.cloud.blocks[self.cloud.middle()])

    def held(self) -> float:
        """Give the share of energy that the directions hold which are cut, before that block."""
        return self.cloud.beyond(self.cloud.middle(), round(self.width))

    @classmethod
    def cut_by_a_quarter(cls, cloud: Cloud, pieces: dict[int, str]) -> Self:
        """View a cloud of which no cut was measured."""
        return cls(cloud, pieces, (), float(round(0.75 * cloud.principal.shape[1])), "")

    def told(self, stage: Stage) -> str:
        """Say what the picture shows at a stage, for those who do not see it."""
        many = f"{self.cloud.tokens.size} token states before block {self.block}"
        return {
            "askew": f"{many}, as a flat cloud that lies askew to the axes of the model.",
            "turned": f"{many}, as a flat cloud along its principal axes.",
            "shaded": f"{many}; the thin side of the cloud is {self.gone} directions, which hold "
            f"{fine(self.held())} of the energy.",
            "cut": f"{many}, pressed into a plane: {self.gone} thin directions are gone, and a line shows "
            "what "
            "each token lost.",
        }[stage]

    def drawn(self, place: int) -> np.ndarray:
        """Give the places of tokens in the picture, (n, 3): two strong directions, and the thin one.

        The strong ones are those of the leading directions along which tokens differ most: the first often
        holds little beside their mean. The two stand for all that are kept: they are drawn as large as the
        energy of all directions around the mean. The thin one has a standard deviation of 1. It stands for
        all that are cut, and ``thickness`` is as large as the energy of all those.
        """
        places = self.cloud.places[place].astype(np.float64)
        spread = places.std(axis=0)
        chosen = np.sort(np.argsort(-spread[:DRAWN], kind="stable")[:2])
        strong = (
            places[:, chosen]
            * (self._around_mean(place) / max(float(np.sum(spread[chosen] ** 2)), 1e-12)) ** 0.5
        )
        thin = places[:, DRAWN] / max(float(spread[DRAWN]), 1e-9)
        return np.column_stack([strong, np.clip(thin, -3.0, 3.0)])

    def _around_mean(self, place: int) -> float:
        """Give the share of energy without that of the mean, which lies in the leading directions."""
        spread = self.cloud.places[place, :, :DRAWN].astype(np.float64).std(axis=0)
        mean = np.maximum(self.cloud.principal[place, :DRAWN] - spread**2, 0.0)
        return max(1.0 - float(mean.sum()), 1e-3)

    def reach(self, place: int) -> float:
        """Give the half width of the picture: nearly all tokens lie within it."""
        return float(np.percentile(np.abs(self.drawn(place)[:, :2]), 98.0)) or 1.0

    def bounds(self, place: int) -> np.ndarray:
        """Give the ends of the cloud along its two strong directions, (2, 2): nearly all lie within."""
        return np.percentile(self.drawn(place)[:, :2], [1.0, 99.0], axis=0).T

    def thickness(self, place: int, width: float) -> float:
        """Give the standard deviation of what a cut at ``width`` takes, where a token's norm is 1."""
        return self.cloud.beyond(place, round(width)) ** 0.5

    def texts(self) -> list[str]:
        """Give the text of every token as one can see it."""
        pieces = (self.pieces.get(int(token), f"#{token}") for token in self.cloud.tokens)
        return [visible(piece.strip() or repr(piece)[1:-1]) for piece in pieces]

    def named(self, place: int) -> list[int]:
        """Choose the tokens farthest out whose text is a word, each word once, (at most ``NAMED``)."""
        texts, found = self.texts(), []
        seen: set[str] = set()
        for index in np.argsort(-np.hypot(*self.drawn(place)[:, :2].T), kind="stable"):
            text = texts[index]
            if text.isalpha() and len(text) > 2 and text.lower() not in seen:
                seen.add(text.lower())
                found.append(int(index))
        return found[:NAMED]


def fine(fraction: float) -> str:
    """Write a small share in percent, with two digits that say something."""
    return f"{100 * fraction:.2g}\N{NO-BREAK SPACE}%"


def alive(view: CloudView, stage: Stage, theme: Theme, alt: str, beside: bool = False) -> str:
    """Write the picture as HTML that moves to ``stage`` from where the one before stood.

    ``beside``: whether it is one of several things on its page, which sets its height and smaller type.
    """
    data = json.dumps(_data(view, theme, beside), separators=(",", ":"))
    # What cleans the page takes "<" and ">" for markup, wherever they stand.
    data = data.replace("<", "\\u003c").replace(">", "\\u003e")
    return (
        f"<style>{_STYLE}</style>"
        f'<div class="slicescope-cloud{" beside" * beside}{" dark" * (theme != LIGHT)}" data-stage="{stage}" '
        f'aria-label="{html.escape(visible(alt))}" data-cloud="{html.escape(data)}"></div>'
        f"<script>{SCRIPT}</script>"
    )


def _data(view: CloudView, theme: Theme, beside: bool) -> dict[str, Any]:
    """What the script is told."""
    cloud, words = view.cloud, LABELS | (BESIDE if beside else {})
    return {
        "about": view.about,
        "size": view.size,
        "width": view.width,
        "stops": view.stops,
        "middle": cloud.middle(),
        "cost": view.cost and view.cost._asdict(),
        "grip": view.grip and view.grip._asdict(),
        "tokens": view.texts(),
        "blocks": [
            {
                "block": int(block),
                "reach": round(view.reach(place), 4),
                "bounds": np.round(view.bounds(place), 4).tolist(),
                "points": np.round(view.drawn(place), 3).tolist(),
                "named": view.named(place),
                "principal": _bars(cloud.principal[place]),
                "own": _bars(cloud.own[place]),
                "kept": _kept(cloud.principal[place]),
            }
            for place, block in enumerate(cloud.blocks)
        ],
        "labels": {name: said.format(size=view.size) for name, said in words.items()},
        "colours": _colours(theme),
    }


LABELS = {
    "block": "Stream before block",
    "perplexity": "perplexity",
    "between": "between two measured sizes",
    "energy": "of the energy kept",
    "of": "of",
    "width": "directions",
    "dial": "Width of the stream",
    "hint": "drag the width of the stream",
    "open": "perplexity: let go to see",
    "thin": "thin directions hold",
    "held": "of the energy",
    "own": "Energy along each of the model's {size} own axes, log scale",
    "principal": "Energy along each of the {size} principal directions, log scale",
}
BESIDE = {"perplexity": "perplexity, every block cut so"}
"""What no sentence beside the picture says."""


def _colours(theme: Theme) -> dict[str, str]:
    light = theme == LIGHT
    return {
        "point": theme.measured,
        "axis": theme.ink,
        "ink": theme.ink,
        "label": theme.label,
        "faint": "rgba(90,96,104,0.45)" if light else "rgba(190,196,204,0.4)",
        "paper": theme.paper,
        "cut": HIGHLIGHT,
        "cutInk": "#9A3E70" if light else "#E3A3C6",
        "slab": "rgba(204,121,167,0.16)",
        "lost": "rgba(204,121,167,0.55)",
    }


def edges_of(size: int) -> np.ndarray:
    """Give where the bars of so many directions begin and end, (at most ``BARS`` + 1)."""
    return np.linspace(0, size, min(size, BARS) + 1).round().astype(int)


def _bars(shares: np.ndarray) -> list[float]:
    """The logarithm of the mean energy of neighbouring directions, to base 10."""
    edges = edges_of(shares.size)
    means = np.add.reduceat(shares.astype(np.float64), edges[:-1]) / np.diff(edges)
    return np.round(np.log10(np.maximum(means, 1e-9)), 2).tolist()


def _kept(shares: np.ndarray) -> list[float]:
    """The energy within the leading directions, at the edges of bars that are alike wide."""
    whole = np.concatenate([[0.0], np.cumsum(shares, dtype=np.float64)])
    at = np.linspace(0, shares.size, min(shares.size, BARS) + 1)
    kept = np.interp(at, np.arange(whole.size), whole)
    return np.round(kept / whole[-1], 6).tolist()


_STYLE = """
.slicescope-cloud { display: grid; grid-template: 1fr minmax(4.5rem, 22%) auto / 1fr auto; gap: 0 1.2rem;
  width: 100%; height: 100%; min-height: 20rem; }
.slicescope-cloud .sky { grid-area: 1 / 1; width: 100%; height: 100%; min-height: 0; }
.slicescope-cloud .strip { grid-area: 2 / 1 / 3 / 3; width: 100%; height: 100%; min-height: 0; }
.slicescope-cloud .side { grid-area: 1 / 2; display: flex; flex-direction: column; justify-content: center;
  gap: clamp(0.3rem, 1.8dvh, 1.2rem); min-width: 11.5rem; }
.slicescope-cloud .counter { display: flex; flex-direction: column; line-height: 1.1; }
.slicescope-cloud .counter b { font-size: clamp(1.4rem, 2.3vw, 3rem); font-weight: 600;
  font-variant-numeric: tabular-nums; }
.slicescope-cloud .perplexity b { font-size: clamp(2rem, 4.2vw, 5.5rem); }
.slicescope-cloud .passing { opacity: 0.65; }
.slicescope-cloud .counter span, .slicescope-cloud label { font-size: clamp(0.95rem, 1.25vw, 1.6rem); }
.slicescope-cloud select { font: inherit; color: inherit; background: transparent; border-radius: 0.3rem; }
.slicescope-cloud select option { color: #10151B; background: #FFFFFF; }
.slicescope-cloud .dial { grid-area: 3 / 1 / 4 / 3; display: block; width: calc(100% + 16px);
  margin: 0.2rem -8px 0; height: 1.4rem; accent-color: #B0568A; }
/* What is left of the track would else be white; with a darker accent browsers keep it so. */
.slicescope-cloud.dark .dial { color-scheme: dark; accent-color: #E3A3C6; }
.slicescope-cloud.beside { height: 25rem; min-height: 0; }
@media (min-width: 1600px) { .slicescope-cloud.beside { height: 34rem; } }
.slicescope-cloud.beside .perplexity b { font-size: clamp(1.5rem, 2.6vw, 2.6rem); }
.slicescope-cloud.beside .counter b { font-size: clamp(1.3rem, 1.9vw, 2rem); }
.slicescope-cloud.beside :is(.counter span, label) { font-size: 0.9rem; }
@media (max-width: 700px) {
  .slicescope-cloud.beside { height: 31rem; }
  .slicescope-cloud { grid-template: auto 1fr minmax(4rem, 20%) auto / 1fr; }
  .slicescope-cloud .side { grid-area: 1 / 1; display: grid; align-items: start; min-width: 0;
    grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)); gap: 0.2rem 0.8rem; }
  .slicescope-cloud .side label { grid-column: 1 / -1; }
  .slicescope-cloud .sky { grid-area: 2 / 1; }
  .slicescope-cloud .strip { grid-area: 3 / 1; }
  .slicescope-cloud .dial { grid-area: 4 / 1; }
}
"""
