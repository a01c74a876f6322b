"""The chart of a ranking and the scatter of damage: they show what is there, and chance beside it."""

from __future__ import annotations

import numpy as np
import pytest
from contest_stand_in import DAMAGE, LOSSES, contest_run, contest_study

from analysis.statistics import rank_correlation
from app import wording
from app.figures.base import CONSTANT, DARK, LIGHT, Theme
from app.figures.profile import draw_scatter
from app.figures.ranking import ROLES, draw_ranking, role_of, row_label, share_interval
from app.tables import damage_table, ranking_table
from slicing.studies.recipe import Recipe
from slicing.studies.study import recipes
from slicing.studies.verdicts import Table, read_board

BASELINE = Recipe.parse("slice(constant)")
REPAIRED = Recipe.parse("slice(constant, repair=writers)")
SHOWN = ROLES[:6]
"""The roles that these recipes have."""


@pytest.fixture
def table() -> Table:
    run = contest_run()
    return read_board(run.request, run.result).tables[0]


def trace(figure, name):
    return next(each for each in figure.data if each.name == name)


def test_everyone_has_a_row_and_stands_where_its_share_is(table):
    figure, takeaway = draw_ranking(table)
    first, *others = (row_label(each.recipe) for each in table.standings)
    assert list(figure.layout.yaxis.ticktext) == [f"<b>{first}</b>", *others]  # the winner is bold
    names = [each.name for each in table.standings]
    assert names[0] == REPAIRED.line
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the best at the top
    shown = {}
    for role in SHOWN:
        points = trace(figure, role.name)
        shown |= {names[row]: x for x, row in zip(points.x, points.y, strict=True)}
    assert shown == pytest.approx({each.name: 100 * each.share for each in table.standings})
    assert shown[BASELINE.line] == 100
    assert shown["slice(dynamic, base=0)"] == pytest.approx(100 * 0.81 / 1.01)
    assert f"“{REPAIRED.title}” has the least excess loss, {shown[REPAIRED.line]:.1f} %" in takeaway
    assert "where constant slicing has 100 %" in takeaway
    hovers = [text for role in SHOWN for text in trace(figure, role.name).text]
    assert sorted(text.rpartition("<br>")[2] for text in hovers) == sorted(LOSSES)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_roles_differ_in_shape_and_colour_and_controls_are_hollow(table, theme: Theme):
    figure, _ = draw_ranking(table, theme=theme)
    marks = [trace(figure, role.name).marker for role in SHOWN]
    assert len({mark.symbol for mark in marks}) == len(SHOWN)
    assert len({mark.color for mark in marks}) == len(SHOWN)
    assert [mark.symbol for mark in marks if mark.symbol.endswith("open")] == ["circle-open"]
    assert marks[0].color == CONSTANT


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("slice(constant)", "baseline"),
        ("slice(dynamic, base=0)", "rule"),
        ("slice(searched)", "measured or searched"),
        ("slice(searched, repair=writers)", "repaired"),
        ("slice(constant, blocks_per_basis=3)", "shared basis"),
        ("slice(rising, blocks_per_basis=3, repair=writers)", "repaired"),
        ("slice(inverted, base=0)", "baseline to beat"),
        ("slice(random, draw=3, repair=writers)", "repaired"),
        ("random-blocks", "baseline to beat"),
        ("sleb", "removes blocks"),
        ("sleb(repair=linear)", "removes blocks, repaired"),
        ("fasp", "cuts inside blocks"),
        ("fasp(repair=writers)", "cuts inside blocks, repaired"),
        ("sleb(share=0.5) | slice(dynamic)", "does both"),
        ("sleb(share=0.5) | fasp", "does both"),
    ],
)
def test_a_recipe_has_the_role_of_what_it_is(line, role):
    assert role_of(Recipe.parse(line), BASELINE).name == role


def test_the_band_of_chance_is_drawn_and_counted(table):
    figure, takeaway = draw_ranking(table)
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    low, high = wording.random_band(table)
    assert (band.x0, band.x1) == pytest.approx((100 * low, 100 * high))
    assert (low, high) == pytest.approx((0.9, 1.1))
    assert any("random baselines" in note.text for note in figure.layout.annotations)
    assert "random baselines have 90.0 to 110.0 %, and 4 of the " in takeaway
    assert takeaway.endswith("other recipes have less than that.")


def test_a_single_draw_is_no_band():
    run = contest_run(recipes=recipes(*(line for line in LOSSES if "draw=1" not in line)))
    table = read_board(run.request, run.result).tables[0]
    assert wording.random_band(table) is None
    figure, takeaway = draw_ranking(table)
    assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert "random" not in takeaway


def test_intervals_are_those_of_the_paired_difference(table):
    figure, _ = draw_ranking(table)
    standing = table.standing("slice(dynamic, base=0)")
    low, high = share_interval(standing)
    nats = [100 * (1 + each / table.baseline.nats) for each in standing.gain.nats_interval]
    assert (100 * low, 100 * high) == pytest.approx(nats)
    points = trace(figure, "rule")
    place = list(points.y).index(table.standings.index(standing))
    assert points.x[place] + points.error_x.array[place] == pytest.approx(nats[1])
    assert points.x[place] - points.error_x.arrayminus[place] == pytest.approx(nats[0])
    assert share_interval(table.baseline) is None
    assert figure.layout.xaxis.range[0] < 100 * min(each.share for each in table.standings)


def test_seeds_and_the_second_text_stand_beside_the_point(table):
    figure, _ = draw_ranking(table)
    ranges = trace(figure, "range over seeds")
    assert len(ranges.x) == 3 * sum(not each.recipe.control for each in table.standings)
    place = table.standings.index(table.standing("slice(dynamic, base=0)"))
    ends = [x for x, y in zip(ranges.x, ranges.y, strict=True) if y is not None and abs(y - place) < 0.5]
    assert ends == pytest.approx([100 * 0.8 / 1.01, 100 * 0.82 / 1.01])
    second = trace(figure, "second text")
    assert len(second.x) == len(table.standings)
    assert [round(y) for y in second.y] == list(range(len(table.standings)))  # a click tells the row
    assert second.marker.opacity < 1


def test_the_chosen_row_is_framed(table):
    chosen = table.standings[2]
    figure, _ = draw_ranking(table, chosen)
    frame = figure.layout.shapes[-1]
    assert (frame.y0, frame.y1) == (1.5, 2.5)


def test_a_study_that_has_begun_is_a_sentence():
    table = read_board(contest_study()).tables[0]
    assert draw_ranking(table).takeaway == "Nothing has run beside the baseline yet."
    assert wording.ranking(table) == ["Nothing has run beside the baseline yet."]
    assert ranking_table(table).empty


def test_what_a_ranking_says(table):
    told = " ".join(wording.ranking(table)).replace("\N{NO-BREAK SPACE}", " ")
    softmax = Recipe.parse("slice(softmax, block-influence)")
    for sentence in (
        f"“{REPAIRED.title}” loses least: excess loss 60.4 %, 60.4 % on the second text "
        "(constant slicing = 100 %); better: ",
        "3 of 3 recipes with neither repair nor shared bases are clearly better than constant slicing: ",
        "Random baselines have an excess loss of 90.0 % to 110.0 %; not better than that: "
        f"“{softmax.title}”.",
        f"Repair takes the excess loss of “{BASELINE.title}” from 100.0 % to 60.4 % (writers).",
        f"Shared bases take the excess loss of “{BASELINE.title}” from 100.0 % to 70.3 % (3 blocks).",
        "2 draws of calibration windows are averaged; baselines to beat had one draw",
    ):
        assert sentence in told


def test_the_table_has_the_line_and_the_title_of_everyone(table):
    found = ranking_table(table)
    assert list(found["recipe"]) == ["dense", *(each.name for each in table.standings)]
    assert list(found["title"])[1:] == [each.recipe.title for each in table.standings]
    assert found.set_index("recipe")["verdict"]["slice(constant)"] == "baseline"
    assert found["excess loss, %"].is_monotonic_increasing
    assert "blocks" not in found  # nobody removes any


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
