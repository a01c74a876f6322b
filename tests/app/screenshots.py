"""Take the pictures in ``assets/screenshots`` anew: ``make screenshots``. Not a test.

Serves the app with the runs that ship, so that the pictures show what everybody sees first.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from serving import chromium, eventually, serving, settle, visit

from slicing.studies.store import BUNDLED_BOARD, BUNDLED_CONTEST, BUNDLED_RUN, BUNDLED_SWEEP, load_run

FOLDER = Path(__file__).parents[2] / "assets" / "screenshots"
PAGES = {
    "shrink": "shrink",
    "model": "model",
    "profile": "profile",
    "near": "profile?near=Depth+by+depth",
    "tune": "tune",
    "compare": "compare",
    "study-map": "study?study=demo-map",
    "study-ranking": "study?study=demo-ranking",
    "study-frontier": "study?study=demo-frontier",
    "runs": "runs",
    **{f"talk-{step}": f"?present=1&step={step}" for step in range(1, 13)},
}
WITHOUT_CHART = ("model", "runs", "talk-12")
NARROW = (
    "shrink",
    "profile",
    "tune",
    "compare",
    "study-map",
    "study-ranking",
    "study-frontier",
    "runs",
    "talk-3",
    "talk-6",
)


def main() -> None:
    """One picture of each page in light and in dark, some of them as on a phone too."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, chromium() as browser:
        for folder in (BUNDLED_RUN, BUNDLED_SWEEP, BUNDLED_CONTEST, BUNDLED_BOARD):
            shutil.copytree(folder, Path(home, "runs", load_run(folder).key))
        with serving(Path(home)) as server:
            for scheme in ("light", "dark"):
                for name, path in PAGES.items():
                    take(
                        browser,
                        f"{server.address}/{path}",
                        name,
                        scheme,
                        1280,
                        720 if "talk" in name else 1000,
                    )
                for name in NARROW:
                    take(browser, f"{server.address}/{PAGES[name]}", f"{name}-narrow", scheme, 400, 800)


def take(browser: Any, address: str, name: str, scheme: str, width: int, height: int) -> None:
    """Take a picture of what the screen shows first; of a study on a phone, below the form, of the chart."""
    page = visit(browser, address, color_scheme=scheme, viewport={"width": width, "height": height})
    if not name.startswith(WITHOUT_CHART):
        page.locator(".js-plotly-plot, .slicescope-cloud canvas").first.wait_for()
    if name == "near":
        page.get_by_text("From near").scroll_into_view_if_needed()
        page.mouse.wheel(0, 620)
    if name.startswith("study") and "narrow" in name:
        page.locator(".js-plotly-plot").first.evaluate("chart => chart.scrollIntoView({block: 'center'})")
    settle(page)
    # What a part of the page loads by itself, as charts do, has a grey field in its place until it is there.
    eventually(page, lambda: page.get_by_test_id("stSkeleton").count() == 0, "all of the page is drawn")
    page.wait_for_timeout(1500)  # transitions
    page.screenshot(path=FOLDER / f"{name}-{scheme}.png")
    page.context.close()


if __name__ == "__main__":
    main()
