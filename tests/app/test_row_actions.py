"""What can be done with a row of a study, and with a model of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_stand_in import board_run
from desk import Desk, press, seated, words
from idle_app import page
from streamlit.testing.v1 import AppTest

from app import repeat
from app.policy import Policy
from app.row_actions import TOKENS
from slicing.library import bring_in
from slicing.studies.requests import CompressRequest
from slicing.studies.store import bundled_run

LINE, SIZE = "llm-streamline(repair=writers)", "parameters=0.1"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def clicked(key: str) -> AppTest:
    app = page("study", study=key)
    app.session_state["study-mark"] = LINE, SIZE
    app.run()
    assert not app.exception
    return app


def test_a_row_of_a_study_is_kept_repeated_and_read(desk: Desk) -> None:
    run = board_run()
    silent = tuple(each.model_copy(update={"sample": None}) for each in run.result.measurements)
    run = run.model_copy(update={"result": run.result.model_copy(update={"measurements": silent})})
    key = bring_in(run.to_json().encode(), "it").key
    app = clicked(key)
    press(app, "Make and keep this model")
    kept = desk.tasks[-1]
    assert isinstance(kept, CompressRequest)
    assert (kept.recipe.line, kept.budget.line) == (LINE, SIZE)
    assert repeat.command(kept) in [each.value for each in app.code]
    press(clicked(key), "Let it write")
    asked = desk.tasks[-1]
    assert asked.kind == "trial" and asked.new_tokens == TOKENS
    assert asked.compress_request() == kept


def test_a_comparison_offers_the_same_for_each_of_its_models(desk: Desk) -> None:
    run = bundled_run()
    app = page("compare")
    planned = run.result.measurements[-1]
    assert planned.sample and planned.sample.text.strip() in [each.value for each in app.text]
    models = next(each for each in app.segmented_control if each.label == "Which model")
    models.set_value(models.options[0]).run()
    assert not app.exception
    press(app, "Make and keep this model")
    assert desk.tasks[-1].recipe == run.request.recipes[0]
    assert repeat.command(desk.tasks[-1]) in [each.value for each in app.code]


def test_strangers_are_offered_neither_models_nor_lines(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.policy", lambda: Policy(demo_mode=True))
    app = page("compare")
    assert not app.exception
    assert "Make and keep this model" not in [each.label for each in app.button]
    assert "The line that repeats it" not in words(app) + str([each.label for each in app.expander])
