"""The slides on paper: the style that prints each on a page of its own, and the chart that stands on it.

Knows nothing about streamlit.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple

from app.figures.base import LIGHT, Drawing
from app.figures.cloud_still import draw_whole
from app.story.case import Case
from app.story.scene import Scene

SCRIPT = Path(__file__).with_name("slides.js").read_text(encoding="utf-8")
"""What the button does. The same in every page, so that its digest can be allowed."""
WIDE, HIGH = 1280, 720
"""Of a slide, px."""
_FRAME = 126
"""Height of a slide without its words and its picture, px: edges, title and gaps."""
_TALL, _FLAT = 76, 46
"""Heights of a formula, px: with something above something else, and in one line."""
_LONGEST = 3
"""The words in small type end after so many lines: names of texts and models have no end."""


class _Words(NamedTuple):
    """How words of one size run: least characters of a line, and its height in px."""

    letters: int
    height: int

    def height_of(self, text: str, most: int = 99) -> int:
        """Give the height that a text takes, whose marks of Markdown are not seen."""
        lines = len(textwrap.wrap(text.replace("**", ""), self.letters))
        return self.height * min(lines, most)


_SENTENCE, _REASON, _SMALL = _Words(104, 32), _Words(124, 25), _Words(150, 21)


def _smaller(screen: int, scale: float) -> str:
    """Write the style of slides on screens up to a width, px.

    By a transform, with margins that take back what it leaves. A chart is told the size that its frame has on
    the screen: the frame is enlarged again, and what is drawn in it is not.
    """
    right, bottom = round((scale - 1.0) * WIDE), round((scale - 1.0) * HIGH)
    slide, frame = '[class*="st-key-slide-"]', '[data-testid="stElementContainer"]:has(.js-plotly-plot)'
    return (
        f"@media screen and (max-width: {screen}px) {{ "
        f"{slide} {{ transform: scale({scale}); transform-origin: 0 0; margin: 0 {right}px {bottom}px 0; }} "
        f"{slide} {frame} {{ transform: scale({1.0 / scale:.5f}); transform-origin: 0 0; }} "
        f"{slide} .js-plotly-plot {{ transform: scale({scale}); transform-origin: 0 0; }} }}"
    )


STYLE = f"""<style>
@page {{ size: {WIDE}px {HIGH}px; margin: 0; }}
[class*="st-key-slide-"] {{ width: {WIDE}px; min-width: {WIDE}px; height: {HIGH}px;
  flex: none; overflow: hidden; gap: 0.5rem;
  padding: 34px 48px 22px; background: #FFFFFF; border: 1px solid #C9CED4; position: relative; }}
[class*="st-key-slide-"] :is(h2, p, li, .katex, strong) {{ color: {LIGHT.ink} !important; }}
[class*="st-key-slide-"] h2 {{ font-size: 2.2rem; padding: 0 0 0.3rem; line-height: 1.2; }}
[class*="st-key-slide-"] .stMarkdown p {{ font-size: 1.5rem; line-height: 1.3; }}
[class*="st-key-why-"] .stMarkdown p {{ font-size: 1.15rem; }}
[class*="st-key-slide-"] .katex-display {{ margin: 0; padding: 0.1em 0; font-size: 1.15rem;
  overflow: visible; }}
[class*="st-key-slide-"] [data-testid="stMarkdownContainer"]:has(.katex-display) {{ overflow: visible; }}
[class*="st-key-slide-"] [data-testid="stCaptionContainer"] {{ opacity: 1; }}
[class*="st-key-slide-"] [data-testid="stCaptionContainer"] p {{ font-size: 0.85rem;
  color: {LIGHT.label} !important; overflow-wrap: anywhere; overflow: hidden;
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: {_LONGEST}; }}
[class*="st-key-slide-"] .stMarkdown p span:not(.katex *) {{ color: inherit !important; }}
.slicescope-print {{ font: inherit; padding: 0.4rem 1.2rem; border-radius: 0.5rem; cursor: pointer;
  color: #FFFFFF; border: 0; }}
{_smaller(1380, 0.75)}
{_smaller(1060, 0.5)}
{_smaller(720, 0.28)}
@media print {{
  [data-testid="stHeader"], [data-testid="stSidebar"], [data-testid="stStatusWidget"],
  .stMainBlockContainer > div > :not(:has([class*="st-key-slide-"])):not([class*="st-key-slide"]) {{
    display: none !important; }}
  html, body, #root, #root > div, .stApp, .stMain, [data-testid="stAppViewContainer"], .stMainBlockContainer,
  .stMainBlockContainer > div, :has(> .st-key-slides), .st-key-slides, :has(> [class*="st-key-slide-"]) {{
    position: static !important; overflow: visible !important; height: auto !important;
    width: auto !important; max-width: none !important; min-height: 0 !important;
    padding: 0 !important; margin: 0 !important;
    gap: 0 !important; display: block !important; background: #FFFFFF !important; }}
  [class*="st-key-slide-"] {{ border: 0; break-after: page; break-inside: avoid;
    -webkit-print-color-adjust: exact; print-color-adjust: exact; }}
}}
</style>"""
BUTTON = (
    f'<button type="button" class="slicescope-print">Print, or save as PDF</button><script>{SCRIPT}</script>'
)


def last(count: int) -> str:
    """Write the style of the last of so many slides, after which no page follows."""
    return f"<style>@media print {{ .st-key-slide-{count} {{ break-after: auto !important; }} }}</style>"


def chart(scene: Scene, case: Case) -> Drawing:
    """Draw the chart of a slide, answered and on white, as high as the slide has room for."""
    drawing = scene.draw(case, scene.setting(case), LIGHT, False)
    if scene.stages and case.cloud:
        drawing = draw_whole(case.cloud, scene.stages[1], LIGHT, drawing.takeaway)
    drawing.figure.update_layout(width=WIDE - 96, height=_room(scene, case))
    return drawing


def _room(scene: Scene, case: Case) -> int:
    """Give the height that the words of a slide leave its picture, px."""
    formula = scene.formula(case)
    stacked = any(mark in formula for mark in (r"\frac", r"\sum", r"\exp", r"\max"))
    words = _SENTENCE.height_of(scene.sentence(case, scene.setting(case)))
    words += _REASON.height_of(scene.why(case)) + (_TALL if stacked else _FLAT)
    return HIGH - _FRAME - words - _SMALL.height_of(f"12 / 12 · {scene.source(case)}", _LONGEST)
