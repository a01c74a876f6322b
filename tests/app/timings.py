"""How quickly the app answers, measured in a real browser on the demo: ``make timings``. Not a test.

- Slider to screen: from the key press to the frame in which the numbers and the bars have changed.
- Page switch: from the click to the frame in which the other page's title stands and its script has ended.
- Scene to scene: from the key press to the frame in which the other scene's title and its picture stand and
  its script has ended.
- First page: from the start of a browser's first navigation to the frame that has a title and a chart.
- The report: the same, of a file, without a network.
- The cloud: frames that Chromium's own trace has as presented while the cloud turns, is shaded and is cut,
  and what they take of the main thread.

All of them depend on how busy the machine is, which is told beside them. Whoever names parts, such as
``cloud``, measures these alone.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from serving import Server, chromium, context_of, go, measure, serving, settle, visit

from app.report import build_report
from app.story import SCENES
from slicing.studies.store import bundled_run

SAMPLES = 40
PAGES = ("Profile", "Tune", "Compare", "Play", "Study", "Runs", "Model", "Make it smaller")
ARM = """kind => {
  window.answered = new Promise((resolve, reject) => {
    let begun = null;
    setTimeout(() => reject(`nothing answers this ${kind}`), 60000);
    const begin = () => { begun ??= performance.now(); };
    document.addEventListener(kind === "slider" ? "keydown" : kind, begin, {once: true, capture: true});
    const pictures = () => [...document.querySelectorAll(
      ".js-plotly-plot .main-svg:first-of-type, .slicescope-cloud, .slicescope-dial")];
    const inked = () => pictures().map(each => each.dataset.stage ?? each.innerHTML.length).join();
    const state = kind === "slider"
      ? () => [...document.querySelectorAll("[data-testid=stMetricValue]")].map(each => each.innerText).join()
      : () => document.querySelector("h1")?.innerText;
    const bars = () => [...document.querySelectorAll(".js-plotly-plot .bars .point path")]
      .map(each => each.getAttribute("d")).join();
    const before = state(), barsBefore = bars(), inkBefore = inked();
    const look = () => {
      const idle = document.querySelector("[data-testid=stApp]").dataset.testScriptState === "notRunning";
      const done = {
        slider: () => bars() !== barsBefore,
        click: () => idle,
        keydown: () => idle && pictures().length === 1 && inked() !== inkBefore,
      }[kind]();
      if (begun !== null && state() && state() !== before && done) resolve(performance.now() - begun);
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
}"""
"""Keeps when the answer to the next key, or click, is on the screen."""
FIRST = """window.first = new Promise(resolve => {
  const look = () => {
    const title = document.querySelector("h1")?.innerText;
    const drawn = [...document.querySelectorAll(".js-plotly-plot .trace, figure.chart svg")]
      .some(each => each.getBoundingClientRect().height);
    if (title && drawn) resolve(performance.now());
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""
"""Keeps when a page has its first title and chart, in milliseconds since its navigation began."""
WATCHED = (
    *("benchmark", "cc", "blink.user_timing", "devtools.timeline"),
    "disabled-by-default-devtools.timeline",  # the tasks of every thread
)
"""Categories of Chromium's trace."""
FATES = ("STATE_PRESENTED_ALL", "STATE_PRESENTED_PARTIAL", "STATE_DROPPED", "STATE_NO_UPDATE_DESIRED")
"""What becomes of frames, in the words of the trace, best first; the last asked for nothing new."""
SCREENS = ((1280, 720), (1920, 1080))


def timed(page: Any, kind: str, act: Any) -> float:
    """Milliseconds from what was done to the answer on the screen."""
    page.evaluate(ARM, kind)
    act()
    return page.evaluate("() => window.answered")


def told(what: str, milliseconds: list[float]) -> None:
    """Median and 95th percentile in a line, and the load of the machine."""
    median, high = np.percentile(milliseconds, (50, 95))
    say(f"{what}: median {median:.0f} ms, 95 % {high:.0f} ms, {len(milliseconds)} samples")


def say(line: str) -> None:
    """Print a line with the load of the last minute, at once."""
    print(f"{line}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)  # noqa: T201


def slider(address: str, browser: Any) -> None:
    """The first slider of the Tune page."""
    page = visit(browser, f"{address}/tune", viewport={"width": 1280, "height": 900})
    slider = page.get_by_role("slider", name="Target (SP)")
    keys = ["ArrowRight"] * (SAMPLES // 2) + ["ArrowLeft"] * (SAMPLES // 2)
    slider.focus()
    moved = []
    for key in keys:
        moved.append(timed(page, "slider", lambda key=key: page.keyboard.press(key)))
        settle(page)
    told("slider to screen", moved)
    page.context.close()


def pages(address: str, browser: Any) -> None:
    """From each page to the next."""
    page = visit(browser, f"{address}/tune", viewport={"width": 1280, "height": 900})
    switched: dict[str, list[float]] = {}
    for _ in range(6):
        for name in PAGES:
            link = page.get_by_test_id("stTopNavLink").filter(has_text=name)
            switched.setdefault(name, []).append(timed(page, "click", link.click))
            settle(page)
    for name, values in switched.items():
        told(f"page switch to {name}", values)
    told("page switch", [value for values in switched.values() for value in values])
    page.context.close()


def scenes(address: str, browser: Any) -> None:
    """From each scene of the talk to the next, there and back, twice."""
    page = visit(browser, f"{address}/?present=1&step=1", viewport={"width": 1280, "height": 720})
    page.locator(".slicescope-cloud canvas").first.wait_for()
    moved = []
    for key in 2 * ["ArrowRight", "ArrowLeft"]:
        for _ in range(len(SCENES) - 1):
            page.wait_for_timeout(300)  # the room looks
            moved.append(timed(page, "keydown", lambda key=key: page.keyboard.press(key)))
            settle(page)
    told("scene to scene", moved)
    page.context.close()


def first(server: Server, samples: int = 8) -> None:
    """The bare address in a browser that was started for it, which has stored nothing."""
    took, worked = [], []
    for _ in range(samples):
        with chromium() as browser:
            page = context_of(browser, viewport={"width": 1280, "height": 800}).new_page()
            page.add_init_script(FIRST)
            before = processor_time(server)
            page.goto(server.address)
            took.append(page.evaluate("() => window.first"))
            worked.append(1000 * (processor_time(server) - before))
    told("first page in a cold browser", took)
    told("processor time of server and browser for it", worked)


def processor_time(server: Server) -> float:
    """Seconds that the server and the browser have computed; other programs do not make them longer."""
    engines = {engine.pid for engine in server.engines()}
    found = 0.0
    for each in psutil.Process().children(recursive=True):
        if each.pid not in engines:
            with suppress(psutil.NoSuchProcess):
                found += sum(each.cpu_times()[:2])
    return found


def report(browser: Any, folder: Path, samples: int = 10) -> None:
    """The report of the run that ships."""
    file = folder / "report.html"
    file.write_text(build_report(bundled_run()))
    took = []
    for _ in range(samples):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True, bypass_csp=True)
        page = context.new_page()
        page.add_init_script(FIRST)
        page.goto(file.as_uri())
        took.append(page.evaluate("() => window.first"))
        context.close()
    told(f"report of {file.stat().st_size / 1e6:.2f} MB opens offline", took)


def cloud(address: str, browser: Any) -> None:
    """The cloud in the talk, from askew to cut in one go, by Chromium's trace."""
    for width, height in SCREENS:
        page = visit(browser, f"{address}/?present=1&step=3", viewport={"width": width, "height": height})
        page.locator(".slicescope-cloud canvas").first.wait_for()
        rest(page)
        browser.start_tracing(page=page, categories=list(WATCHED))
        page.evaluate(
            "() => { const {live} = window.slicescopeCloud; performance.mark('cloud begins');"
            " live.pose = {turn: 0, shade: 0, cut: 0}; live.go({turn: 1, shade: 1, cut: 1}, 0); }"
        )
        page.wait_for_timeout(500)
        rest(page)
        page.evaluate("performance.mark('cloud ends')")
        say(f"cloud at {width} x {height}: {frames(json.loads(browser.stop_tracing())['traceEvents'])}")
        page.context.close()


def rest(page: Any) -> None:
    """Wait until the cloud stands."""
    while page.evaluate("window.slicescopeCloud?.moving !== false"):
        page.wait_for_timeout(100)


def frames(events: list[dict[str, Any]]) -> str:
    """Tell what a trace has between its two marks.

    A frame that was due is presented with what was drawn, presented without it since that came too late, or
    dropped. Times on the main thread are of its processor, so that other programs do not count.
    """
    begin, end = (
        next(each for each in events if each["name"] == f"cloud {word}") for word in ("begins", "ends")
    )
    within = [
        each for each in events if begin["ts"] <= each["ts"] <= end["ts"] and each["pid"] == begin["pid"]
    ]
    fate: dict[int, str] = {}
    for each in within:
        told = each.get("args", {}).get("frame_reporter", {})
        state, number = told.get("state", ""), told.get("frame_sequence")
        if number is not None and FATES.index(state) < FATES.index(fate.get(number, FATES[-1])):
            fate[number] = state
    assert fate, "The trace of this Chromium tells of no frames."
    count = Counter(fate.values())
    due = sum(count.values()) - count[FATES[-1]]
    main = [each for each in within if each["tid"] == begin["tid"] and "tdur" in each]
    drawn = sorted(each["tdur"] / 1000 for each in main if each["name"] == "FireAnimationFrame")
    all_of_it = sum(each["tdur"] for each in main if each["name"] == "RunTask") / 1000
    seconds = (end["ts"] - begin["ts"]) / 1e6
    median, high = np.percentile(drawn, (50, 95))
    return (
        f"{count[FATES[0]] / seconds:.0f} frames a second presented with what was drawn, "
        f"{count[FATES[1]] / due:.0%} without it and {count[FATES[2]] / due:.0%} dropped of {due} in "
        f"{seconds:.1f} s; script median {median:.2f} ms, 95 % {high:.2f} ms of {len(drawn)} frames, "
        f"all work of the main thread {all_of_it / len(drawn):.2f} ms a frame"
    )


def preview(address: str, browser: Any) -> None:
    """The perplexity of a plan, on a profile that is made first."""
    page = visit(browser, f"{address}/profile", viewport={"width": 1280, "height": 900})
    measure(page, 8, 512)
    page.get_by_text("Done: Profile").wait_for(timeout=300_000)
    go(page, "Tune")
    page.get_by_text("Preview in").wait_for(timeout=300_000)  # the first also reads the bases
    previews = []
    for _ in range(6):
        page.get_by_role("slider", name="Target (SP)").press("ArrowRight")
        begun = time.perf_counter()
        page.get_by_text("measuring").first.wait_for()
        page.get_by_text("Preview in").wait_for(timeout=300_000)
        previews.append(1000 * (time.perf_counter() - begun))
    told("slider to previewed perplexity", previews)
    page.context.close()


def main(asked: list[str]) -> None:
    """Measure on the run that ships; the preview on a profile that is made first."""
    with tempfile.TemporaryDirectory() as home, serving(Path(home)) as server:
        address = server.address
        if not asked or "first" in asked:
            first(server)
        with chromium() as browser:
            for part in (slider, pages, scenes, cloud, preview):
                if not asked or part.__name__ in asked:
                    part(address, browser)
            if not asked or "report" in asked:
                report(browser, Path(home))


if __name__ == "__main__":
    main(sys.argv[1:])
