"""What people who see little, use no mouse, or hold a phone meet on every page, in a real browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from serving import MISSING, eventually, look, settle

LACKING = MISSING + ([] if importlib.util.find_spec("axe_playwright_python") else ["axe-playwright-python"])
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
PAGES = ["shrink", "model", "profile", "tune", "compare", "play", "study", "runs", "notes", "?present=1"]
PAGES += [
    "tune?cut=Cut+inside+blocks",
    "study?study=demo-ranking",
    "study?study=demo-frontier",
    "?present=1&step=6",
]
PAGES += ["slides", "?present=1&step=12", "?present=1&step=6&predict=1&room=6.2-0-1"]
GRAVE = ("moderate", "serious", "critical")
SECTIONS = {"runs": "Runs that ship with slicescope"}
"""Headings of what stands far down a page, which is looked at where it is in view."""
COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules of axe that look at colours."""
PAPER = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"


def violations(page: Any, scheme: str) -> list[str]:
    """What axe finds grave, as sentences."""
    from axe_playwright_python.sync_playwright import Axe

    # To list what is well takes most of the time. A scheme has colours of its own, and nothing else.
    options = {"resultTypes": ["violations"], **({"runOnly": COLOURS} if scheme == "dark" else {})}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{each['id']} at {node['target']}: {node['failureSummary']}"
        for each in found
        if each["impact"] in GRAVE
        for node in each["nodes"]
    ]


def unfold(page: Any) -> None:
    """Open what is folded, so that it is looked at too."""
    page.evaluate("document.querySelectorAll('details:not([open]) > summary').forEach(each => each.click())")
    settle(page)


def in_view(page: Any, name: str) -> None:
    """Bring the section of a page that stands far down into view, where it has one."""
    if heading := SECTIONS.get(name):
        page.get_by_role("heading", name=heading).scroll_into_view_if_needed()
        buttons = page.locator("[class*='st-key-ships-'] button")
        eventually(page, lambda: buttons.count() > 0, "what ships has buttons")
        buttons.last.scroll_into_view_if_needed()


def nothing_grave(page: Any, scheme: str) -> None:
    found = violations(page, scheme)
    for _ in range(10):  # fades, and a busy machine that has not coloured everything, have no contrast yet
        if not found:
            break
        page.wait_for_timeout(500)
        found = violations(page, scheme)
    assert found == []


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_in_one_direction_and_nothing_is_grave_in_dark_and_in_light(
    address: str, browser: Any, name: str
) -> None:
    page = look(browser, f"{address}/{name}", 400, 800, color_scheme="dark")
    unfold(page)
    beyond = (
        "[document.documentElement, document.querySelector('[data-testid=stMain]')]"
        ".map(each => each.scrollWidth - each.clientWidth)"
    )
    eventually(page, lambda: page.evaluate(beyond) == [0, 0], "nothing reaches beyond the screen")
    page.set_viewport_size({"width": 1280, "height": 900})  # where nothing is left out for want of room
    settle(page)
    in_view(page, name)
    nothing_grave(page, "dark")
    page.emulate_media(color_scheme="light")
    eventually(page, lambda: page.evaluate(PAPER) == "rgb(255, 255, 255)", "the page is light")
    settle(page)
    unfold(page)
    in_view(page, name)
    nothing_grave(page, "light")


def focused(page: Any) -> str:
    return page.evaluate(
        "(e => e.ariaLabel || e.innerText.trim().split('\\n').pop() || '')(document.activeElement)"
    )


def tab_to(page: Any, name: str, seen: list[str]) -> None:
    """Press Tab until the element of that name has the focus, and see that every stop on the way shows it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(focused(page))
        # A busy machine draws late.
        shown = any(shows_focus(page, patience) for patience in (150, 500, 2000))
        assert shown, f"Nothing shows that '{seen[-1]}' has the focus."
        if seen[-1] == name:
            return
    raise AssertionError(f"Tab does not lead to '{name}', but along {seen}.")


def shows_focus(page: Any, patience: int) -> bool:
    """Whether the page looks different where the focus is than without it, so many milliseconds later."""
    page.wait_for_timeout(patience)
    area = page.evaluate(
        """() => {
          const e = document.activeElement, box = e.getBoundingClientRect(), small = box.width < 4;
          if (e.tagName === "MAIN") return null;  // takes the focus so that arrow keys scroll it
          const r = (small ? e.closest("[data-testid]") : e).getBoundingClientRect(), edge = small ? 16 : 5;
          return {x: r.x - edge, y: r.y - edge, width: r.width + 2 * edge, height: r.height + 2 * edge};
        }"""
    )
    if area is None:
        return True
    area["width"] += min(area["x"], 0)
    area["height"] += min(area["y"], 0)
    clip = {**area, "x": max(area["x"], 0), "y": max(area["y"], 0)}
    with_focus = page.screenshot(clip=clip, animations="disabled")
    page.evaluate("window.left = document.activeElement; window.left.blur()")
    page.wait_for_timeout(patience)
    without = page.screenshot(clip=clip, animations="disabled")
    page.evaluate("window.left.focus({focusVisible: true})")
    return with_focus != without


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_keyboard_alone_leads_from_the_profile_to_a_plan(address: str, browser: Any, scheme: str) -> None:
    page = look(browser, f"{address}/profile", 1280, 1600, color_scheme=scheme)
    seen: list[str] = []
    tab_to(page, "Tune", seen)
    assert seen[0] == "Skip to main content"
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="How much to cut where?").wait_for()
    settle(page)
    page.evaluate("document.activeElement.blur()")
    tab_to(page, "Target (SP)", seen)
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**sp=26**")
    settle(page)
    tab_to(page, "Compare with constant", seen)
    tab_to(page, "plan.json", seen)
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert '"target": 0.26' in Path(download.value.path()).read_text()
