"""What a speaker has at hand: notes in a window of their own, a code for the audience, and the list of keys.

Knows nothing about streamlit.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from app.story.case import Case
from app.story.scene import Scene

SCRIPT = Path(__file__).with_name("presenter.js").read_text(encoding="utf-8")
"""What reacts to the keys. The same in every page, so that its digest can be allowed."""
KEYS = (
    ("→ or PageDown", "go on; with predictions, show the answer first"),
    ("← or PageUp", "go back"),
    ("1 to 9", "with predictions: count a hand for this option"),
    ("s", "open the speaker's window: notes, clock, next step"),
    ("q", "show a code that opens this very step"),
    ("d", "change between light and dark"),
    ("Tab, then ← →", "move a dial"),
    ("↑ and ↓", "turn the dial of sizes"),
    ("?", "show or hide this list"),
    ("Esc", "close what lies over the slide, or leave the talk"),
)
_LIGHT = "--ground:#FFFFFF;--ink:#10151B;--edge:#C9CED4"
_DARK = "--ground:#12161C;--ink:#E8EAED;--edge:#2F3640"
_STYLE = """
.slicescope-over { position: fixed; inset: 0; z-index: 1000000; display: grid; place-items: center;
  background: rgba(0, 0, 0, 0.55); }
.slicescope-over > div { background: var(--ground); color: var(--ink); border: 1px solid var(--edge);
  border-radius: 0.6rem; padding: 1.4rem 2rem;
  max-width: min(92vw, 46rem); max-height: 92dvh; overflow: auto; font-size: clamp(1rem, 1.5vw, 1.8rem); }
.slicescope-over h2 { margin: 0 0 0.6rem; font-size: 1.3em; color: inherit; padding: 0; }
.slicescope-over dl { display: grid; grid-template-columns: auto 1fr; gap: 0.3rem 1.2rem; margin: 0 0 1rem; }
.slicescope-over dt { font-weight: 600; } .slicescope-over dd { margin: 0; }
.slicescope-over img { display: block; width: min(60dvh, 80vw); height: auto; margin: 0 auto 0.6rem;
  image-rendering: pixelated; }
.slicescope-over p { overflow-wrap: anywhere; margin: 0 0 0.6rem; font-size: 0.85em; }
.slicescope-over button { color: inherit; background: transparent; border: 1px solid currentColor;
  border-radius: 0.4rem; font: inherit; padding: 0.2rem 1rem; cursor: pointer; }
"""


def desk(scenes: Sequence[Scene], step: int, case: Case, address: str, dark: bool) -> str:
    """Write the desk of a step (from 1) as HTML: what the script tells, and the script."""
    scene, following = scenes[step - 1], scenes[step : step + 1]
    told = {
        "step": step,
        "of": len(scenes),
        "title": scene.title,
        "notes": [
            ("Say", scene.notes.say),
            ("Ask", scene.question),
            ("Answer", plain(scene.answer(case))),
            ("Often got wrong", scene.notes.misconception),
        ],
        "next": f"Next: {following[0].title}" if following else "This is the last step.",
        "until": sum(each.notes.minutes for each in scenes[:step]),
        "keys": KEYS,
        "code": code(address),
        "address": address,
        "alone": alone(address),
        "dark": dark,
    }
    held = json.dumps(told, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    return (
        f"<style>.slicescope-over {{ {_DARK if dark else _LIGHT} }}{_STYLE}</style>"
        f'<div class="slicescope-desk" hidden data-desk="{html.escape(held)}"></div>'
        f"<script>{SCRIPT}</script>"
    )


def plain(words: str) -> str:
    """Take the marks of Markdown out of a sentence of ours."""
    return re.sub(r":(?:green|orange)\[([^]]*)\]", r"\1", words).replace("**", "")


def code(address: str) -> str:
    """Give a QR code of an address as an image in a data URI."""
    import segno  # here, since most pages need none

    return segno.make(address, error="m", micro=False).svg_data_uri(scale=8, border=4, light="white")


def alone(address: str) -> str:
    """Say that nobody else can open an address of this machine alone; empty for others."""
    if (urlsplit(address).hostname or "") in ("localhost", "127.0.0.1", "::1"):
        return "This address works on this machine alone: start the app with --address to let others in."
    return ""
