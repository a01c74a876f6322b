"""One model for each session, in a real browser: every form runs what the header says, in every tab."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from serving import MISSING, Wire, context_of, go, measure, served, settle, unfold, visit

from slicing.studies.store import find_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
DEMO, OWN = "SmolLM2-135M-Instruct (demo)", "my-tiny"
ONLY_NAMED = ("Make it smaller", "Study", "Runs")
"""The pages that the walk through all of them only passes."""
SMALL = {"viewport": {"width": 1280, "height": 800}}
MINUTES = 240_000  # ms: what a busy machine may need for what takes seconds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny_model("llama", num_hidden_layers=10).save_pretrained(home / OWN)
    byte_tokenizer().save_pretrained(home / OWN)
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with served(home) as address:
        yield address


def model_of(page: Any) -> str:
    """The name of the model in the strip above the page."""
    return page.locator(".st-key-model-switch button").first.inner_text().split("\n")[-2:][0]


def named(page: Any, name: str) -> None:
    page.locator(".st-key-model-switch button").filter(has_text=name).first.wait_for()


def open_page(page: Any, name: str) -> None:
    page.get_by_test_id("stTopNavLink").filter(has_text=name).click()
    page.mouse.move(2, 500)
    settle(page)


def open_switch(page: Any) -> None:
    page.locator(".st-key-model-switch button").first.click()
    page.get_by_text("Work on another model:").wait_for()


def load_own(page: Any, home: Path) -> None:
    """Name the folder in the switch, look at its card, and load it."""
    open_switch(page)
    page.get_by_label("Another: a path or owner/name").fill(str(home / OWN))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="See what it is").click()
    page.get_by_role("heading", name=OWN).wait_for()
    named(page, DEMO)  # nothing has been loaded by looking
    page.get_by_role("button", name="Load", exact=True).click()
    named(page, OWN)
    page.get_by_text("open on cpu, float32").first.wait_for(timeout=MINUTES)


def run_button(page: Any, label: str) -> Any:
    return page.get_by_role("button", name=re.compile(rf"^{label}( on .*)?$"))


def test_what_is_loaded_is_what_every_page_names_and_every_form_runs(
    address: str, browser: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(browser, f"{address}/model", **SMALL)
    load_own(page, home)
    for name in ONLY_NAMED:
        open_page(page, name)
        named(page, OWN)
    assert "model=" in page.url

    go(page, "Compare")
    named(page, OWN)
    unfold(page, "Set up a comparison")
    assert run_button(page, "Compare").inner_text().endswith(f"Compare on {OWN}")
    page.get_by_text(f"This is a run of {DEMO}. Forms run {OWN}").wait_for()
    go(page, "Tune")
    named(page, OWN)
    assert run_button(page, "Compare with constant").inner_text().endswith(f"on {OWN}")

    go(page, "Profile")
    named(page, OWN)
    measure(page, 2, 32)
    page.get_by_text("Done: Profile").wait_for(timeout=MINUTES)
    page.wait_for_url("**profile=**")
    settle(page)
    monkeypatch.setenv("SLICESCOPE_HOME", str(home))
    key = re.findall(r"profile=(\w+)", page.url)[0]
    assert find_run(key).request.model.label == OWN
    assert page.get_by_text("This is a run of").count() == 0
    page.reload()
    settle(page)
    named(page, OWN)

    # A comparison on the demo's page runs the session's model, as its button says.
    go(page, "Compare")
    unfold(page, "Set up a comparison")
    for label, value in (
        ("of which profiled", "2"),
        ("Window length, tokens", "32"),
        ("Tokens to generate", "0"),
    ):
        page.get_by_label(label, exact=True).fill(value)
    for place in range(2):
        page.get_by_label("Windows", exact=True).nth(place).fill("2")
    run_button(page, "Compare").click()
    page.get_by_text("Done: Compare").wait_for(timeout=MINUTES)
    page.wait_for_url("**compare=**")
    key = re.findall(r"compare=(\w+)", page.url)[0]
    assert find_run(key).request.model.label == OWN
    page.context.close()


def test_two_tabs_have_a_model_each(address: str, browser: Any, home: Path) -> None:
    first = visit(browser, f"{address}/model", **SMALL)
    open_switch(first)
    first.get_by_role("button", name=re.compile(rf"^\W*\w*\W*{OWN}")).first.click()
    named(first, OWN)
    second = visit(browser, f"{address}/profile", **SMALL)
    named(second, DEMO)
    open_switch(second)
    second.get_by_role("button", name=OWN).first.click()  # one click, though it is open already
    named(second, OWN)
    settle(second)
    unfold(second, f"Measure {OWN}")
    assert run_button(second, "Measure").count() == 1
    open_switch(second)
    second.get_by_role("button", name=DEMO).last.click()
    named(second, DEMO)
    go(first, "Profile")
    named(first, OWN)  # the other tab's click changed nothing here
    for page in (first, second):
        page.context.close()


def test_one_click_makes_the_model_of_a_run_that_is_shown_the_model(address: str, browser: Any) -> None:
    page = visit(browser, f"{address}/compare?model=demo", **SMALL)
    open_switch(page)
    page.get_by_role("button", name=OWN).first.click()
    named(page, OWN)
    open_page(page, "Study")
    page.get_by_role("button", name=f"Work on {DEMO}").click()
    named(page, DEMO)
    settle(page)
    assert page.get_by_text("This is a run of").count() == 0
    page.context.close()


def test_an_address_that_names_no_model_is_told_and_another_is_used(address: str, browser: Any) -> None:
    page = visit(browser, f"{address}/profile?model=/nowhere/at/all", **SMALL)
    named(page, DEMO)
    page.get_by_text("lies outside what this server may read").wait_for()
    page.context.close()


def test_what_the_page_before_asked_for_too_late_does_not_clear_the_page(address: str, browser: Any) -> None:
    """A busy machine is late: the strip of the page before asks to be drawn anew when that page was left."""
    wire = Wire()
    context = context_of(browser, wire, **SMALL)
    page = context.new_page()
    page.goto(f"{address}/runs")
    settle(page)
    for _ in range(60):  # the strip asks every five seconds
        if asked := wire.asked_by_itself():
            break
        page.wait_for_timeout(500)
    go(page, "Model")
    wire.servers[-1].send(asked[0])
    page.wait_for_timeout(2_000)  # for what must not happen
    settle(page)
    assert page.url.split("?")[0].endswith("/model")
    page.get_by_role("heading", name="Which model?").wait_for(timeout=5_000)
    page.get_by_role("button", name="Load", exact=True).wait_for(timeout=5_000)
    context.close()
