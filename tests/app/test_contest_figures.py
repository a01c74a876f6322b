"""The chart of a contest and the scatter of damage: they show what is in the run, and chance beside it."""

from __future__ import annotations

import numpy as np
import pytest
from app.figures.contest import ROLES, draw_contest, interval, role_of
from contest_stand_in import DAMAGE, LOSSES, contest_recipe, contest_run
from slicing.contest import Table, read_contest
from slicing.runs import Entry

from app import wording
from app.figures.base import CONSTANT, DARK, LIGHT, Theme
from app.figures.profile import draw_scatter, rank_correlation
from app.tables import contest_table, damage_table


@pytest.fixture
def table() -> Table:
    run = contest_run()
    return read_contest(run.recipe, run.result)


def trace(figure, name):
    return next(each for each in figure.data if each.name == name)


def test_everyone_has_a_row_and_stands_where_its_share_is(table):
    figure, takeaway = draw_contest(table)
    names = list(figure.layout.yaxis.ticktext)
    assert names == [each.entry.name for each in table.standings]
    assert names[0] == "constant+repair"
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the best at the top
    shown = {}
    for role in ROLES:
        points = trace(figure, role.name)
        shown |= {names[row]: x for x, row in zip(points.x, points.y, strict=True)}
    assert shown == pytest.approx({each.entry.name: 100 * each.share for each in table.standings})
    assert shown["constant"] == 100
    assert shown["dynamic:lr:base=0"] == pytest.approx(100 * 0.81 / 1.01)
    assert "constant+repair keeps least" in takeaway
    assert f"{shown['constant+repair']:.1f} %" in takeaway


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_roles_differ_in_shape_and_colour_and_controls_are_hollow(table, theme: Theme):
    figure, _ = draw_contest(table, theme=theme)
    marks = [trace(figure, role.name).marker for role in ROLES]
    assert len({mark.symbol for mark in marks}) == len(ROLES)
    assert len({mark.color for mark in marks}) == len(ROLES)
    assert [mark.symbol for mark in marks if mark.symbol.endswith("open")] == ["circle-open"]
    assert marks[0].color == CONSTANT


@pytest.mark.parametrize(
    ("entry", "role"),
    [
        ("constant", "constant"),
        ("dynamic:lr:base=0", "rule"),
        ("searched", "measured or searched"),
        ("searched+repair", "repaired"),
        ("constant+span=3", "shared basis"),
        ("rising+span=3+repair", "repaired"),
        ("inverted:lr:base=0", "control"),
        ("random:draw=3+repair", "repaired"),
    ],
)
def test_an_entry_has_the_role_of_what_it_is(entry, role):
    assert role_of(Entry.parse(entry)).name == role


def test_the_band_of_chance_is_drawn_and_counted(table):
    figure, takeaway = draw_contest(table)
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    low, high = wording.chance(table)
    assert (band.x0, band.x1) == pytest.approx((100 * low, 100 * high))
    assert (low, high) == pytest.approx((0.9, 1.1))
    assert any("chance" in note.text for note in figure.layout.annotations)
    assert "random shares keep 90.0 to 110.0 %, and 4 of the others keep less" in takeaway


def test_a_single_draw_is_no_band():
    entries = tuple(Entry.parse(name) for name in LOSSES if name != "random:draw=1")
    run = contest_run(entries=entries)
    table = read_contest(run.recipe, run.result)
    assert wording.chance(table) is None
    figure, takeaway = draw_contest(table)
    assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert "random" not in takeaway


def test_intervals_are_those_of_the_paired_difference(table):
    figure, _ = draw_contest(table)
    standing = table.standing("dynamic:lr:base=0")
    low, high = interval(standing)
    nats = [100 * (1 + each / table.standing("constant").nats) for each in standing.gain.nats_interval]
    assert (100 * low, 100 * high) == pytest.approx(nats)
    points = trace(figure, "rule")
    place = list(points.y).index(table.standings.index(standing))
    assert points.x[place] + points.error_x.array[place] == pytest.approx(nats[1])
    assert points.x[place] - points.error_x.arrayminus[place] == pytest.approx(nats[0])
    assert interval(table.standing("constant")) is None
    assert figure.layout.xaxis.range[0] < 100 * min(each.share for each in table.standings)


def test_seeds_and_the_second_text_stand_beside_the_point(table):
    figure, _ = draw_contest(table)
    ranges = trace(figure, "range over seeds")
    assert len(ranges.x) == 3 * sum(not each.entry.control for each in table.standings)
    place = table.standings.index(table.standing("dynamic:lr:base=0"))
    ends = [x for x, y in zip(ranges.x, ranges.y, strict=True) if y is not None and abs(y - place) < 0.5]
    assert ends == pytest.approx([100 * 0.8 / 1.01, 100 * 0.82 / 1.01])
    second = trace(figure, "second text")
    assert len(second.x) == len(table.standings)
    assert [round(y) for y in second.y] == list(range(len(table.standings)))  # a click tells the row
    assert second.marker.opacity < 1


def test_the_chosen_row_is_framed(table):
    chosen = table.standings[2]
    figure, _ = draw_contest(table, chosen)
    frame = figure.layout.shapes[-1]
    assert (frame.y0, frame.y1) == (1.5, 2.5)


def test_a_contest_that_has_begun_is_a_sentence():
    table = read_contest(contest_recipe())
    assert draw_contest(table).takeaway == f"0 of {table.total} trials have run."
    assert wording.contest(table) == [f"0 of {table.total} trials have run."]
    assert contest_table(table).empty


def test_what_a_contest_says(table):
    told = " ".join(wording.contest(table)).replace("\N{NO-BREAK SPACE}", " ")
    for sentence in (
        "constant+repair loses least: 60.4 % of what constant slicing loses, 60.4 % on the second text",
        "3 of 3 ways to decide, with neither repair nor shared bases, are clearly better than constant "
        "slicing: ",
        "Shares drawn at random keep 90.0 % to 110.0 % of the loss; no better than chance: "
        "softmax:block-influence.",
        "Repair takes constant from 100.0 % to 60.4 %.",
        "Shared bases take constant from 100.0 % to 70.3 %.",
        "2 draws of calibration windows are averaged, for controls one",
    ):
        assert sentence in told


# Damage


def test_every_block_stands_at_its_score_and_its_damage():
    profile = contest_run().result.profile
    figure, takeaway = draw_scatter(profile, "leave-one-out")
    (points,) = figure.data
    np.testing.assert_allclose(points.x, profile.values("lr"), rtol=1e-6)
    np.testing.assert_allclose(points.y, DAMAGE * np.arange(profile.blocks), rtol=1e-6)
    assert list(points.text) == [str(block) for block in range(profile.blocks)]
    agreement = rank_correlation(profile.values("lr"), np.arange(profile.blocks))
    assert f"{agreement:+.2f}".replace("-", "−") in takeaway
    assert f"Most damage by block {profile.blocks - 1}" in takeaway
    table = damage_table(profile, "leave-one-out")
    assert list(table["leave-one-out, nats per token"]) == pytest.approx(list(points.y), abs=1e-4)


def test_blocks_left_off_still_count_in_the_correlation():
    profile = contest_run().result.profile
    whole, part = (draw_scatter(profile, "leave-one-out", without=without) for without in ((), (0, 29)))
    assert list(part.figure.data[0].text) == [str(block) for block in range(1, 29)]
    assert part.takeaway == f"{whole.takeaway} Not shown: blocks 0, 29."


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 2, 3, 4), (10, 20, 30, 1000), 1.0),
        ((1, 2, 3, 4), (4, 3, 2, 1), -1.0),
        ((1, 2, 3), (5, 5, 5), 0.0),
        ((1, 2, 2, 3), (1, 2, 3, 4), 0.948683),  # scipy.stats.spearmanr
        ((3, 1, 4, 1, 5, 9, 2, 6), (2, 7, 1, 8, 2, 8, 1, 8), 0.198854),  # scipy.stats.spearmanr
    ],
)
def test_ranks_are_correlated_as_spearman_does(first, second, expected):
    assert rank_correlation(np.array(first), np.array(second)) == pytest.approx(expected, abs=1e-5)
