"""The slides on paper: the style that prints each on a page of its own, and the chart that stands on it.

Knows nothing about streamlit.
"""

from __future__ import annotations

from pathlib import Path

from app.figures.base import LIGHT, Drawing
from app.figures.cloud_still import draw_whole
from app.story.case import Case
from app.story.scene import Scene

SCRIPT = Path(__file__).with_name("slides.js").read_text(encoding="utf-8")
"""What the button does. The same in every page, so that its digest can be allowed."""
WIDE, HIGH = 1280, 720
"""Of a slide, px."""
_PICTURE = {"plain": 450, "with a reason": 400}
"""Heights of pictures, px: without and with a reason below them."""

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
  color: {LIGHT.label} !important; }}
[class*="st-key-slide-"] .stMarkdown p span:not(.katex *) {{ color: inherit !important; }}
.slicescope-print {{ font: inherit; padding: 0.4rem 1.2rem; border-radius: 0.5rem; cursor: pointer;
  color: #FFFFFF; background: #21456E; border: 0; }}
@media (max-width: 1380px) {{ [class*="st-key-slide-"] {{ zoom: 0.75; }} }}
@media (max-width: 1060px) {{ [class*="st-key-slide-"] {{ zoom: 0.5; }} }}
@media (max-width: 720px) {{ [class*="st-key-slide-"] {{ zoom: 0.28; }} }}
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
  [class*="st-key-slide-"] {{ zoom: 1; border: 0; break-after: page; break-inside: avoid;
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
    drawing.figure.update_layout(
        width=WIDE - 96, height=_PICTURE["with a reason" if scene.why(case) else "plain"]
    )
    return drawing
