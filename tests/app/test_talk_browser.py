"""The talk in a real browser: arrow keys, the dial, screens of three sizes, and nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serving import MISSING, context_of, eventually, look, place_of, settle, visit

from app.story import SCENES

SCREENS = [(1280, 720), (1920, 1080), (400, 800)]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def open_talk(browser: Any, address: str, query: str, screen: tuple[int, int], **media: Any) -> Any:
    page = look(browser, f"{address}/?present=1{query}", *screen, **media)
    page.locator(".js-plotly-plot .main-svg, .slicescope-cloud canvas, .slicescope-dial svg").first.wait_for()
    return page


def open_own(browser: Any, address: str, query: str, **settings: Any) -> Any:
    """Open the same page in a context of its own."""
    width, height = SCREENS[0]
    page = visit(
        browser, f"{address}/?present=1{query}", viewport={"width": width, "height": height}, **settings
    )
    page.locator(".js-plotly-plot .main-svg, .slicescope-cloud canvas, .slicescope-dial svg").first.wait_for()
    return page


def at(page: Any, step: int) -> None:
    page.get_by_role("heading", name=SCENES[step - 1].title, exact=True).wait_for()
    settle(page)
    page.locator(".js-plotly-plot").nth(1).wait_for(state="detached")  # the chart of the step before


def leave(page: Any) -> None:
    """End the talk as a person does, who presses a key again that came before the script that listens."""
    profile = page.get_by_role("heading", name="Where is it redundant?")
    for moment in range(450):
        if profile.is_visible():
            return
        if moment % 150 == 0:
            page.keyboard.press("Escape")
        page.wait_for_timeout(100)
    raise AssertionError("Escape does not end the talk.")


def overflow(page: Any) -> list[int]:
    """By how many pixels the page is higher, and wider, than its screen."""
    return page.evaluate(
        "(main => [main.scrollHeight - main.clientHeight,"
        " document.documentElement.scrollWidth - innerWidth])(document.querySelector('.stMain'))"
    )


def fits(page: Any) -> None:
    """Wait until the chart has the height that the page leaves to it."""

    def it_does() -> bool:
        high, wide = overflow(page)
        return high <= 1 and wide <= 0

    eventually(page, it_does, "the step fits its screen")


def drag_the_dial(page: Any) -> None:
    """Take the slice base of the seventh step to the right with the mouse."""
    page.get_by_role("group", name="Target (SP)").wait_for(state="detached")  # the dial of the step before
    value = page.get_by_role("group", name="Slice base (SB)").get_by_test_id("stSliderThumbValue")
    box = place_of(page, value)
    grip = (box["x"] + box["width"] / 2, box["y"] + box["height"] + 8)
    page.mouse.move(*grip)
    page.mouse.down()
    page.mouse.move(grip[0] + 200, grip[1], steps=4)
    page.mouse.up()


def test_the_keyboard_tells_the_story(address: str, browser: Any) -> None:
    page = open_own(browser, address, "&step=4")
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if address not in request.url else None)
    for step in (5, 6, 7, 8):
        page.keyboard.press("ArrowRight")
        at(page, step)
    page.locator(".js-plotly-plot").click()
    page.keyboard.press("ArrowLeft")
    at(page, 7)
    before = page.locator(".st-key-talk-words").inner_text()
    drag_the_dial(page)
    page.locator(".st-key-talk-words").filter(has_text=before).wait_for(state="detached")
    page.keyboard.press("ArrowRight")
    at(page, 8)
    page.keyboard.press("PageDown")
    at(page, 9)
    page.wait_for_url("**step=9**")
    page.reload()
    at(page, 9)
    leave(page)
    page.wait_for_url(lambda url: "present" not in url)
    assert [url for url in outside if not url.startswith(("ws://127.0.0.1", "data:", "blob:"))] == []


def test_a_key_right_after_the_dial_was_dragged_goes_on(address: str, browser: Any) -> None:
    page = open_talk(browser, address, "&step=7", SCREENS[0])
    for _ in range(4):  # what is lost here is lost by chance
        at(page, 7)
        drag_the_dial(page)
        page.keyboard.press("ArrowRight")
        at(page, 8)
        page.keyboard.press("ArrowLeft")


def on_every_screen(page: Any) -> Iterator[tuple[int, int]]:
    """Give the page, which was opened on the first one, one screen after another."""
    for screen in SCREENS:
        page.set_viewport_size({"width": screen[0], "height": screen[1]})
        settle(page)
        yield screen


def test_each_step_fits_every_screen_and_nothing_else_is_on_it(address: str, browser: Any) -> None:
    page = open_talk(browser, address, "&step=7", SCREENS[0], color_scheme="dark")
    page.get_by_role("slider").wait_for()
    for screen in on_every_screen(page):
        fits(page)
        assert page.get_by_test_id("stHeader").is_hidden() and not page.locator(".modebar-btn").count()
        size = page.evaluate(
            "parseFloat(getComputedStyle(document.querySelector('.st-key-talk-words p')).fontSize)"
        )
        assert size >= (28 if screen[0] >= 1280 else 20)
        eventually(page, lambda screen=screen: fills(page, screen), "the chart fills its screen")
        if screen[0] == 400:  # words as large as on a screen would leave the bars no room
            legend = page.locator(".js-plotly-plot .legend")
            low = lambda legend=legend: legend.bounding_box()["height"] < 40  # noqa: E731
            eventually(page, low, "the names of the two parts of a bar stand in one row")


def fills(page: Any, screen: tuple[int, int]) -> bool:
    """Tell whether the chart takes the screen."""
    chart = page.locator(".js-plotly-plot").bounding_box()
    return chart["height"] > 0.25 * screen[1] and chart["width"] > 0.85 * screen[0]


def test_the_controls_stay_in_view_at_twice_the_size(address: str, browser: Any) -> None:
    # 1280 x 800 at 200 %, and the talk of the run that goes by another score.
    page = open_talk(browser, address, "&step=6&compare=demo-energy", (640, 400))
    page.get_by_role("heading", name="Discarded energy: where is it redundant?").wait_for()
    for end in ("most redundant", "least redundant"):
        page.locator(".js-plotly-plot").get_by_text(end).wait_for()
    eventually(page, lambda: overflow(page)[0] > 0, "the page is higher than its screen")

    def in_view(key: str) -> bool:
        box = page.locator(f".st-key-{key} button").bounding_box()
        return box["y"] >= 0 and box["y"] + box["height"] <= 400

    for key in ("back", "forward", "leave"):
        eventually(page, lambda key=key: in_view(key), f"{key} is in view")


def test_keys_that_come_fast_leave_address_and_step_in_agreement(address: str, browser: Any) -> None:
    page = open_talk(browser, address, "", SCREENS[0])
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(80)
    settle(page)
    step = int(page.url.rpartition("step=")[2])
    assert 2 <= step <= 4
    at(page, step)


def test_predictions_are_revealed_by_touch(address: str, browser: Any) -> None:
    page = open_talk(browser, address, "&predict=1&step=6", SCREENS[2])
    page.get_by_text(SCENES[5].question).wait_for()
    assert not page.locator(".js-plotly-plot .bars .point").count()
    page.get_by_role("button", name="Reveal").click()
    page.locator(".js-plotly-plot .bars .point").nth(1).wait_for()
    page.wait_for_url("**reveal=1**")


def settled(page: Any, at_end: str) -> None:
    """Wait until the cloud rests with one of its three motions done."""
    for _ in range(300):  # the page forbids what playwright waits for a value with
        if page.evaluate(f"(s => s?.moving === false && s.pose?.{at_end} === 1)(window.slicescopeCloud)"):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"The cloud did not come to rest: {page.evaluate('window.slicescopeCloud')}")


def counter(page: Any, name: str) -> str:
    return page.locator(f".slicescope-cloud .{name} b").inner_text()


def test_the_cloud_turns_and_is_cut_and_only_the_cut_costs(address: str, browser: Any) -> None:
    page = open_talk(browser, address, "", SCREENS[0])
    settled(page, "turn")
    assert counter(page, "perplexity") == "22.67"  # the rotation changed nothing
    page.keyboard.press("ArrowRight")
    at(page, 2)
    settled(page, "shade")
    assert counter(page, "perplexity") == "22.67"
    page.keyboard.press("ArrowRight")
    at(page, 3)
    settled(page, "cut")
    assert (counter(page, "perplexity"), counter(page, "width")) == ("51.00", "432")
    dial = page.get_by_role("slider", name="Width of the stream")
    dial.focus()
    page.keyboard.press("ArrowLeft")  # to the next measured width, and the story stays where it is
    page.locator(".slicescope-cloud .width b").filter(has_text="403").wait_for()
    assert counter(page, "perplexity") == "64.30"
    assert float(counter(page, "energy").split()[0]) < 99.41
    at(page, 3)
    box = place_of(page, dial)
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.78 * box["width"], box["y"] + box["height"] / 2, steps=4)
    page.get_by_text("between two measured sizes").wait_for()
    page.mouse.up()
    # It comes to rest where something was measured.
    page.locator(".slicescope-cloud .perplexity b").filter(has_text="41.26").wait_for()
    assert counter(page, "width") == "461"
    page.keyboard.press("ArrowRight")
    at(page, 4)


def test_who_wants_no_motion_sees_the_end_at_once(address: str, browser: Any) -> None:
    page = open_talk(browser, address, "&step=3", SCREENS[0], reduced_motion="reduce")
    settled(page, "cut")
    assert counter(page, "perplexity") == "51.00"
    assert page.evaluate("window.slicescopeCloud.frames") <= 3


def dialled(page: Any, perplexity: str) -> None:
    page.locator(".slicescope-dial .perplexity b").filter(has_text=perplexity).wait_for()


def test_the_dial_of_sizes_turns_and_leaves_the_story_its_keys(address: str, browser: Any) -> None:
    last = len(SCENES)
    page = open_own(browser, address, f"&step={last - 1}")
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if address not in request.url else None)
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name=SCENES[-1].title).wait_for()
    dialled(page, "22.67")
    assert not page.locator(".slicescope-dial mark").count()  # dense differs from itself nowhere
    page.keyboard.press("ArrowUp")
    dialled(page, "23.57")
    assert page.locator(".slicescope-dial mark").count()
    page.keyboard.press("ArrowDown")
    dialled(page, "22.67")
    page.locator(".slicescope-dial svg text").last.click()  # its name at the dial
    dialled(page, "38.11")
    page.locator(".slicescope-dial .written").filter(has_text="The most important thing").wait_for()
    box = place_of(page, page.locator(".slicescope-dial svg"))
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] * 112 / 206)
    page.mouse.move(middle[0] + 60, middle[1] + 50)
    page.mouse.down()
    page.mouse.move(middle[0] + 50, middle[1] - 30, steps=4)
    page.mouse.up()
    dialled(page, "30.91")
    page.keyboard.press("ArrowLeft")  # the dial was touched, and the keys are still the story's
    at(page, last - 1)
    page.locator(".slicescope-dial").wait_for(state="detached")
    page.locator(".st-key-forward button:not([disabled])").wait_for()  # nothing follows the last scene
    page.keyboard.press("ArrowRight")
    at(page, last)
    dialled(page, "30.91")  # where it was left
    knob = page.get_by_role("slider", name="Size of the model")
    for _ in range(40):
        page.keyboard.press("Tab")
        if knob.evaluate("knob => document.activeElement === knob"):
            break
    page.keyboard.press("ArrowLeft")  # of whoever walked to it
    dialled(page, "25.26")
    assert "120.4" in (knob.get_attribute("aria-valuetext") or "")
    page.keyboard.press("End")
    dialled(page, "38.11")
    page.keyboard.press("?")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    dialled(page, "38.11")  # what lies over the slide keeps the keys
    page.get_by_role("heading", name=SCENES[-1].title).wait_for()
    assert [url for url in outside if not url.startswith(("ws://127.0.0.1", "data:", "blob:"))] == []


@pytest.mark.parametrize("screen", SCREENS)
def test_the_dial_fits_its_screen_at_every_size(address: str, browser: Any, screen: tuple[int, int]) -> None:
    page = open_talk(browser, address, f"&step={len(SCENES)}", screen, color_scheme="dark")
    page.locator(".slicescope-dial").wait_for()
    margin = page.locator("h1").bounding_box()["x"]
    labels = page.locator(".slicescope-dial svg text")
    assert all(label.bounding_box()["x"] >= margin for label in labels.all())
    for perplexity in ("22.67", "23.57", "25.26", "30.91", "38.11"):
        dialled(page, perplexity)
        fits(page)
        text = page.locator(".slicescope-dial .page").bounding_box()
        below = page.locator(".st-key-talk-small").bounding_box()
        assert text["y"] + text["height"] <= below["y"] + 1 and text["x"] + text["width"] <= screen[0]
        page.keyboard.press("ArrowUp")


def test_a_prediction_locks_the_dial(address: str, browser: Any) -> None:
    page = open_talk(browser, address, f"&predict=1&step={len(SCENES)}", SCREENS[0])
    page.get_by_text(SCENES[-1].question).wait_for()
    dialled(page, "22.67")
    page.keyboard.press("ArrowUp")
    page.locator(".slicescope-dial svg text").last.click(force=True)
    dialled(page, "22.67")
    page.keyboard.press("ArrowRight")
    page.get_by_text("From 134.5 M").wait_for()
    page.locator('.slicescope-dial .knob[aria-disabled="false"]').wait_for()
    page.keyboard.press("ArrowUp")
    dialled(page, "23.57")


def test_hands_are_counted_by_keys_and_shown_against_the_truth(address: str, browser: Any) -> None:
    page = open_talk(browser, address, "&predict=1&step=6", SCREENS[0])
    first = page.get_by_role("button", name="The first")
    first.wait_for()
    for count in (1, 2):
        page.keyboard.press("1")
        first.filter(has_text=f"· {count} hand").wait_for()
    page.keyboard.press("3")
    page.get_by_role("button", name="The last").filter(has_text="· 1 hand").wait_for()
    page.reload()  # as light and dark do
    first.filter(has_text="· 2 hands").wait_for()
    settle(page)
    page.keyboard.press("ArrowRight")
    page.get_by_text("2 of 3 guessed it").wait_for()
    fits(page)
    page.keyboard.press("ArrowRight")
    page.get_by_text(SCENES[6].question).wait_for()
    settle(page)
    page.keyboard.press("ArrowLeft")
    page.get_by_text("2 of 3 guessed it").wait_for()


def test_the_desk_opens_at_a_key_and_follows(address: str, browser: Any) -> None:
    page = open_own(browser, address, "&step=4", color_scheme="dark")
    page.locator(".slicescope-desk").wait_for(state="attached")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    dialog.get_by_text("open the speaker's window").wait_for()
    page.keyboard.press("Escape")  # closes the list, and not the talk
    dialog.wait_for(state="detached")
    page.keyboard.press("q")
    page.get_by_role("dialog").get_by_role("img", name="step=4").wait_for()
    page.keyboard.press("q")
    page.get_by_role("dialog").wait_for(state="detached")
    with page.expect_popup() as opened:
        page.keyboard.press("s")
    speaker = opened.value
    speaker.get_by_text(SCENES[3].notes.say[:40]).wait_for()
    speaker.get_by_text(f"Next: {SCENES[4].title}").wait_for()
    speaker.keyboard.press("ArrowRight")  # the story goes on, and the notes with it
    at(page, 5)
    speaker.get_by_text(SCENES[4].notes.say[:40]).wait_for()
    page.bring_to_front()
    with page.expect_navigation():
        page.keyboard.press("d")
    at(page, 5)
    dark = "JSON.parse(document.querySelector('.slicescope-desk')?.dataset.desk ?? '{}').dark"
    eventually(page, lambda: page.evaluate(dark) is False, "it is light")


# Keeps what the canvases were last told: the words with their places, and the corners of all areas that were
# filled.
RECORDS = """
(() => {
  const kept = window.drawn = {sky: {words: [], areas: []}, strip: {words: [], areas: []}};
  const of = (context) => kept[context.canvas.className] ?? {words: [], areas: []};
  const to = CanvasRenderingContext2D.prototype;
  const wrap = (name, also) => {
    const own = to[name];
    to[name] = function (...given) { also(this, ...given); return own.apply(this, given); };
  };
  let path = [];
  wrap("clearRect", (context) => { const found = of(context); found.words = []; found.areas = []; });
  wrap("beginPath", () => { path = []; });
  wrap("moveTo", (_, x, y) => path.push([x, y]));
  wrap("lineTo", (_, x, y) => path.push([x, y]));
  wrap("fill", (context) => { if (path.length > 3) of(context).areas.push(path); });
  wrap("fillText", (context, text, x, y) => of(context).words.push([text, x, y]));
})();
"""


def test_the_box_is_whole_and_the_energies_have_an_axis_on_every_screen(address: str, browser: Any) -> None:
    width, height = SCREENS[0]
    viewport = {"width": width, "height": height}
    context = context_of(browser, viewport=viewport, reduced_motion="reduce")
    context.add_init_script(RECORDS)
    page = context.new_page()
    page.goto(f"{address}/?present=1&step=2")
    page.locator(".slicescope-cloud canvas").first.wait_for()
    page.get_by_text("directions hold").first.wait_for()
    size = (
        "(s => [s.clientWidth, s.clientHeight, s.width - Math.round(s.clientWidth * devicePixelRatio)])"
        "(document.querySelector('.slicescope-cloud .sky'))"
    )

    def whole() -> bool:
        wide, high, off = page.evaluate(size)
        faces = page.evaluate("window.drawn")["sky"]["areas"]
        corners = [corner for face in faces for corner in face]
        inside = all(0 <= x <= wide and 0 <= y <= high for x, y in corners)
        return off == 0 and len(faces) == 2 and inside

    for _ in on_every_screen(page):
        eventually(page, whole, "the two faces of the box are inside the picture")
        words = [text for text, *_ in page.evaluate("window.drawn")["strip"]["words"]]
        assert any("576 principal directions, log scale" in text for text in words)
        assert [text for text in words if text.endswith("%")] == [
            "10\N{NO-BREAK SPACE}%",
            "0.01\N{NO-BREAK SPACE}%",
        ]
