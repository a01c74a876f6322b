"""The walk of a researcher in a real browser: own model and text, a block, its tokens, a difference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from serving import MISSING, eventually, fill, go, place_of, served, settle, unfold, visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
MINUTES = 240_000  # ms: what a busy machine may need for what takes seconds
TEXTS = {
    "letters.txt": "My dear sister, the roads are bad and the inn is worse, but I am well. ",
    "tables.txt": "3 plus 4 makes 7; 12 less 5 leaves 7; 6 times 7 gives 42; 9 squared is 81. ",
}


@pytest.fixture
def page(tmp_path: Path, browser: Any) -> Iterator[Any]:
    tiny_model("llama", num_hidden_layers=8).save_pretrained(tmp_path / "mine")
    byte_tokenizer().save_pretrained(tmp_path / "mine")
    for name, words in TEXTS.items():
        (tmp_path / name).write_text(words * 40)
    with served(tmp_path) as address:
        page = visit(browser, f"{address}/profile", viewport={"width": 1280, "height": 800})
        yield page
        page.context.close()


def take_own_model(page: Any, folder: Path) -> None:
    """Name the folder in the strip above the page, see what it is, and load it."""
    page.locator(".st-key-model-switch button").first.click()
    page.get_by_label("Another: a path or owner/name").fill(str(folder))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="See what it is").click()
    page.get_by_role("heading", name=folder.name).wait_for()
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_text("open on cpu, float32").first.wait_for(timeout=MINUTES)


def measure_on(page: Any, text: Path) -> None:
    """Measure on a text of one's own, named by its path; leads to the new run."""
    unfold(page, "Measure mine")
    field = page.get_by_role("combobox", name="Text").first
    field.fill(str(text))
    field.press("Enter")
    fill(page, "Windows", 8)
    fill(page, "Window length, tokens", 64)
    before = page.url
    page.get_by_role("button", name=re.compile("^Measure( on mine)?$")).click()
    page.wait_for_url(lambda url: "profile=" in url and url != before, timeout=MINUTES)
    settle(page)
    page.get_by_text(text.name).first.wait_for()


def test_from_an_own_text_to_the_difference_between_two(page: Any, tmp_path: Path) -> None:
    take_own_model(page, tmp_path / "mine")
    go(page, "Profile")
    measure_on(page, tmp_path / "letters.txt")

    # The chart is in view, a click on a block shows its tokens beside it, and a click on a token its path.
    chart = page.locator(".js-plotly-plot").first
    dots = chart.locator(".scatterlayer .trace").last.locator(".point")
    dots.nth(7).wait_for()
    in_view = lambda: all(dots.nth(place).bounding_box()["y"] < 800 for place in range(8))  # noqa: E731
    eventually(page, in_view, "all blocks are in view")
    page.locator("h1").scroll_into_view_if_needed()
    box = place_of(page, dots.nth(5))
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_text("as block 5 changes it").wait_for()
    settle(page)
    page.locator(".slicescope-tokens [data-place='7']").click()
    page.locator(".slicescope-tokens [data-place='7'][aria-current]").wait_for()
    chart.get_by_text("dotted line:").wait_for()

    # The other text, and what parts the two profiles, block by block.
    measure_on(page, tmp_path / "tables.txt")
    page.get_by_role("tab", name="Difference").click()
    settle(page)
    held = page.get_by_role("combobox", name="Held against")
    held.scroll_into_view_if_needed()
    difference = page.locator(".st-key-difference .js-plotly-plot")
    difference.locator(".point").nth(7).wait_for()
    # An interval for every block.
    eventually(page, lambda: difference.locator("path.yerror").count() == 8, "there are eight intervals")
    assert "letters.txt" in held.input_value()  # the run before, by itself
