"""How quickly the app answers, measured in a real browser on the demo: ``make timings``. Not a test.

Slider to screen: from the key press to the frame in which the numbers and the bars have changed. Page switch:
from the click to the frame in which the other page's title stands and its script has ended.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from serving import chromium, go, serving, settle, visit

SAMPLES = 40
ARM = """kind => {
  window.answered = new Promise(resolve => {
    let begun = null;
    const begin = () => { begun ??= performance.now(); };
    document.addEventListener(kind, begin, {once: true, capture: true});
    const state = kind === "keydown"
      ? () => [...document.querySelectorAll("[data-testid=stMetricValue]")].map(each => each.innerText).join()
      : () => document.querySelector("h1")?.innerText;
    const bars = () => [...document.querySelectorAll(".js-plotly-plot .bars .point path")]
      .map(each => each.getAttribute("d")).join();
    const before = state(), barsBefore = bars();
    const look = () => {
      const idle = document.querySelector("[data-testid=stApp]").dataset.testScriptState === "notRunning";
      const done = kind === "keydown" ? bars() !== barsBefore : idle;
      if (begun !== null && state() && state() !== before && done) resolve(performance.now() - begun);
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
}"""


def timed(page: Any, kind: str, act: Any) -> float:
    """Milliseconds from what was done to the answer on the screen."""
    page.evaluate(ARM, kind)
    act()
    return page.evaluate("() => window.answered")


def told(what: str, milliseconds: list[float]) -> None:
    """Median and 95th percentile in a line."""
    median, high = np.percentile(milliseconds, (50, 95))
    print(f"{what}: median {median:.0f} ms, 95 % {high:.0f} ms, {len(milliseconds)} samples")  # noqa: T201


def main() -> None:
    """Measure on the run that ships; the preview on a profile that is made first."""
    with (
        tempfile.TemporaryDirectory() as home,
        serving(Path(home)) as server,
        chromium() as browser,
    ):
        page = visit(browser, f"{server.address}/tune", viewport={"width": 1280, "height": 900})
        slider = page.get_by_role("slider", name="Target (SP)")
        keys = ["ArrowRight"] * (SAMPLES // 2) + ["ArrowLeft"] * (SAMPLES // 2)
        slider.focus()
        moved = []
        for key in keys:
            moved.append(timed(page, "keydown", lambda key=key: page.keyboard.press(key)))
            settle(page)
        told("slider to screen", moved)
        switched: dict[str, list[float]] = {}
        for _ in range(6):
            for name in ("Profile", "Tune", "Compare", "Study", "Runs", "Model"):
                link = page.get_by_test_id("stTopNavLink").filter(has_text=name)
                switched.setdefault(name, []).append(timed(page, "click", link.click))
                settle(page)
        for name, values in switched.items():
            told(f"page switch to {name}", values)
        told("page switch", [value for values in switched.values() for value in values])
        go(page, "Profile")
        page.get_by_role("button", name="Measure", exact=True).click()
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


if __name__ == "__main__":
    main()
