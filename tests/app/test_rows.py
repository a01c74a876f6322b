"""Tables of the command line: they fit the terminal, and every row has its name in each of them."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli import main
from app.cli.rows import NAME, tables
from app.cli.terminal import Terminal
from slicing.studies.store import (
    bundled_board,
    bundled_contest,
    bundled_run,
    bundled_sweep,
    bundled_units,
    keep_run,
    list_runs,
)


def printed(rows: list[dict[str, Any]], width: int = 80) -> list[str]:
    terminal = Terminal(file=io.StringIO(), width=width)
    for table in tables(rows, width):
        terminal.print(table)
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue().splitlines()


def test_what_does_not_fit_stands_below_beside_the_names():
    columns = {f"column {number}": 1234567.125 for number in range(9)}
    lines = printed([{"recipe": name, **columns} for name in ("constant", "dynamic")])
    assert max(map(len, lines)) <= 80
    assert sum(line.count("1234567.125") for line in lines) == 18
    assert [line.split()[0] for line in lines if "1234567.125" in line] == ["constant", "dynamic"] * 2


def test_headings_break_only_where_they_have_to():
    assert any("SB 10 %" in line for line in printed([{"target": "SP 20 %", "SB 10 %": "−1.2 %"}]))


def test_columns_without_a_value_are_left_out():
    lines = printed([{"recipe": "a", "noise": None, "loss": 1.0}, {"recipe": "b", "noise": "", "loss": 2.0}])
    assert "noise" not in lines[0] and lines[0].split() == ["recipe", "loss"]


WORDS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=60)
CELLS = st.one_of(st.none(), st.integers(0, 10**12), st.floats(-1e6, 1e6), st.text("abc de", max_size=50))


@given(st.lists(WORDS, min_size=1, max_size=4, unique=True), st.lists(CELLS, min_size=1, max_size=12))
def test_no_table_is_wider_than_the_terminal(names, cells):
    row = {f"heading {place}": cell for place, cell in enumerate(cells)}
    lines = printed([{"name": name, **row} for name in names])
    assert all(len(line.rstrip()) <= 80 for line in lines)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["slicescope", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("bundled", "asked", "found"),
    [
        (bundled_run, "Compare SmolLM2", ("constant-matched", "predicts better than constant slicing")),
        (bundled_sweep, "Map of 5 bases", ("SP 30 %", "corrected for all cells")),
        (bundled_contest, "Study of 10 recipes", ("slice(rising)", "loses least", "Random baselines")),
        (bundled_board, "Study of 20 recipes", ("fewer parameters", "take “", "on the second text")),
        (bundled_units, "Profile SmolLM2", ("model.layers.29", "What parts inside the blocks cost")),
    ],
)
def test_a_run_is_shown_by_what_it_asked_and_what_came_of_it(monkeypatch, capsys, bundled, asked, found):
    keep_run(bundled())
    ((stored,), _) = list_runs()
    assert run(monkeypatch, "runs", "rename", stored.key, "The one I like") == 0
    capsys.readouterr()
    assert run(monkeypatch, "runs") == 0
    assert "The one I like" in capsys.readouterr().out
    assert run(monkeypatch, "runs", "show", stored.key) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    shown = " ".join(" ".join(lines).split())
    assert shown.startswith(f"The one I like {asked}")
    assert "tokens." in shown and "Made on " in shown
    assert all(part in shown for part in found), shown


def test_names_are_folded_and_never_cut():
    name = "slice(dynamic, base=0, blocks_per_basis=3, repair=writers) | distil"
    lines = printed([{"recipe": name, "loss": 1.0}])
    assert len(name) > NAME and "".join(name.split()) in "".join(
        "".join(line.replace("1.000", "").split()) for line in lines
    )


RECIPES = [
    "llm-streamline(share=0.5) | mixed(repair=projections)",
    "slice(dynamic, base=0, blocks_per_basis=3, repair=writers)",
    "llm-streamline(repair=projections)",
    "random-blocks(draw=1, repair=writers) | distil(minutes=10.5)",
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_recipe_breaks_between_its_words_and_settings(width: int) -> None:
    lines = printed([{"recipe": name, "loss": 1.0, "title": name} for name in RECIPES], width)
    assert max(len(line.rstrip()) for line in lines) <= width
    for word in (
        "llm-streamline(",
        "blocks_per_basis=3",
        "repair=projections)",
        "random-blocks(",
        "share=0.5)",
    ):
        assert sum(line.count(word) for line in lines) >= 2 * sum(word in name for name in RECIPES)
