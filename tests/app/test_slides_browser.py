"""The slides on paper: one page each, whole, whatever screen and theme they are printed from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from serving import MISSING, Server, eventually, look

from app.story import SCENES
from slicing.studies.results import Run
from slicing.studies.store import BUNDLED_RUN, bundled_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
COUNT = len(SCENES)


def opened(address: str, browser: Any, scheme: str, width: int, query: str = "") -> Any:
    page = look(browser, f"{address}/slides{query}", width, 800, color_scheme=scheme)
    page.locator(f".st-key-slide-{COUNT} .slicescope-sizes").wait_for()
    page.locator(".js-plotly-plot .main-svg").nth(COUNT - 2).wait_for()
    return page


@pytest.mark.parametrize(("scheme", "width", "others"), [("light", 1280, ()), ("dark", 400, (1000, 1400))])
def test_every_slide_is_one_page_and_nothing_is_cut_off_on_paper_and_on_every_screen(
    address: str, browser: Any, scheme: str, width: int, others: tuple[int, ...]
) -> None:
    page = opened(address, browser, scheme, width)
    charts_are_as_wide_as_their_slides(page, width)
    printed = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) == COUNT
    assert set(re.findall(rb"/MediaBox\s*\[([^\]]*)\]", printed)) == {
        b"0 0 960 540"
    }  # 1280 x 720 px in points
    require_whole(page)
    page.emulate_media(media="null")
    for other in others:
        page.set_viewport_size({"width": other, "height": 800})
        charts_are_as_wide_as_their_slides(page, other)
    page.locator(".slicescope-print[data-begun]").wait_for()  # once its script has run
    page.evaluate("window.print = () => { window.printed = true; }")
    page.get_by_role("button", name="Print, or save as PDF").click()
    assert page.evaluate("window.printed")


def charts_are_as_wide_as_their_slides(page: Any, width: int) -> None:
    def as_wide(number: int) -> bool:
        slide = page.locator(f".st-key-slide-{number}")
        frame, chart = slide.bounding_box(), slide.locator(".main-svg").first.bounding_box()
        return 0.9 * frame["width"] < chart["width"] and frame["width"] <= width

    for number in (1, 4, 5):
        eventually(page, lambda number=number: as_wide(number), f"the chart of slide {number} is as wide")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def require_whole(page: Any) -> None:
    """Check that every slide holds all its parts when it is printed, dark on white whatever the theme."""
    page.emulate_media(media="print")
    for number, scene in enumerate(SCENES, start=1):
        slide = page.locator(f".st-key-slide-{number}")
        frame = slide.bounding_box()
        assert (frame["width"], frame["height"]) == (1280, 720)
        parts = slide.locator("h2, .stMarkdown, .katex-display, .main-svg, .slicescope-sizes, p").all()
        for part in parts:
            box = part.bounding_box()
            if box:  # an empty reason has none
                assert box["y"] >= frame["y"] and box["y"] + box["height"] <= frame["y"] + 710, scene.title
                assert box["x"] >= frame["x"] and box["x"] + box["width"] <= frame["x"] + 1270, scene.title
        colour = slide.locator(".stMarkdown p").first.evaluate("each => getComputedStyle(each).color")
        assert colour == "rgb(16, 21, 27)"


def long_run() -> Run:
    """The comparison that ships, of a model and of texts with names as long as some have."""
    run = bundled_run()
    assert run.result.kind == "study"
    text = "an-organisation/a-collection-of-web-pages, sample of ten billion tokens, train split, column text"
    named = {
        "profile": run.result.profile.model_copy(
            update={"model": f"{40 * 'very-long-'}name", "text": f"{text} (calibration)"}
        ),
        "calibration": run.result.calibration.model_copy(update={"label": f"{text} (calibration)"}),
        "evaluation": run.result.evaluation.model_copy(update={"label": f"{text} (evaluation)"}),
    }
    return run.model_copy(update={"result": run.result.model_copy(update=named)})


def test_long_names_stay_on_their_slides(tmp_path: Path, shipped_server: Server, browser: Any) -> None:
    run = long_run()
    folder = tmp_path / "runs" / run.key
    shutil.copytree(BUNDLED_RUN, folder)
    (folder / "run.json").write_text(run.to_json(), encoding="utf-8")
    with shipped_server.lent(tmp_path / "runs"):
        page = opened(shipped_server.address, browser, "light", 1280, f"?compare={run.key}")
        assert "very-long-" in page.locator(".st-key-slide-1 [data-testid=stCaptionContainer]").inner_text()
        require_whole(page)


def test_the_notes_lead_to_the_slides(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/notes")
    page.get_by_role("link", name="Slides to print, or as PDF").click()
    page.get_by_role("heading", name="Slides to print").wait_for()
