"""The slides on paper: one page each, whole, whatever screen and theme they are printed from."""

from __future__ import annotations

import re
from typing import Any

import pytest
from serving import MISSING, look

from app.story import SCENES

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
COUNT = len(SCENES)


def opened(address: str, browser: Any, scheme: str, width: int) -> Any:
    page = look(browser, f"{address}/slides", width, 800, scheme)
    page.locator(f".st-key-slide-{COUNT} .slicescope-sizes").wait_for()
    page.locator(".js-plotly-plot .main-svg").nth(COUNT - 2).wait_for()
    return page


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_every_slide_is_one_page_and_nothing_is_cut_off(
    address: str, browser: Any, scheme: str, width: int
) -> None:
    page = opened(address, browser, scheme, width)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    printed = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) == COUNT
    assert set(re.findall(rb"/MediaBox\s*\[([^\]]*)\]", printed)) == {
        b"0 0 960 540"
    }  # 1280 x 720 px in points
    page.emulate_media(media="print")
    for number, scene in enumerate(SCENES, start=1):
        slide = page.locator(f".st-key-slide-{number}")
        frame = slide.bounding_box()
        assert (frame["width"], frame["height"]) == (1280, 720)
        parts = slide.locator("h2, .stMarkdown, .katex-display, .main-svg, .slicescope-sizes, p").all()
        for part in parts:
            box = part.bounding_box()
            if box:  # an empty reason has none
                assert box["y"] >= frame["y"] and box["y"] + box["height"] <= frame["y"] + 710, scene.title
                assert box["x"] >= frame["x"] and box["x"] + box["width"] <= frame["x"] + 1270, scene.title
        colour = slide.locator(".stMarkdown p").first.evaluate("each => getComputedStyle(each).color")
        assert colour == "rgb(16, 21, 27)"  # dark on white, whatever the theme
    page.close()


def test_the_button_prints(address: str, browser: Any) -> None:
    page = opened(address, browser, "light", 1280)
    page.evaluate("window.print = () => { window.printed = true; }")
    page.get_by_role("button", name="Print, or save as PDF").click()
    assert page.evaluate("window.printed")
    page.close()


def test_the_notes_lead_to_the_slides(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/notes")
    page.get_by_role("link", name="Slides to print, or as PDF").click()
    page.get_by_role("heading", name="Slides to print").wait_for()
    page.close()
