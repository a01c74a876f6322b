"""The cloud on the Profile and the Tune page: it is of the chosen block, and follows what one drags."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from serving import MISSING, Wire, context_of, eventually, look, place_of, settle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
MILLISECONDS = 1000 / 60
FRAMES = """(() => {
  const times = window.frames_of_cloud = [];
  let frames = 0, spent = 0;
  const look = () => {
    const shown = window.slicescopeCloud;
    if (shown?.frames > frames) {
      times.push((shown.spent - spent) / (shown.frames - frames));
      ({frames, spent} = shown);
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()"""
"""Keeps how many milliseconds each frame of the cloud took."""
BOXES = """() => [...document.querySelectorAll(
  ".slicescope-cloud, .slicescope-cloud canvas, .slicescope-cloud .counter, .slicescope-cloud input")]
  .map(each => each.getBoundingClientRect()).map(box => [box.left, box.top, box.right, box.bottom])"""


def opened(browser: Any, address: str, path: str, width: int = 1280, **media: Any) -> Any:
    page = look(browser, f"{address}/{path}", width, **media)
    page.locator(".slicescope-cloud canvas").first.wait_for()
    return page


def rests(page: Any) -> None:
    for _ in range(300):  # the page forbids what playwright waits for a value with
        if page.evaluate("(s => s?.moving === false && s.pose?.cut === 1)(window.slicescopeCloud)"):
            return
        page.wait_for_timeout(100)
    raise AssertionError("The cloud did not come to rest.")


def counter(page: Any, name: str) -> str:
    return page.locator(f".slicescope-cloud .{name} b").inner_text()


def hold(page: Any, share: float) -> Callable[[float], None]:
    """Take the width to a share of the whole with the mouse, and hold it there; what moves it on."""
    dial = page.get_by_role("slider", name="Width of the stream")
    dial.scroll_into_view_if_needed()
    box = place_of(page, dial)

    def move(to: float, steps: int = 5) -> None:
        page.mouse.move(box["x"] + 8 + to * (box["width"] - 16), box["y"] + box["height"] / 2, steps=steps)

    move(float(dial.input_value()) / float(dial.get_attribute("max")), 1)
    page.mouse.down()
    move(share)
    return move


def test_the_profile_shows_the_stream_of_the_chosen_block(address: str, browser: Any) -> None:
    page = context_of(browser, viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(FRAMES)
    page.goto(f"{address}/profile?block={quote('3 · model.layers.3')}")
    settle(page)
    page.get_by_role("heading", name="The stream before block 3", exact=True).wait_for()
    rests(page)
    a_frame_takes_less_time_than_a_screen_has_for_it(page)
    assert (counter(page, "perplexity"), counter(page, "width")) == ("51.00", "432")
    energy = counter(page, "energy")
    hold(page, 0.67)
    page.locator(".slicescope-cloud .perplexity").get_by_text("between two measured sizes").wait_for()
    assert float(counter(page, "energy").split()[0]) < float(energy.split()[0])
    page.mouse.up()
    page.locator(".slicescope-cloud .width b").filter(
        has_text="403"
    ).wait_for()  # where something was measured
    rests(page)
    assert counter(page, "perplexity") == "64.30"
    page.keyboard.press("ArrowRight")  # the keys are the page's again
    page.get_by_role("heading", name="The stream before block 4", exact=True).wait_for()
    settle(page)
    rests(page)
    assert counter(page, "energy") != energy


def a_frame_takes_less_time_than_a_screen_has_for_it(page: Any) -> None:
    frames = sorted(page.evaluate("window.frames_of_cloud"))
    assert len(frames) > 4  # a busy machine draws few of them
    # It also takes the processor away in the middle of some, which then seem to take long.
    assert frames[len(frames) // 4] < MILLISECONDS


@pytest.mark.parametrize("path", ["profile", "tune"])
def test_without_motion_it_stands_at_the_end_at_once_and_nothing_of_it_is_cut_off(
    address: str, browser: Any, path: str
) -> None:
    page = opened(browser, address, path, 400, reduced_motion="reduce")
    rests(page)
    assert path == "tune" or page.evaluate("window.slicescopeCloud.frames") <= 4
    for width in (400, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        settle(page)
        eventually(page, lambda: not cut_off(page), f"nothing is cut off at a width of {width}")


def cut_off(page: Any) -> list[Any]:
    """List what reaches beyond the screen or the frame of the cloud, or is too small to be seen."""
    beyond = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    # All in one moment: the page above may still grow.
    frame, *parts = page.evaluate(BOXES)
    assert len(parts) >= 5
    return [beyond] * (beyond > 0) + [
        (left, top, right, bottom)
        for left, top, right, bottom in parts
        if right - left <= 20
        or bottom - top <= 8
        or left < frame[0] - 9
        or right > frame[2] + 9
        or top < frame[1] - 1
        or bottom > frame[3] + 1
    ]


def test_dragging_the_width_moves_the_plan(address: str, browser: Any) -> None:
    page = opened(browser, address, f"tune?block={quote('5 · model.layers.5')}")
    handle = page.locator(".slicescope-handles .handle").nth(5)
    handle.wait_for()
    rests(page)
    before = float(handle.get_attribute("aria-valuenow"))
    size = 576
    eventually(
        page,
        lambda: float(counter(page, "width")) == pytest.approx(size * (1 - before / 100), abs=1),
        "the cloud shows the width of the bar",
    )
    hold(page, 0.6)
    page.mouse.up()
    cut = re.compile(r"^(39|40|41)\.")

    def has_moved() -> bool:
        return bool(cut.match(handle.get_attribute("aria-valuenow"))) and not handle.get_attribute(
            "data-value"
        )

    def at_one_width() -> bool:
        level = float(handle.get_attribute("aria-valuenow"))
        return float(counter(page, "width")) == pytest.approx(size * (1 - level / 100), abs=1)

    eventually(page, has_moved, "the bar stands where the width was dragged to")
    settle(page)
    rests(page)
    eventually(page, at_one_width, "bar and cloud show one width")
    now = float(handle.get_attribute("aria-valuenow"))
    dial = page.get_by_role("slider", name="Width of the stream")
    dial.focus()
    page.keyboard.press("ArrowLeft")  # one step of the plan's rounding
    eventually(
        page, lambda: float(handle.get_attribute("aria-valuenow")) > now + 0.5, "the key moves the bar"
    )
    settle(page)
    rests(page)
    page.keyboard.press("ArrowLeft")  # the picture is another one, and has the focus
    eventually(page, lambda: float(handle.get_attribute("aria-valuenow")) > now + 1.9, "so does the next key")


def test_a_width_that_is_held_while_the_picture_is_drawn_anew_follows_on(address: str, browser: Any) -> None:
    wire = Wire()
    page = context_of(browser, wire, viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{address}/tune?block={quote('5 · model.layers.5')}")
    handles = page.locator(".slicescope-handles .handle")
    handles.nth(9).wait_for()
    page.locator(".slicescope-cloud canvas").first.wait_for()
    settle(page)
    rests(page)
    before = float(handles.nth(5).get_attribute("aria-valuenow"))
    handles.nth(9).focus()
    wire.late = True
    page.keyboard.press("PageUp")
    move = hold(page, 0.7)
    page.wait_for_timeout(600)  # the key has become a move
    page.evaluate("document.querySelector('.slicescope-cloud').dataset.old = '1'")
    wire.release()
    old = page.locator(".slicescope-cloud[data-old]")
    eventually(page, lambda: old.count() == 0, "the picture is another one")
    page.locator(".slicescope-cloud canvas").first.wait_for()
    assert counter(page, "width") == "403"  # where it is held
    move(0.6)
    page.mouse.up()
    settle(page)
    stands = lambda: float(handles.nth(5).get_attribute("aria-valuenow"))  # noqa: E731
    eventually(page, lambda: 39 < stands() < 42, "the bar stands where the width was let go")
    assert before < 30
    settle(page)
    rests(page)
    eventually(
        page, lambda: counter(page, "width") == str(round(576 * (1 - stands() / 100))), "so does the cloud"
    )
