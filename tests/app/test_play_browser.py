"""The Play page in a real browser: two tiny models write side by side, part, and can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from serving import MISSING, look, served, settle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a dense model and one whose last block adds less."""
    home = tmp_path_factory.mktemp("home")
    for name, share in (("dense", 1.0), ("small", -3.0)):
        model: Any = tiny_model("llama", max_position_embeddings=2048)
        with torch.no_grad():
            model.model.layers[-1].mlp.down_proj.weight.mul_(share)
        model.save_pretrained(home / name)
        byte_tokenizer().save_pretrained(home / name)
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    models = [word for name in ("dense", "small") for word in ("--allow-model", str(home / name))]
    with served(home, *models) as address:
        yield address


def play(browser: Any, address: str, home: Path, tokens: int) -> Any:
    page = look(browser, f"{address}/play?beside=Another+folder", 1280, 800)
    page.get_by_role("textbox", name="Folder of the smaller model").fill(str(home / "small"))
    page.keyboard.press("Tab")
    settle(page)
    page.get_by_text("Length, temperature").click()
    page.get_by_label("Tokens to write").fill(str(tokens))
    page.keyboard.press("Tab")
    settle(page)
    page.get_by_label("Prompt", exact=True).fill("The state of")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="and the smaller model").wait_for()
    settle(page)
    return page


def test_two_models_write_and_part(address: str, browser: Any, home: Path) -> None:
    page = play(browser, address, home, 12)
    page.get_by_text("illustration, not evidence").first.wait_for()
    page.get_by_role("button", name="and the smaller model").click()
    page.get_by_text("What would the smaller model have said").wait_for(timeout=120_000)
    page.get_by_text(" of 12 places").wait_for()
    settle(page)
    assert page.get_by_text("They part at the first token").count() == 1
    both = page.get_by_role("region", name="What the")
    assert both.count() == 2
    left, right = both.nth(0).bounding_box(), both.nth(1).bounding_box()
    assert right["x"] > left["x"] + left["width"] and abs(right["y"] - left["y"]) < 2
    assert page.get_by_text("they part here").count() == 2
    assert "likeliest" in both.nth(0).locator("span[title]").first.get_attribute("title")
    page.get_by_text("Repeat it", exact=True).click()
    assert "slicescope generate" in page.get_by_test_id("stCode").inner_text()


def test_enter_starts_nothing_and_writing_can_be_stopped(address: str, browser: Any, home: Path) -> None:
    page = play(browser, address, home, 1000)
    page.get_by_label("Tokens to write").press("Enter")
    settle(page)
    assert page.get_by_role("button", name="Writing").count() == 0
    page.get_by_role("button", name="and the smaller model").click()
    stop = page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for()
    both = page.get_by_role("region", name="What the")
    both.nth(1).wait_for(timeout=120_000)
    came = both.nth(0).locator("span[title]").count()
    page.wait_for_function(
        "seen => document.querySelectorAll('[role=region] span[title]').length > seen + 4", arg=2 * came
    )
    stop.click()
    page.get_by_text("It was stopped").wait_for(timeout=60_000)
    assert both.nth(0).locator("span[title]").count() < 1000
