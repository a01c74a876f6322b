"""The half of the Tune page that cuts inside blocks, without a browser: costs are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from board_stand_in import CHANNELS, with_units
from desk import Desk, charts, press, seated, words
from idle_app import page

from analysis.errors import UnsupportedError
from app import inside, proposal, shipped, state
from app.inside import COMPARED
from app.policy import Policy
from app.wording import first_blocks
from slicing.inner.costs import BranchCosts, UnitCosts, UnitCurve, predicted_cost, widths_at
from slicing.studies.results import ProfileResult
from slicing.studies.store import bundled_run

BLOCKS = 30
INSIDE = "Cut inside blocks"


def made_up(measured: int = 0) -> UnitCosts:
    """The later a block, the less its channels cost; attentions have no units that can go."""
    gone = tuple(range(8, CHANNELS, 8))
    return UnitCosts(
        blocks=tuple(
            (
                BranchCosts(row=0, kind="attention", whole=1.0),
                BranchCosts(
                    row=1,
                    kind="mlp",
                    channels=UnitCurve(
                        count=CHANNELS,
                        gone=gone,
                        costs=tuple((BLOCKS - block) * (each / CHANNELS) ** 2 / 100 for each in gone),
                    ),
                    whole=1.0,
                ),
            )
            for block in range(BLOCKS)
        ),
        windows=8,
        window_length=512,
        curvature_windows=8,
        measured_windows=measured,
        seconds=1.0,
    )


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> UnitCosts:
    """Let the bundled run be a profile with these costs."""
    run, found = bundled_run(), made_up()
    assert run.result.kind == "study"
    result = ProfileResult(
        profile=run.result.profile,
        shape=with_units(run.result.shape),
        not_sliceable=None,
        text=run.result.calibration,
        units=found,
    )
    changed = run.model_copy(update={"request": proposal.with_units(run), "result": result})
    monkeypatch.setattr(shipped, "bundled_run", lambda: changed)
    return found


@pytest.fixture
def _no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inside.costs_inside", lambda run: None)


def test_the_demo_that_ships_has_its_picture_at_once(desk: Desk) -> None:
    assert charts(page("tune", cut=INSIDE)) == ["body"]


@pytest.mark.usefixtures("_no_costs")
def test_without_costs_there_is_a_sentence_and_a_way_to_measure_them(desk: Desk) -> None:
    app = page("tune", cut=INSIDE)
    assert "does not hold" in words(app) and charts(app) == []
    press(app, "Measure the costs")
    app.toggle(key="measure-branches").set_value(True).run()
    press(app, "Measure the costs")
    asked: Any = desk.tasks
    assert [(each.kind, each.units, each.units_measured) for each in asked] == [
        ("profile", True, False),
        ("profile", True, True),
    ]
    assert asked[0].model == bundled_run().request.model


@pytest.mark.usefixtures("_no_costs")
def test_strangers_are_not_offered_what_takes_long(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "enforced", lambda: Policy.demo())
    app = page("tune", cut=INSIDE)
    assert "measure-branches" not in [each.key for each in app.toggle]
    press(app, "Measure the costs")
    assert len(desk.tasks) == 1


def test_the_slider_is_answered_with_a_picture_and_sizes(desk: Desk, costs: UnitCosts) -> None:
    app = page("tune")
    assert charts(app) == ["plan", "along"]
    app.segmented_control(key="cut").set_value("inside").run()
    assert charts(app) == ["body"] and not app.error
    run = shipped.bundled_run()
    assert run.result.shape is not None
    for percent in (10, 40):
        app.slider(key="fewer").set_value(percent).run()
        assert not app.exception
        size = round(run.result.shape.parameters * (1 - percent / 100))
        nats = predicted_cost(costs, widths_at(costs, run.result.shape, size))
        assert f"{nats:+.3f} nats per token" in words(app)
        shown = {metric.label: metric for metric in app.metric}
        assert shown["Parameters"].delta == f"−{percent}.0\N{NO-BREAK SPACE}%"
        assert shown["Parameters"].value == f"{size / 1e6:.1f} M"
        assert shown["Cache of 4,096 tokens"].delta == "0.0\N{NO-BREAK SPACE}%"
    assert "Attention keeps 100.0\N{NO-BREAK SPACE}% of its parameters." in words(app)
    assert "predictions are low" in words(app)
    press(app, "Measure attentions and MLPs too")
    (asked,) = desk.tasks
    assert asked.kind == "profile" and asked.units_measured


def test_costs_that_are_measured_are_not_asked_for_again() -> None:
    assert "scaled to what was measured" in first_blocks(made_up(measured=8))
    assert "predictions are low" in first_blocks(made_up())


def test_an_address_opens_the_page_as_it_was(desk: Desk, costs: UnitCosts) -> None:
    app = page("tune", cut=INSIDE, fewer="35")
    assert app.slider(key="fewer").value == 35
    assert charts(app) == ["body"]


def test_a_comparison_at_the_size_is_queued(desk: Desk, costs: UnitCosts) -> None:
    app = page("tune", cut=INSIDE, fewer="25")
    assert any("size = [" in code.value for code in app.code)
    press(app, "Compare at this size")
    (study,) = desk.tasks
    shape = shipped.bundled_run().result.shape
    assert shape is not None
    assert [each.line for each in study.recipes] == list(COMPARED)
    assert [each.line for each in study.budgets] == [f"size={round(0.75 * shape.parameters)}"]
    assert study.view == "ranking" and study.model == bundled_run().request.model


def test_a_size_that_cannot_be_reached_is_a_sentence(desk: Desk, costs: UnitCosts) -> None:
    app = page("tune", cut=INSIDE, fewer="60")
    (error,) = app.error
    assert "All that can go inside the blocks is" in error.value
    assert charts(app) == [] and desk.tasks == []
    app.slider(key="fewer").set_value(20).run()
    assert charts(app) == ["body"] and not app.error


def test_what_cannot_be_compared_is_a_sentence_beside_the_picture(
    desk: Desk, costs: UnitCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UnsupportedError("No such units.")

    monkeypatch.setattr(inside, "check_study", refuse)
    app = page("tune", cut=INSIDE)
    assert charts(app) == ["body"]
    assert [warning.value for warning in app.warning] == ["No such units."]
    assert "Compare at this size" not in [button.label for button in app.button]


def test_a_plan_of_the_width_is_shown_as_one(desk: Desk, costs: UnitCosts) -> None:
    app = page("tune", cut=INSIDE)
    app.segmented_control(key="cut").set_value("width").run()
    app.slider(key="sp").set_value(31).run()
    app.segmented_control(key="cut").set_value("inside").run()
    app.segmented_control(key="cut").set_value("width").run()
    assert app.slider(key="sp").value == 31 and charts(app) == ["plan", "along"]
