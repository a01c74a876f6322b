"""What units cost, as people see it: figures, tables, sentences, and the tab of the Profile page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk import Desk, charts, press, seated, words
from idle_app import page
from unit_stand_in import units_run

from analysis.shape import ModelShape, SublayerShape, UnitShape
from app import wording
from app.figures.base import DARK, LIGHT, Drawing
from app.figures.units import draw_unit_agreement, draw_unit_curve, draw_unit_map
from app.policy import Policy
from app.report import sections
from app.unit_tables import unit_agreement_table, unit_curve_table, unit_map_table, unit_table
from slicing.inner.costs import BranchCosts, UnitCosts, UnitCurve, part_cost
from slicing.studies.results import Run

D = 10
ATTENTION = SublayerShape(
    kind="attention",
    reader_rows=32,
    writer_columns=16,
    units=(
        UnitShape(kind="kv_groups", count=4, reader_rows=8, writer_columns=4),
        UnitShape(kind="value_pairs", count=8, reader_rows=1, writer_columns=2, parts=4),
    ),
)
MLP = SublayerShape(
    kind="mlp",
    reader_rows=16,
    writer_columns=8,
    units=(UnitShape(kind="channels", count=8, reader_rows=2, writer_columns=1),),
)
SHAPE = ModelShape(
    architecture="made-up", hidden_size=D, vocab_size=7, tied=True, blocks=((ATTENTION, MLP),) * 5
)


def curve(count: int, *costs: float) -> UnitCurve:
    return UnitCurve(count=count, gone=tuple(range(1, len(costs) + 1)), costs=costs)


def branches(scale: float, attention: float, mlp: float) -> tuple[BranchCosts, BranchCosts]:
    """The two of a block; measured is so many times what is predicted."""
    rises = tuple(scale * each for each in (0.01, 0.02, 0.03))
    return (
        BranchCosts(
            row=0,
            kind="attention",
            kv_groups=curve(4, *rises),
            order=(3, 1, 0, 2),
            value_pairs=tuple(curve(2, scale * 0.001 * each) for each in range(1, 5)),
            whole=scale,
            measured=scale * attention,
            paired=scale * attention * 0.9,
        ),
        BranchCosts(
            row=1,
            kind="mlp",
            channels=curve(8, *(scale * 0.1 * each for each in range(1, 8))),
            whole=scale * 2.0,
            measured=scale * 2.0 * mlp,
            paired=scale * 2.0 * mlp * 0.9,
        ),
    )


COSTS = UnitCosts(
    blocks=(
        branches(0.5, 9.0, 3.0),
        branches(0.01, 1.0, 1.0),
        branches(0.02, 1.5, 1.0),
        branches(0.04, 0.9, 1.0),
        branches(0.08, 1.1, 0.2),
    ),
    windows=8,
    window_length=512,
    curvature_windows=8,
    measured_windows=4,
    seconds=1.0,
)


# Numbers


def test_a_part_costs_what_its_curve_says_and_saves_what_the_shape_says():
    attention, heads, values, mlp, channels = (
        part_cost(COSTS, SHAPE, 1, part, 0.25)
        for part in ("attention", "kv_groups", "value_pairs", "mlp", "channels")
    )
    assert attention and heads and values and mlp and channels
    assert (attention.cost, attention.saved, attention.gone) == (0.01, (32 + 16 + 1) * D, None)
    assert (heads.gone, heads.units, heads.cost, heads.saved) == (1, 4, 0.0001, (8 + 4) * D)
    assert (values.gone, values.units, values.saved) == (1, 2, 4 * 3 * D)
    assert values.cost == pytest.approx(0.01 * 0.001 * (1 + 2 + 3 + 4))
    assert (mlp.cost, mlp.saved) == (0.02, (16 + 8 + 1) * D)
    assert (channels.gone, channels.saved) == (2, 2 * 3 * D)
    assert channels.per_million == pytest.approx(0.01 * 0.2 / (6 * D) * 1e6)


def test_branches_side_by_side_save_their_own_units_alone():
    both = ATTENTION.model_copy(update={"kind": "parallel", "units": (*ATTENTION.units, *MLP.units)})
    shape = SHAPE.model_copy(update={"blocks": ((both,),) * 5})
    beside = tuple(tuple(branch.model_copy(update={"row": 0}) for branch in block) for block in COSTS.blocks)
    costs = COSTS.model_copy(update={"blocks": beside})
    saved = [each.saved for each in costs.parts(shape, 0.25) if each.units is None][:2]
    assert saved == [4 * (8 + 4) * D, 8 * (2 + 1) * D]


# Figures


def cells(drawing: Drawing) -> np.ndarray:
    return 10.0 ** np.asarray(drawing.figure.data[0].z)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_map_shows_every_part_of_every_block(theme):
    drawing = draw_unit_map(COSTS, SHAPE, 0.25, chosen=(4, "kv_groups"), theme=theme)
    found = cells(drawing)
    assert found.shape == (5, 5)
    assert list(drawing.figure.layout.yaxis.ticktext) == [
        "attention, whole",
        "KV heads",
        "value ranks",
        "MLP, whole",
        "channels",
    ]
    assert found[0] == pytest.approx([0.5, 0.01, 0.02, 0.04, 0.08])
    assert found[1] == pytest.approx([0.005, 0.0001, 0.0002, 0.0004, 0.0008])
    assert found[4, 4] == pytest.approx(0.08 * 0.2)
    (square,) = drawing.figure.layout.shapes
    assert (square.x0, square.x1, square.y0, square.y1) == (3.5, 4.5, 0.5, 1.5)
    clickable = drawing.figure.data[1]
    assert sorted(zip(clickable.x, clickable.y, strict=True)) == [(x, y) for x in range(5) for y in range(5)]
    assert "most in block 0 (MLP, 1) and least in block 1 (attention, 0.01)" in drawing.takeaway


def test_the_map_can_be_of_more_units_and_per_million_parameters():
    half = cells(draw_unit_map(COSTS, SHAPE, 0.5))
    assert half[1, 1] == pytest.approx(0.01 * 0.02)
    assert half[4, 1] == pytest.approx(0.01 * 0.4)
    dear = draw_unit_map(COSTS, SHAPE, 0.25, per_million=True)
    assert cells(dear)[0, 1] == pytest.approx(0.01 / (49 * D) * 1e6)
    assert "nats per token for every million parameters" in dear.takeaway


def test_parts_that_a_family_does_not_have_are_no_rows():
    plain = tuple((mlp,) for _, mlp in COSTS.blocks)
    only = COSTS.model_copy(update={"blocks": tuple((b[0].model_copy(update={"row": 0}),) for b in plain)})
    shape = SHAPE.model_copy(update={"blocks": ((MLP,),) * 5})
    drawing = draw_unit_map(only, shape, 0.25)
    assert list(drawing.figure.layout.yaxis.ticktext) == ["MLP, whole", "channels"]


def test_costs_of_nothing_and_losses_that_fall_are_drawn_too():
    """A dead branch costs 0, of which there is no logarithm; without a bad one the loss falls."""
    dead, bad = branches(0.0, 1.0, 1.0), branches(0.1, -0.5, -0.2)
    costs = COSTS.model_copy(update={"blocks": (dead, dead, bad, bad, bad)})
    for drawing in (
        draw_unit_map(costs, SHAPE, 0.25),
        draw_unit_curve(0, dead[0]),
        draw_unit_curve(2, bad[0]),
        draw_unit_agreement(costs),
    ):
        heights = [np.asarray(trace.y, dtype=float) for trace in drawing.figure.data if trace.y is not None]
        assert all(np.isfinite(each).all() for each in heights)
    assert np.isfinite(cells(draw_unit_map(costs, SHAPE, 0.25))).all()
    assert "where the loss falls" in wording.units_agreement(costs)[1]


def test_a_curve_shows_its_units_and_all_of_it_predicted_and_measured():
    heads, values, whole, measured = draw_unit_curve(2, COSTS.blocks[2][0]).figure.data
    assert list(heads.x) == [25.0, 50.0, 75.0]
    assert list(heads.y) == pytest.approx([0.0002, 0.0004, 0.0006])
    assert list(values.y) == pytest.approx([0.02 * 0.01])
    assert (list(whole.y), list(measured.y)) == ([0.02], [0.03])
    told = draw_unit_curve(2, COSTS.blocks[2][1]).takeaway
    assert told.startswith("Block 2, MLP, by prediction: without 2 of 8 channels 0.004 nats per token")
    assert "(perplexity +0.40" in told
    assert "Measured without all of it: 0.04 nats per token" in told


def test_predicted_is_held_against_measured_and_failures_are_named():
    drawing = draw_unit_agreement(COSTS)
    attention, mlp, diagonal = drawing.figure.data
    assert list(attention.x) == [0.5, 0.01, 0.02, 0.04, 0.08]
    assert list(attention.y) == pytest.approx([4.5, 0.01, 0.03, 0.036, 0.088])
    assert [*attention.text, *mlp.text] == ["0", "", "", "", "", "0", "", "", "", "4"]
    assert attention.marker.symbol != mlp.marker.symbol
    assert list(diagonal.x) == list(diagonal.y)
    assert "over 10 attentions and MLPs" in drawing.takeaway
    assert (
        "Too low by a factor of 2 or more: the attention of block 0 and the MLP of block 0; most in the "
        "attention of block 0, where 4.5 nats per token were measured and 0.5 predicted."
    ) in drawing.takeaway
    assert "Too high by a factor of 2 or more: the MLP of block 4; most" in drawing.takeaway


def test_the_correlation_is_told_for_all_and_without_the_first_blocks():
    from scipy.stats import spearmanr

    pairs = [(branch.whole, branch.measured) for _, branch in COSTS.compared()]
    every, later = (float(spearmanr(*zip(*some, strict=True))[0]) for some in (pairs, pairs[6:]))
    assert wording.agreement_of_units(COSTS) == pytest.approx(every)
    assert wording.agreement_of_units(COSTS, 3) == pytest.approx(later)
    first, *_ = wording.units_agreement(COSTS)
    assert first == (
        f"Spearman's rank correlation of predicted and measured cost is {every:+.2f} over 10 attentions and "
        f"MLPs, {later:+.2f} without the first 3 blocks.".replace("-", "−")
    )


def test_the_other_prediction_has_its_own_figure_and_words():
    drawing = draw_unit_agreement(COSTS, "paired")
    attention, mlp, _ = drawing.figure.data
    assert list(attention.x) == pytest.approx([0.9 * each for each in attention.y])
    assert not any([*attention.text, *mlp.text])
    assert "+1.00 over 10 attentions and MLPs" in drawing.takeaway
    assert "No prediction is off" in drawing.takeaway


def test_without_measurements_nothing_is_said_of_them():
    bare = tuple(
        tuple(branch.model_copy(update={"measured": None}) for branch in block) for block in COSTS.blocks
    )
    costs = COSTS.model_copy(update={"blocks": bare, "measured_windows": 0})
    assert wording.units_agreement(costs) == ()
    assert "measured" not in wording.units_found(costs)
    assert "× predicted" not in unit_table(costs)
    assert len(draw_unit_curve(1, costs.blocks[1][1]).figure.data) == 2


def test_massive_tokens_are_told_of_where_they_would_have_most_of_the_curvature():
    assert "assive" not in wording.units_found(COSTS) and "massive tokens" not in unit_table(COSTS)
    shares = (0.0, 0.7, 0.9, 0.2, 0.1)
    changed = tuple(
        (attention, mlp.model_copy(update={"massive": share}))
        for (attention, mlp), share in zip(COSTS.blocks, shares, strict=True)
    )
    costs = COSTS.model_copy(update={"blocks": changed})
    assert wording.units_found(costs).endswith(
        "have 70 to 90\N{NO-BREAK SPACE}% of it at the MLP of blocks 1-2."
    )
    assert unit_table(costs)["massive tokens"].dropna().tolist() == [0.7, 0.9, 0.2, 0.1]


def test_predictions_that_hold_are_said_to_hold():
    exact = tuple(branches(scale, 1.0, 1.0) for scale in (0.1, 0.2, 0.3, 0.4))
    first, second = wording.units_agreement(COSTS.model_copy(update={"blocks": exact}))
    assert "+1.00 over 8" in first
    assert second == "No prediction is off by a factor of 2 or more."


@pytest.mark.parametrize(
    ("nats", "said"),
    [
        (0.0, "+0.0000 %"),
        (0.00005, "+0.0050 %"),
        (0.001, "+0.10 %"),
        (0.0198, "+2.0 %"),
        (0.2, "+22 %"),
        (-0.01, "−1.00 %"),
        (3.0, "× 20.1"),
        (800.0, "× 1.01e+304"),
    ],
)
def test_nats_are_told_as_perplexity(nats, said):
    assert wording.as_perplexity(nats).replace("\N{NO-BREAK SPACE}", " ") == said


# Tables


def test_tables_hold_what_the_figures_show():
    table = unit_map_table(COSTS, SHAPE, 0.25)
    assert len(table) == 25
    row = table[(table["block"] == 2) & (table["part"] == "channels")].iloc[0]
    assert (row["units"], row["gone"], row["parameters fewer"]) == (8, 2, 60)
    assert row["perplexity, %"] == pytest.approx(100 * (math.exp(0.02 * 0.2) - 1))
    of_one = unit_curve_table(COSTS.blocks[2][0])
    assert of_one["nats per token"].tolist()[-2:] == [0.02, 0.03]
    assert len(of_one) == 3 + 1 + 2
    agreement = unit_agreement_table(COSTS)
    assert agreement["measured / predicted"].tolist()[0] == 9.0
    assert len(agreement) == 10
    assert len(unit_table(COSTS)) == 10


# The page


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return units_run(tmp_path)


def test_the_tab_shows_the_map_the_curve_and_the_agreement(desk: Desk, run: Run) -> None:
    app = page("profile", profile=run.key, near="Units")
    assert charts(app) == ["profile", "units", "unit-curve", "unit-agreement"]
    assert "Spearman's rank correlation" in words(app)
    assert "Found on 3 windows of 24 tokens" in words(app)
    app.selectbox(key="block").set_value(2).run()
    app.segmented_control(key="unit-part").set_value("kv_groups").run()
    assert not app.exception
    assert "Block 2, attention: cost while its units go" in words(app)
    app.segmented_control(key="unit-part").set_value("mlp").run()
    assert "Block 2, MLP: cost while its units go" in words(app)
    before = words(app)
    app.segmented_control(key="unit-prediction").set_value("paired").run()
    assert words(app) != before
    app.segmented_control(key="unit-measure").set_value("per million").run()
    app.segmented_control(key="unit-share").set_value(0.5).run()
    assert not app.exception
    assert "for every million parameters" in words(app)


def test_a_block_leads_to_its_tokens(desk: Desk, run: Run) -> None:
    app = page("profile", profile=run.key, near="Units")
    app.selectbox(key="block").set_value(1).run()
    assert "Window 0, as block 1 changes it" in words(app)  # beside the chart, whatever tab is open
    assert "Block 1, " in words(app)


def test_what_was_not_measured_is_offered(desk: Desk, tmp_path: Path) -> None:
    run = units_run(tmp_path, units_measured=False)
    app = page("profile", profile=run.key, near="Units")
    assert charts(app) == ["profile", "units", "unit-curve"]
    press(app, "Measure them")
    (request,) = desk.tasks
    assert request == run.request.model_copy(update={"units_measured": True})


def test_a_run_without_costs_offers_to_predict_them(desk: Desk, tmp_path: Path) -> None:
    run = units_run(tmp_path, units=False, units_measured=False)
    app = page("profile", profile=run.key, near="Units")
    assert charts(app) == ["profile"]
    press(app, "Predict what units cost")
    (request,) = desk.tasks
    assert request == run.request.model_copy(update={"units": True})


def test_the_demo_that_ships_has_its_map_at_once(desk: Desk) -> None:
    assert charts(page("profile", near="Units")) == ["profile", "units", "unit-curve", "unit-agreement"]


def test_a_study_offers_a_profile_of_its_windows(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.unit_view.costs_inside", lambda run: None)
    app = page("profile", near="Units")
    press(app, "Predict what units cost")
    (request,) = desk.tasks
    assert (request.kind, request.units, request.windows) == ("profile", True, 16)


def test_visitors_are_not_offered_what_takes_too_long(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = units_run(tmp_path, units_measured=False)
    monkeypatch.setattr("app.state.enforced", lambda: Policy(demo_mode=True, roots=(tmp_path,)))
    app = page("profile", profile=run.key, near="Units")
    assert "Measure them" not in [button.label for button in app.button]
    assert "was not measured here" in words(app)


def test_the_form_asks_for_the_cost_of_units(desk: Desk) -> None:
    app = page("profile")
    app.toggle(key="profile-units").set_value(True)
    press(app, "Measure")
    (request,) = desk.tasks
    assert request.units
    assert not request.units_measured


def test_a_report_has_the_map_and_the_agreement(run: Run) -> None:
    found: dict[str, Any] = {each.title: each for each in sections(run)}
    assert found["What units cost"].drawing.figure.data[0].z.shape == (5, 3)
    assert "Spearman" in found["Predicted cost against measured"].drawing.takeaway
