"""The report in a browser: it opens at once without a network, fits a phone, and has nothing grave."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
from serving import MISSING

from app.report import build_report
from slicing.studies.store import bundled_run

LACKING = MISSING + ([] if importlib.util.find_spec("axe_playwright_python") else ["axe-playwright-python"])
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
SECONDS = 5.0
"""On a machine that is busy; 0.3 to 0.7 s were measured on one that is not."""


def test_it_opens_offline_at_once_and_nothing_is_grave(browser: Any, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "report.html"
    file.write_text(build_report(bundled_run()))
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True, bypass_csp=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    start = time.perf_counter()
    page.goto(file.as_uri())
    assert time.perf_counter() - start < SECONDS
    assert asked == [file.as_uri()]
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            grave = [each for each in found if each["impact"] in ("moderate", "serious", "critical")]
            told = [(each["id"], node["target"]) for each in grave for node in each["nodes"]]
            assert told == [], (width, scheme)
