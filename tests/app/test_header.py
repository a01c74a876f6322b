"""The bar under the navigation: what runs, what waits, what is done; and the buttons that ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from desk import Desk, press, seated, words
from idle_app import page
from streamlit.testing.v1 import AppTest


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def finish(desk: Desk, key: str | None) -> None:
    (job,) = desk.active
    job.state, job.key, desk.active = "done", key, ()


def test_the_button_says_that_its_job_runs_and_another_setting_is_another_job(desk: Desk) -> None:
    app = press(page("tune"), "Compare with constant")
    assert "Compare with constant" not in labels(app)
    (waits,) = (button for button in app.button if button.label == "Waiting for its turn")
    assert waits.disabled
    desk.active[0].state = "running"
    app.run()
    assert "Running now" in labels(app)
    app.slider(key="sp").set_value(30).run()
    assert "Running now" not in labels(app)
    assert not next(button for button in app.button if button.label == "Compare with constant").disabled


def test_the_button_of_a_form_says_so_too_but_can_be_pressed(desk: Desk) -> None:
    app = press(page("profile"), "Measure")
    assert len(desk.tasks) == 1
    (waits,) = (button for button in app.button if button.label == "Waiting for its turn")
    assert not waits.disabled
    finish(desk, None)
    app.run()
    assert "Measure" in labels(app)


def test_what_others_run_changes_no_button_of_mine(desk: Desk) -> None:
    press(page("tune"), "Compare with constant")
    desk.active[0].owner = "another"
    assert "Compare with constant" in labels(page("tune"))


def test_a_job_says_its_phase_its_share_and_its_time_on_every_page(desk: Desk) -> None:
    app = press(page("profile"), "Measure")
    (job,) = desk.active
    job.state = "running"
    job.advance("Profiling", 3, 8)
    for name in ("profile", "tune", "compare", "study", "runs"):
        app.switch_page(f"app_pages/{name}.py").run()
        assert "Profiling, 3 of 8" in words(app), name
        assert "Cancel" in labels(app), name


def test_what_is_done_leads_to_its_result_once(desk: Desk) -> None:
    app = press(page("tune"), "Compare with constant")
    finish(desk, "0123456789ab")
    app.run()
    assert "Done: Compare SmolLM2-135M-Instruct" in words(app)
    app = press(app, "See the result")
    assert app.title[0].value == "What did it cost?"
    assert "See the result" not in labels(app)
