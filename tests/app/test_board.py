"""The leaderboard in the app: its chart, table and sentences say what is in the run."""

from __future__ import annotations

import math

import pytest
from app.figures.board import draw_board, symbol_of
from app.figures.contest import draw_contest
from board_stand_in import LOSSES, board_recipe, board_run
from slicing.board import Board, against, best, kind_of, read_board
from slicing.runs import Entry

from app import wording
from app.citations import citations
from app.figures.base import DARK, LIGHT
from app.policy import Policy, Refused
from app.report import build_report
from app.tables import board_table
from slicing.study.store import bundled_board


@pytest.fixture
def board() -> Board:
    run = board_run()
    return read_board(run.recipe, run.result)


def test_every_entry_is_drawn_over_the_sizes_where_its_loss_is(board):
    for theme in (LIGHT, DARK):
        figure, takeaway = draw_board(board, theme=theme)
        assert {trace.customdata[0] for trace in figure.data} == set(LOSSES)
        for trace in figure.data:
            assert list(trace.x) == pytest.approx([10, 20], abs=0.01)
            loss = LOSSES[trace.customdata[0]]
            # What is lost differs from window to window, so the mean of its exponent is a little more.
            assert [math.log(y) for y in trace.y] == pytest.approx([loss, 2 * loss], rel=1e-6)
    assert takeaway.count("remove:streamline+writers") == 2
    assert figure.layout.yaxis.type == "log"


def test_a_model_that_broke_hides_no_other():
    run = bundled_board()  # there LaCo by its paper's rule ends at 4 million
    figure, takeaway = draw_board(read_board(run.recipe, run.result))
    broken = next(trace for trace in figure.data if trace.customdata[0] == "remove:laco:merge=sum")
    assert list(broken.marker.symbol) == ["arrow-up"] * 3
    assert "169437.49 × dense" in broken.text[0]  # the true number is told
    # Constant slicing has 5 times dense at the smallest size, and chance 23,000 times.
    assert max(max(trace.y) for trace in figure.data) < 20
    assert "Above the chart (arrows): " in takeaway
    for name in ("remove:below-last", "remove:laco:merge=sum", "remove:random:draw=0", "remove:top"):
        assert name in takeaway


def test_what_lost_far_more_than_constant_slicing_is_told_at_the_edge():
    run = bundled_board()
    figure, _ = draw_contest(read_board(run.recipe, run.result).tables[0])
    assert figure.layout.xaxis.range[1] < 450
    edges = [each.text for each in figure.layout.annotations if each.text.endswith("→")]
    assert len(edges) == 3


def test_the_second_text_and_the_chosen_entry_are_shown(board):
    figure, takeaway = draw_board(board, "remove:shortgpt", "second")
    chosen = figure.data[-1]  # on top
    assert chosen.customdata[0] == "remove:shortgpt"
    assert chosen.line.width > figure.data[0].line.width
    assert [math.log(y) for y in chosen.y] == pytest.approx([0.3, 0.6])
    assert "on the second text" in takeaway


def test_kinds_differ_in_colour_and_dash_and_repairs_in_shape(board):
    figure, _ = draw_board(board)
    legend = {trace.name: (trace.line.color, trace.line.dash) for trace in figure.data}
    assert len(set(legend.values())) == len(legend) == 5
    closings = ("", "+matrix", "+writer", "+block", "+writers")
    assert len({symbol_of(Entry.parse(f"remove:top{each}")) for each in closings}) == len(closings)


def test_the_table_is_best_first_and_says_what_is_left(board):
    table = board_table(board.tables[1])
    assert list(table["entry"])[:2] == ["dense", "remove:streamline+writers"]
    assert table["× dense"].is_monotonic_increasing
    assert "without 5-12" in set(table["blocks"])
    assert "free bits, at most %" not in table  # the shape of the model is not known


def test_free_bits_are_told_for_what_is_sliced():
    run = board_run()
    board = read_board(run.recipe, run.result)
    table = board_table(board.tables[0], run.result.shape).set_index("entry")
    bits = table["free bits, at most %"]
    schedule = bits["constant"], run.result.contestants[1].schedule
    rows = sum(2 * width * (width - 1) // 2 for width in schedule[1].widths[:-1])
    assert schedule[0] == pytest.approx(100 * rows / run.result.contestants[1].parameters, abs=1e-3)
    assert math.isnan(bits["remove:shortgpt"])


def test_the_sentence_names_the_winner_and_what_else_is_near(board):
    first, second, about = wording.board(board)
    assert first.startswith("At 10.0\N{NO-BREAK SPACE}% fewer parameters take remove:streamline+writers")
    assert "1.35 times the dense model's" in first
    assert "the best that slices (dynamic:lr:base=0+span=3+repair)" in first
    assert "the best that does both (remove:streamline:share=0.5/constant+span=3+repair)" in first
    assert second.startswith("At 20.0\N{NO-BREAK SPACE}%")
    assert "one draw" in about


def test_the_best_of_a_kind_and_the_front_pass_controls_over(board):
    table = board.tables[0]
    assert best(table).entry.name == "remove:streamline+writers"
    assert best(table, "width").entry.name == "dynamic:lr:base=0+span=3+repair"
    assert kind_of(best(table, "both").entry) == "both"
    assert [each.entry.name for each in board.front] == ["remove:streamline+writers"] * 2
    gap = against(best(table, "width"), best(table))
    assert (gap.verdict, gap.nats) == ("worse", pytest.approx(0.2, abs=1e-6))


def test_report_and_citations_cover_it():
    run = board_run()
    report = build_report(run)
    for name in LOSSES:
        assert name in report
    assert {"men2025shortgpt", "chen2025streamlining", "shopkhoev2025replaceme"} <= set(citations(run.recipe))
    assert (
        wording.title(run.recipe) == f"Leaderboard of 8 on {run.recipe.model.label}, 10/20 % fewer parameters"
    )


def test_visitors_may_look_but_not_ask() -> None:
    with pytest.raises(Refused, match="does not do 'leaderboard'"):
        Policy.demo().check(board_recipe())
