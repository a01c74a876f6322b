"""A page follows a change between light and dark in the browser, its charts too, without a click."""

from __future__ import annotations

from typing import Any

import pytest
from serving import MISSING

from app.figures.base import DARK, LIGHT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
WRITTEN = "getComputedStyle(document.querySelector('.js-plotly-plot .xtick text')).fill"


def as_css(colour: str) -> str:
    """Write ``#RRGGBB`` as browsers tell it."""
    return "rgb({}, {}, {})".format(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))


def test_charts_follow_the_browser_between_light_and_dark(address: str, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page = context.new_page()
    page.goto(f"{address}/profile")
    page.locator(".js-plotly-plot .xtick text").first.wait_for()
    first = page.evaluate(WRITTEN)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{WRITTEN} !== '{first}'")
    assert page.evaluate(WRITTEN) == as_css(DARK.ink)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"{WRITTEN} === '{first}'")
    assert first == as_css(LIGHT.ink)
    context.close()
