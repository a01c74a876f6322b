"""The Compare page on comparisons of recipes that do not slice, without a browser: results are made up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from board_stand_in import INNER, board_run
from desk import Desk, charts, press, seated, words
from idle_app import page
from streamlit.testing.v1 import AppTest

from app.body import body_of, body_table
from app.cli.work import _tell_memory
from app.figures.body import draw_body
from app.other_way import best_other_way
from app.proposal import propose
from app.report import build_report
from app.wording import BODY_READING, change, cost, deciding, other_way
from slicing.library import bring_in
from slicing.plans import Plan
from slicing.studies.results import Run
from slicing.studies.store import bundled_run
from slicing.studies.study import recipes
from slicing.studies.verdicts import Comparison, read_comparison


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def compared_with(line: str) -> Run:
    """Constant slicing and another recipe, at one size, looked at as a comparison."""
    run = board_run(recipes=recipes("slice(constant)", line), sizes=(0.1,))
    study = run.request.model_copy(update={"view": "comparison"})
    return run.model_copy(update={"recorded_key": study.key, "request": study})


def read(run: Run) -> Comparison:
    assert run.request.kind == "study" and run.result.kind == "study"
    return read_comparison(run.request, run.result)


def opened(run: Run) -> AppTest:
    return page("compare", compare=bring_in(run.to_json().encode(), "it").key)


def test_a_recipe_that_cuts_inside_blocks_has_a_picture_of_the_body(desk: Desk) -> None:
    run = compared_with("fasp")
    app = opened(run)
    made = read(run).measured["fasp"]
    assert made.inner == INNER and run.result.shape
    boxes = body_of(run.result.shape, made.inner)
    assert charts(app)[-1] == "body"
    assert draw_body(boxes).takeaway in words(app) and BODY_READING in words(app)
    app.session_state["body-numbers"] = True  # opens the table
    app.run()
    shown = next(table.value for table in app.dataframe if list(table.value) == list(body_table(boxes)))
    assert shown["parameters"].tolist() == [box.left for box in boxes]
    assert "Block 0 has no attention any more." in words(app)


def test_a_recipe_that_slices_has_no_picture_of_the_body(desk: Desk) -> None:
    assert "body" not in charts(page("compare"))


def test_nothing_is_called_slicing_that_does_not_slice(desk: Desk) -> None:
    app = opened(compared_with("fasp"))
    verdict = app.subheader[0].value
    assert verdict.startswith("Linked columns (FASP) predicts :green[better] than constant")
    assert "at equal parameters" in verdict
    told = words(app)
    assert "Fasp slicing" not in told and "mean slice" not in told and "Slicing takes" not in told
    assert "plan on the Tune page has changed" not in told  # for there is no plan in this comparison
    assert "Make and keep this model" in [button.label for button in app.button]


def test_a_comparison_is_told_at_what_is_equal() -> None:
    inside, shipped = read(compared_with("fasp")), read(bundled_run())
    assert [how for how, _ in deciding(inside)] == ["at equal parameters"]
    assert [how for how, _ in deciding(shipped)] == ["at equal mean slice", "at equal parameters"]
    alone = shipped._replace(study=shipped.study.model_copy(update={"matched": False}))
    assert [how for how, _ in deciding(alone)] == ["at equal mean slice"]


def test_page_and_command_line_say_alike_what_the_work_takes(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    run = bundled_run()
    assert run.result.shape
    _tell_memory(propose(run, Plan()).comparison(), run.result.shape)
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith("The work takes about") and told in words(page("compare"))


def test_a_comparison_goes_on_with_slicing_whatever_repaired_the_one_shown() -> None:
    slicing = propose(compared_with("mixed(repair=projections)"), Plan()).comparison()
    assert [each.repaired for each in slicing.recipes] == ["none", "none"]


def test_the_answer_begins_with_the_cost_against_dense(desk: Desk) -> None:
    app = page("compare")
    run = bundled_run()
    assert app.header[0].value == cost(read(run))
    assert charts(app)[0] == "difference"  # the intervals are drawn beside the answer
    best = best_other_way(run, read(run))
    assert best and best.recipe.line != read(run).study.recipes[-1].line
    assert other_way(read(run), best) in words(app).replace("\\", "")
    app = press(app, "Look at that study")
    assert app.title[0].value == "Which recipe, at which size?"
    assert charts(app)[0] == "frontier"


def test_the_report_begins_with_the_same_answer(desk: Desk) -> None:
    text = build_report(bundled_run())
    places = [text.index(told) for told in ("perplexity doubles", "predicts better than", "best other way")]
    assert places == sorted(places) and places[-1] < text.index("<nav")
    assert "chart-answer" in text[: text.index("<nav")]


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (0.9, "perplexity falls by 10.0 % for"),
        (1.0, "perplexity stays the same for"),
        (1.34, "perplexity rises by 34.0 % for"),
        (2.04, "perplexity doubles for"),
        (2.95, "perplexity triples for"),
        (2.5, "perplexity becomes 2.5 times as high for"),
        (1234.5, "perplexity becomes 1,234.5 times as high for"),
    ],
)
def test_the_cost_is_said_in_words(times: float, told: str) -> None:
    found = read(bundled_run())
    dense = found.measured["dense"]
    nll = tuple(each + math.log(times) for each in dense.evaluation.nll)
    evaluation = dense.evaluation.model_copy(update={"nll": nll})
    planned = found.measured[found.planned].model_copy(update={"evaluation": evaluation})
    moved = found._replace(measured={**found.measured, found.planned: planned})
    moved = moved._replace(differences=moved.paired([("dense", found.planned)]))
    said = cost(moved).replace("\N{NO-BREAK SPACE}", " ")
    assert told in said and said.endswith("% fewer parameters.")


def test_no_other_way_is_said_where_none_is_known() -> None:
    found = read(bundled_run())
    assert other_way(found, None) == "No other way has been tried on this model at this size."
    dense = found.measured["dense"]
    grown = found._replace(measured={**found.measured, found.planned: dense})
    assert best_other_way(bundled_run(), grown) is None


def test_the_change_against_constant_is_told_once(desk: Desk) -> None:
    (told,) = {change(each) for _, each in deciding(read(bundled_run()))}
    said = words(page("compare"))
    assert said.count(told) == 1
    assert "At equal mean slice: 95" in said and "nats per token" in said
