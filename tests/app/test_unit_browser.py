"""A click on the map of what units cost, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving import MISSING, Server, look, place_of, settle
from unit_stand_in import units_run

from analysis.storage import runs_folder

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def test_a_click_on_a_cell_chooses_the_block_and_leads_to_its_tokens(
    tmp_path: Path, shipped_server: Server, browser: Any
) -> None:
    run = units_run(tmp_path)
    with shipped_server.lent(runs_folder()):
        page = look(browser, f"{shipped_server.address}/profile?profile={run.key}&near=Units")
        chart = page.locator(".st-key-units .js-plotly-plot")
        chart.wait_for()
        page.locator(".js-plotly-plot").nth(3).wait_for()
        settle(page)
        page.get_by_text("From near").evaluate("heading => heading.scrollIntoView({block: 'start'})")
        box = place_of(page, chart.locator(".nsewdrag").first)
        # Three blocks and five parts: the second block's KV heads.
        page.mouse.click(box["x"] + box["width"] * 1.5 / 3, box["y"] + box["height"] * 1.5 / 5)
        page.get_by_text("Block 1, attention: cost while its units go").wait_for()
        page.get_by_text("Window 0, as block 1 changes it").wait_for()
