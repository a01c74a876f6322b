"""What the tests in a browser stand on: a page at rest shows the answer to what was done last; free ports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving import MISSING, Wire, context_of, eventually, free_port, settle

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


def test_what_a_page_asks_by_itself_keeps_nobody_waiting(address: str, browser: Any) -> None:
    wire = Wire()
    page = context_of(browser, wire).new_page()
    page.goto(f"{address}/runs")
    settle(page)
    wire.late = True
    eventually(page, lambda: bool(wire.asked_by_itself()), "the strip asks, as it does every five seconds")
    settle(page)
    page.context.close()


RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.skipif(not RANGE.exists(), reason="the system does not say which ports it hands out")
def test_the_port_of_a_server_is_given_to_no_connection() -> None:
    lowest, highest = map(int, RANGE.read_text().split())
    assert all(not lowest <= free_port() <= highest for _ in range(100))
