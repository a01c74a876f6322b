"""Two runs on the Runs page: their models window by window where they can be paired, and else why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from desk import charts, seated, words
from streamlit.testing.v1 import AppTest

from slicing.studies.beside import deciding_model, judged_models
from slicing.studies.store import bundled_board, bundled_run, bundled_widths


def shown(first: str, second: str) -> AppTest:
    """What is shown of two of the runs that ship."""

    def script(first: str, second: str) -> None:
        from app.side_by_side import show_windows
        from slicing.studies import store

        show_windows(getattr(store, first)(), getattr(store, second)())

    app = AppTest.from_function(script, args=(first, second), default_timeout=60).run()
    assert not app.exception
    return app


@pytest.fixture(autouse=True)
def _desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seated(monkeypatch, tmp_path)


def test_two_studies_on_the_same_windows_are_paired_model_by_model() -> None:
    app = shown("bundled_widths", "bundled_board")
    assert charts(app) == ["beside-difference", "beside-windows"]
    assert "on the same 16 windows" in words(app)
    first, second = app.selectbox
    assert [len(each.options) for each in (first, second)] == [
        len(judged_models(run)) for run in (bundled_widths(), bundled_board())
    ]
    first.set_value(0).run()
    app.selectbox[1].set_value(0).run()
    assert not app.exception
    assert "+0.0" in words(app) and "no clear difference" in words(app)
    assert "Dense (" in words(app)  # two of one name are told apart by their runs


def test_the_model_that_a_run_is_about_is_chosen_first() -> None:
    models = judged_models(bundled_run())
    assert models[deciding_model(bundled_run())].name == "dynamic"
    best = judged_models(bundled_board())[deciding_model(bundled_board())]
    assert best.title != "Dense"


def test_what_cannot_be_paired_is_one_sentence() -> None:
    app = shown("bundled_run", "bundled_units")
    assert charts(app) == []
    assert "judged no model window by window" in words(app)
