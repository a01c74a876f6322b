"""Handles on the bars of a plan: what the script that lets people drag them is told.

Knows nothing about streamlit.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from app.figures.base import HIGHLIGHT, Theme

SCRIPT = Path(__file__).with_name("bars.js").read_text(encoding="utf-8")
"""What follows the pointer and the keys. The same in every page, so that its digest can be allowed."""
HEADROOM = 1.35
"""How far the axis reaches above the tallest bar, so that there is room to drag it up."""


def handles(cut: Sequence[float], step: float, most: float, taken: int, theme: Theme) -> str:
    """Write what the script is told as HTML.

    ``cut`` are the slices of all blocks, ``step`` what an arrow key changes and ``most`` what one may lose at
    most, all as shares of the width. ``taken`` is the number of the last move that the slices show.
    """
    told = {
        "cut": [round(100 * each, 3) for each in cut],
        "step": max(round(100 * step, 3), 0.1),
        "most": round(100 * most, 1),
        "taken": taken,
    }
    style = f"""<style>
.slicescope-handles {{ position: absolute; inset: 0; pointer-events: none; }}
.slicescope-handles > div {{ position: absolute; box-sizing: border-box; }}
.slicescope-handles .ghost {{ height: 0; border-top: 2px dashed {theme.ink}; }}
.slicescope-handles .ghost[hidden] {{ display: none; }}
.slicescope-handles .handle {{ height: 32px; margin-top: -12px; pointer-events: auto; cursor: ns-resize;
  touch-action: none; border-radius: 4px; }}
.slicescope-handles .handle::before {{ content: ""; position: absolute; left: 22%; right: 22%; top: 24px;
  height: 4px; border-radius: 2px; background: {theme.paper}; }}
.slicescope-handles .handle:hover::before {{ background: {theme.ink}; }}
.slicescope-handles .handle:focus {{ outline: 3px solid {HIGHLIGHT}; outline-offset: -3px; }}
.slicescope-handles .handle[data-value]::after {{ content: attr(data-value); position: absolute; bottom: 100%;
  left: 50%; transform: translateX(-50%); white-space: nowrap; padding: 2px 8px; border-radius: 4px;
  font-size: 14px; color: {theme.ink}; background: {theme.paper}; border: 1px solid {HIGHLIGHT}; }}
.st-key-plan-move {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }}
</style>"""
    held = html.escape(json.dumps(told, separators=(",", ":")))
    return f'{style}<div class="slicescope-bars" hidden data-bars="{held}"></div><script>{SCRIPT}</script>'
