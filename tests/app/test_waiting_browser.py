"""What the tests in a browser wait with: a page is at rest once it shows the answer to what was done last."""

from __future__ import annotations

from typing import Any

import pytest
from serving import MISSING, Wire, context_of, settle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def test_a_page_is_not_at_rest_before_a_busy_server_has_answered(address: str, browser: Any) -> None:
    wire = Wire()
    page = context_of(browser, wire).new_page()
    page.goto(f"{address}/notes")
    settle(page)
    wire.late = True
    page.get_by_test_id("stTopNavLink").filter(has_text="Runs").click()
    page.on("console", lambda said: wire.release() if said.text == "answer" else None)
    page.evaluate("setTimeout(console.log, 1500, 'answer')")
    settle(page)
    assert not wire.late
    assert page.locator("h1").all_inner_texts() == ["What has been run?"]
    page.context.close()
