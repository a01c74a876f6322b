"""A page follows a change between light and dark in the browser, its charts too, without a click."""

from __future__ import annotations

from typing import Any

import pytest
from serving import MISSING, eventually, look

from app.figures.base import DARK, LIGHT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
WRITTEN = """colour => {
  const found = document.querySelector(".js-plotly-plot .xtick text");
  return found && getComputedStyle(found).fill === colour;
}"""
"""Whether the first word of a chart has a colour; not while the chart is drawn anew."""


def as_css(colour: str) -> str:
    """Write ``#RRGGBB`` as browsers tell it."""
    return "rgb({}, {}, {})".format(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))


def test_charts_follow_the_browser_between_light_and_dark(address: str, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page = context.new_page()
    page.goto(f"{address}/profile")
    for scheme, theme in (("light", LIGHT), ("dark", DARK), ("light", LIGHT)):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(WRITTEN, arg=as_css(theme.label))
    context.close()


def test_the_dial_of_the_talk_follows_too(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/talk?present=1&step=12")
    ink = page.locator(".slicescope-dial")
    for scheme, theme in (("dark", DARK), ("light", LIGHT)):
        page.emulate_media(color_scheme=scheme)
        eventually(page, lambda theme=theme: theme.ink in ink.get_attribute("style"), f"the dial is {scheme}")
