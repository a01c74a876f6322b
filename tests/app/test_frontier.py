"""A study at several sizes in the app: its chart, table and sentences say what is in the run."""

from __future__ import annotations

import itertools
import math

import pytest
from board_stand_in import LOSSES, board_run, earlier_board

from app import wording
from app.citations import citations
from app.figures.base import DARK, LIGHT
from app.figures.frontier import (
    HEIGHT,
    LABEL,
    LINE,
    MARGINS,
    beyond,
    draw_frontier,
    key_of,
    named_ends,
    symbol_of,
)
from app.figures.ranking import draw_ranking
from app.report import build_report
from app.tables import ranking_table
from slicing.studies.recipe import Recipe
from slicing.studies.verdicts import Board, beside, read_board

WINNER = Recipe.parse("llm-streamline(repair=writers)")
SLICES = Recipe.parse("slice(dynamic, base=0, blocks_per_basis=3, repair=writers)")


@pytest.fixture
def board() -> Board:
    run = board_run()
    return read_board(run.request, run.result)


def test_every_recipe_is_drawn_over_the_sizes_where_its_loss_is(board):
    for theme in (LIGHT, DARK):
        figure, takeaway = draw_frontier(board, theme=theme)
        assert {trace.customdata[0] for trace in figure.data} == set(LOSSES)
        for trace in figure.data:
            assert list(trace.x) == pytest.approx([10, 20], abs=0.01)
            loss = LOSSES[trace.customdata[0]]
            # What is lost differs from window to window, so the mean of its exponent is a little more.
            assert [math.log(y) for y in trace.y] == pytest.approx([loss, 2 * loss], rel=1e-6)
    assert "1.35/1.82 times at 10/20\N{NO-BREAK SPACE}% fewer parameters" in takeaway
    assert takeaway.count(WINNER.title) == 1
    assert figure.layout.yaxis.type == "log"


def test_a_model_that_broke_hides_no_other():
    run = earlier_board()  # there LaCo by its paper's rule ends at 4 million
    figure, takeaway = draw_frontier(read_board(run.request, run.result))
    broken = next(trace for trace in figure.data if trace.customdata[0] == "laco")
    assert list(broken.marker.symbol) == ["arrow-up"] * 3
    assert "169437.49 × dense" in broken.text[0]  # the true number is told
    # Constant slicing has 5 times dense at the smallest size, and chance 23,000 times.
    assert max(max(trace.y) for trace in figure.data) < 20
    assert "4 recipes lost more than the chart shows (arrows)" in takeaway
    board = read_board(run.request, run.result)
    for line in ("gromov-simple", "laco", "random-blocks", "last-blocks"):
        assert Recipe.parse(line).short_title in beyond(board)
        assert Recipe.parse(line).short_title in key_of(named_ends(board), beyond(board))


def test_what_lost_far_more_than_constant_slicing_is_told_at_the_edge():
    run = earlier_board()
    figure, _ = draw_ranking(read_board(run.request, run.result).tables[0])
    assert figure.layout.xaxis.range[1] < 450
    edges = [each.text for each in figure.layout.annotations if each.text.endswith("→")]
    assert len(edges) == 3


def test_the_second_text_and_the_chosen_recipe_are_shown(board):
    figure, takeaway = draw_frontier(board, "shortgpt", "second")
    chosen = figure.data[-1]  # on top
    assert chosen.customdata[0] == "shortgpt"
    assert chosen.line.width > figure.data[0].line.width
    assert [math.log(y) for y in chosen.y] == pytest.approx([0.3, 0.6])
    assert "on the second text" in takeaway


def test_the_best_of_each_kind_has_its_colour_and_its_name_and_all_others_are_grey(board):
    for theme in (LIGHT, DARK):
        figure, _ = draw_frontier(board, theme=theme)
        legend = {trace.name: (trace.line.color, trace.line.dash) for trace in figure.data}
        named = {trace.name for trace in figure.data} - {"others"}
        assert named == {"baseline", "slices", "removes blocks", "does both"}
        assert len({legend[name] for name in named}) == len(named)
        grey = {trace.line.color for trace in figure.data if trace.name == "others"}
        assert grey == {theme.label}
    labels = [note.text.replace("<br>", " ") for note in figure.layout.annotations]
    assert len(labels) == len(named) + 1 and "dense" in labels
    (bold,) = (label for label in labels if label.startswith("<b>"))
    assert "LLM-Streamline" in bold
    key = key_of(named_ends(board))
    assert f"<strong>{WINNER.short_title}, repaired, 1.82 ×</strong>" in key
    repairs = ("none", "linear", "last-writer", "train-block", "writers")
    assert len({symbol_of(Recipe.parse(f"sleb(repair={each})")) for each in repairs}) == len(repairs)


def test_no_label_of_a_line_stands_on_another_and_a_thin_line_leads_to_each(board):
    for drawn in (board, earlier()):
        figure, _ = draw_frontier(drawn)
        low, high = figure.layout.yaxis.range
        pixels = (HEIGHT - MARGINS) / (high - low)
        notes = sorted(
            (note.y * pixels, LINE * (note.text.count("<br>") + 1)) for note in figure.layout.annotations
        )
        assert all(
            above - upper / 2 >= below + lower / 2 - 1e-6
            for (below, lower), (above, upper) in itertools.pairwise(notes)
        )
        assert notes[0][0] - notes[0][1] / 2 >= low * pixels - 1e-6
        ends = {(end.fewer, end.times) for end in named_ends(drawn) if end.fewer}
        leaders = [each for each in figure.layout.shapes if each.line.dash is None]
        assert ends <= {(each.x0, each.y0) for each in leaders}
        levels = sorted(note.y for note in figure.layout.annotations)
        assert sorted(math.log10(each.y1) for each in leaders) == pytest.approx(levels)
        assert {each.x1 for each in leaders} == {figure.layout.xaxis.range[1]}


def earlier() -> Board:
    run = earlier_board()
    return read_board(run.request, run.result)


def test_the_labels_leave_most_of_a_phone_to_the_chart(board):
    figure, _ = draw_frontier(board)
    assert figure.layout.margin.r <= 0.3 * 400
    longest = max(len(line) for note in figure.layout.annotations for line in note.text.split("<br>"))
    assert longest <= LABEL + len("<b></b>")


def test_the_axis_ends_near_the_data():
    figure, _ = draw_frontier(earlier())
    in_place = [
        y
        for trace in figure.data
        for y, mark in zip(trace.y, trace.marker.symbol, strict=True)
        if mark != "arrow-up"
    ]
    assert 10 ** figure.layout.yaxis.range[1] < 1.6 * max(in_place)


def test_the_table_is_best_first_and_says_what_is_left(board):
    table = ranking_table(board.tables[1])
    assert list(table["recipe"])[:2] == ["dense", WINNER.line]
    assert table["× dense"].is_monotonic_increasing
    assert "without 5-12" in set(table["blocks"])
    assert "free bits, at most %" not in table  # the shape of the model is not known


def test_free_bits_are_told_for_what_is_sliced():
    run = board_run()
    board = read_board(run.request, run.result)
    table = ranking_table(board.tables[0], run.result.shape).set_index("recipe")
    bits = table["free bits, at most %"]
    schedule = bits["slice(constant)"], run.result.measurements[1].schedule
    rows = sum(2 * width * (width - 1) // 2 for width in schedule[1].widths[:-1])
    assert schedule[0] == pytest.approx(100 * rows / run.result.measurements[1].parameters, abs=1e-3)
    assert math.isnan(bits["shortgpt"])


def test_the_sentence_names_the_winner_and_what_else_is_near(board):
    first, second, about = wording.frontier(board)
    assert first.startswith(f"At 10\N{NO-BREAK SPACE}% fewer parameters take “{WINNER.title}”")
    assert "1.35 times the dense model's" in first
    assert f"the best that slices, “{SLICES.title}”, has" in first
    assert "the best that does both, “Span of largest cosine" in first
    assert second.startswith("At 20\N{NO-BREAK SPACE}%")
    assert "one draw" in about
    cards = wording.choices(board)  # the same in parts, for the page
    assert [f"{each.size} {'; '.join((each.take, *each.near))}." for each in cards] == [first, second]
    assert [about] == wording.choices_reading(board)


def test_the_best_of_a_kind_and_the_front_pass_random_baselines_over(board):
    table = board.tables[0]
    assert table.best_of().recipe == WINNER
    assert table.best_of("width").recipe == SLICES
    assert table.best_of("both").recipe.kind == "both"
    assert [each.recipe for each in board.front] == [WINNER] * 2
    gap = beside(table.best_of("width"), table.best_of())
    assert (gap.verdict, gap.nats) == ("worse", pytest.approx(0.2, abs=1e-6))


def test_report_and_citations_cover_it():
    run = board_run()
    report = build_report(run)
    for line in LOSSES:
        assert line in report
        assert Recipe.parse(line).title in report
    assert "cannot see a block that changes one token alone" in report  # the known issue of ShortGPT
    assert "parameters = [0.1, 0.2]" in report  # of its study file
    assert {"men2025shortgpt", "chen2025streamlining", "shopkhoev2025replaceme"} <= set(
        citations(run.request)
    )
