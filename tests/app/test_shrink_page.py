"""The page that makes a model smaller, without a browser: before a job, while it runs, and after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from desk import Desk, charts, press, seated, words
from idle_app import MAIN, page
from shrink_stand_in import HEALED, WISH, shrink_request, shrink_run
from streamlit.testing.v1 import AppTest

from analysis.sources.model import ModelSource
from analysis.storage import runs_folder
from app import shrink_state, state, wording
from app.figures.shrink import (
    FAR,
    RUNGS,
    WIDEST,
    Beside,
    Point,
    draw_beside,
    draw_race,
    draw_underway,
    title_lines,
)
from app.policy import Policy
from slicing.healing.looks import Underway
from slicing.studies.options import known_options
from slicing.studies.requests import CompressRequest, ShrinkRequest, Trial
from slicing.studies.results import Run, TrialResult
from slicing.studies.store import MODEL_FOLDER, bundled_board, keep_run
from slicing.studies.underway import come_so_far
from slicing.wish import Wish

BOARD: Any = bundled_board()
TITLE = "Make it smaller"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def find(app: AppTest) -> Any:
    return app.button(key="find")


# Before anything runs


def test_the_bare_address_opens_it_and_answers_from_what_ships(desk: Desk) -> None:
    app = AppTest.from_file(str(MAIN), default_timeout=60).run()
    assert not app.exception and not app.error and not app.warning
    assert app.title[0].value == TITLE
    told = words(app)
    assert "Best so far for 20\N{NO-BREAK SPACE}% fewer parameters" in told
    assert "1.40 times the dense model's 22.67, and 1.39 times on the second text" in told
    assert charts(app) == ["options"]
    assert desk.tasks == []


def test_the_form_moves_what_is_known(desk: Desk) -> None:
    app = page("shrink")
    options = len(app.selectbox(key="option").options)
    app.slider(key="fewer").set_value(30).run()
    assert "Best so far for 30\N{NO-BREAK SPACE}% fewer parameters" in words(app)
    assert "no clear difference from" in words(app)
    app.slider(key="fewer").set_value(20).run()
    app.segmented_control(key="opens").set_value("everywhere").run()
    assert 0 < len(app.selectbox(key="option").options) < options
    assert "Every tool opens it" in words(app)
    app.slider(key="fewer").set_value(60).run()
    assert "Nothing is known yet of 60\N{NO-BREAK SPACE}% fewer parameters" in words(app)
    assert charts(app) == [] and not find(app).disabled
    app.segmented_control(key="smaller-by").set_value("memory").run()
    assert "GB of weights" in words(app)
    app.number_input(key="memory").set_value(9.0).run()
    assert "is not less: ask for less memory" in words(app)
    assert not app.exception and desk.tasks == []


def test_a_link_gives_the_form_back(desk: Desk) -> None:
    app = page("shrink", fewer="30", opens="Every tool")
    assert app.slider(key="fewer").value == 30


def test_the_button_asks_for_what_the_command_would(desk: Desk) -> None:
    app = page("shrink")
    assert find(app).label == "Find the best way for SmolLM2-135M-Instruct (demo), in 30 minutes"
    app.number_input(key="minutes").set_value(5.0).run()
    assert "in 5 minutes" in find(app).label
    assert desk.tasks == []  # no field starts anything
    find(app).click().run()
    assert not app.exception
    (task,) = desk.tasks
    assert task == shrink_request(wish=Wish(fewer=0.2, minutes=5.0))
    assert isinstance(task, ShrinkRequest) and task.speed_rounds == 5 and task.evaluation_windows == 16


def test_all_else_can_be_said_too(desk: Desk) -> None:
    app = page("shrink")
    app.number_input(key="quality").set_value(1.3).run()
    app.number_input(key="wish-calibration-windows").set_value(4).run()
    app.toggle(key="wish-own-healing").set_value(True).run()
    app.toggle(key="wish-precision").set_value(True).run()
    app.text_input(key="wish-tasks").set_value("piqa, arc_easy").run()
    find(app).click().run()
    (task,) = desk.tasks
    assert task.wish.quality == 1.3
    assert (task.calibration_windows, task.profile_windows) == (4, 4)
    assert task.calibration_precision == "fast"
    assert task.healing_text is not None and task.tasks == ("piqa", "arc_easy") and task.task_limit == 100


def test_an_option_can_be_looked_at_and_kept(desk: Desk) -> None:
    app = page("shrink")
    first = app.selectbox(key="option").value
    known = known_options(BOARD.request.model, Wish(fewer=0.2), BOARD.result.shape, 4)
    second = known[1].recipe
    assert first == known[0].recipe.line
    app.selectbox(key="option").set_value(second.line).run()
    assert second.line in [code.value for code in app.code]
    press(app, "Make and keep this model")
    (task,) = desk.tasks
    assert isinstance(task, CompressRequest)
    assert task.recipe == second and task.budget == known[1].budget
    assert task.model == ModelSource(kind="demo")


def test_an_option_of_the_study_that_ships_leads_to_its_card(desk: Desk) -> None:
    app = page("shrink")
    press(app, "Its card on Study")
    assert app.title[0].value == "Which recipe, at which size?"
    assert app.query_params["study"] in (shrink_state.DEMO, [shrink_state.DEMO])
    assert known_options(BOARD.request.model, WISH, BOARD.result.shape, 4)[0].recipe.line in [
        code.value for code in app.code
    ]


def test_a_model_of_which_nothing_is_known_can_be_made_smaller(desk: Desk, tiny_folder: Path) -> None:
    app = page("shrink")
    app.session_state["source"] = ModelSource.parse(str(tiny_folder))
    app.run()
    assert "Nothing is known yet of 20\N{NO-BREAK SPACE}% fewer parameters for this model" in words(app)
    find(app).click().run()
    assert desk.tasks[0].model.label == tiny_folder.name


def test_a_model_that_is_not_there_is_a_sentence(desk: Desk, tmp_path: Path) -> None:
    app = page("shrink")
    app.session_state["source"] = ModelSource(kind="folder", location=str(tmp_path / "nowhere"))
    app.run()
    assert not app.exception and find(app).disabled
    assert "nowhere" in app.warning[0].value


def test_strangers_see_what_is_known_and_no_button(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "enforced", Policy.demo)
    app = page("shrink")
    assert "This server makes no models for visitors" in words(app)
    assert "Best so far for 20\N{NO-BREAK SPACE}% fewer parameters" in words(app)
    labels = [button.label for button in app.button]
    assert not any("Find" in label or "Make and keep" in label for label in labels)


def test_strangers_do_not_see_what_others_tried(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_run(trial_run(shrink_request(), 3))
    source, shape = BOARD.request.model, BOARD.result.shape
    seen: list[Any] = []
    monkeypatch.setattr(
        shrink_state, "known_options", lambda *_: seen.append(_[-1]) or known_options(*_[:-1])
    )
    page("shrink")
    key = trial_run(shrink_request(), 3).key
    assert source and shape and seen[0](key)
    monkeypatch.setattr(state, "enforced", Policy.demo)
    page("shrink")
    assert not seen[-1](key)


# While it runs


def trial_run(request: ShrinkRequest, rung: Any, place: int = 0, shift: float = 0.0) -> Run:
    """The stored trial of a known recipe at a rung, which loses so much more than it does."""
    known = known_options(BOARD.request.model, WISH, BOARD.result.shape, 4)[place]
    trial = request.trial(known.recipe, known.budget, rung)
    evaluation = known.measured.evaluation
    nll = tuple(each + shift for each in evaluation.nll)[: trial.evaluation_windows]
    judged = evaluation.model_copy(update={"nll": nll})
    found = BOARD.result
    return BOARD.model_copy(
        update={
            "recorded_key": trial.key,
            "request": trial,
            "result": TrialResult(
                profile=found.profile,
                shape=found.shape,
                measurement=known.measured.model_copy(
                    update={"evaluation": judged, "search": judged if rung == 3 else None}
                ),
                calibration=found.calibration,
                evaluation=found.evaluation,
            ),
        }
    )


@pytest.fixture
def come(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Trials that are stored, whatever else would have to be true of them."""
    runs: list[Run] = []
    monkeypatch.setattr("slicing.studies.underway.list_runs", lambda but: (runs[::-1], []))
    return runs


def test_trials_of_a_wish_are_told_from_others(come: list[Run]) -> None:
    request = shrink_request()
    other = shrink_request(seed=7)
    come += [trial_run(request, 1, 1), trial_run(other, 1, 2), trial_run(request, 2), trial_run(request, 3)]
    found = come_so_far(request)
    assert [each.rung for each in found] == [1, 2, 3]
    assert [each.line for each in found] == [run.request.recipe.line for run in (come[0], *come[2:])]  # type: ignore[union-attr]
    dense = request.trial(Trial.model_fields["recipe"].get_default(), None, 3)
    come += [come[0].model_copy(update={"request": dense})]
    assert len(come_so_far(request)) == 3


def test_while_it_runs_the_rungs_fill_and_a_training_shows_its_loss(
    desk: Desk, come: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = page("shrink")
    find(app).click().run()
    (job,) = desk.active
    assert "waits" in words(app) and "The first preview comes" in words(app)
    assert charts(app) == []
    request: Any = job.task
    come += [trial_run(request, 1, 1, 0.2), trial_run(request, 1, 0, 0.1)]
    job.state, job.phase, job.done, job.total = "running", "Previews", 2, 9
    app.run()
    assert "2 of 9 tried" in words(app)
    assert "Least loss so far" in words(app)
    assert charts(app) == ["race"]
    job.phase = "Finalists"
    training = Underway(step="distil", windows=8, looks=HEALED.looks[:4], tokens=20_000, used=0.34)
    monkeypatch.setattr(shrink_state, "training_of", lambda process: training)
    app.run()
    assert charts(app) == ["training", "race"]
    assert "went from 3.520 to" in words(app)
    assert not app.exception


def test_any_job_that_heals_shows_its_loss_on_every_other_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Underway(step="distil", windows=8, looks=HEALED.looks[:4], tokens=20_000, used=0.34)
    monkeypatch.setattr(shrink_state, "training_of", lambda process: training)
    app = page("shrink")
    press(app, "Make and keep this model")
    assert "strip-training" not in charts(app)
    app.switch_page("app_pages/runs.py").run()
    assert "strip-training" in charts(app)


def test_what_was_stopped_goes_on_or_makes_room_for_another_wish(desk: Desk, come: list[Run]) -> None:
    app = page("shrink")
    find(app).click().run()
    desk.cancel(desk.active[0])
    app.run()
    assert "This was stopped. What has come is kept" in words(app)
    press(app, "Go on")
    assert len(desk.tasks) == 2 and desk.tasks[0] == desk.tasks[1]
    press(app, "Another wish")
    assert app.slider(key="fewer").value == 20  # the form is there, though the job runs


# What came of it


@pytest.fixture
def answered(desk: Desk) -> Run:
    run = shrink_run()
    keep_run(run)
    return run


def test_a_link_shows_the_answer_and_its_evidence(answered: Run) -> None:
    app = page("shrink", shrink=answered.key)
    told = words(app)
    assert app.header[0].value.startswith("Take “")
    assert "Against dense on" in told
    judged = answered.result.evaluation.label
    assert f"is clearly worse on {judged} and not clearly different on the second text" in told
    assert charts(app) == ["finalists", "healing", "shrink-body", "race"]
    (report,) = [each for each in app.get("download_button") if each.proto.label == "Download the report"]
    assert report.proto.type == "primary"
    assert "The model is not kept here any more" in told
    folder = runs_folder() / answered.key / MODEL_FOLDER
    folder.mkdir()
    app.run()
    codes = [code.value for code in app.code]
    assert str(folder) in codes
    assert any(f"slicescope export {answered.key} --to gguf" in code for code in codes)
    press(app, "Another wish")
    assert "Best so far for 20\N{NO-BREAK SPACE}% fewer parameters" in words(app)
    assert "shrink" not in app.query_params


def test_it_is_opened_from_runs(answered: Run) -> None:
    app = page("runs")
    press(app, "Open the answer")
    assert app.title[0].value == TITLE and app.header[0].value.startswith("Take “")
    assert app.query_params["shrink"] in (answered.key, [answered.key])


def test_the_answer_follows_its_job(desk: Desk, come: list[Run], answered: Run) -> None:
    app = page("shrink")
    find(app).click().run()
    (job,) = desk.active
    job.state, job.key, desk.active = "done", answered.key, ()
    app.run()
    assert app.header[0].value.startswith("Take “")
    assert app.query_params["shrink"] in (answered.key, [answered.key])


def test_a_run_that_is_none_is_told(desk: Desk) -> None:
    app = page("shrink", shrink="0123456789ab")
    assert "is no longer stored." in app.warning[0].value
    assert "Best so far" in words(app)


def test_strangers_are_told_no_folder(answered: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs_folder() / answered.key / MODEL_FOLDER).mkdir()
    monkeypatch.setattr(state, "enforced", Policy.demo)
    app = page("shrink", shrink=answered.key)
    assert app.header[0].value.startswith("Take “")
    assert not any(str(runs_folder()) in code.value for code in app.code)


# Charts and sentences


def test_what_broke_is_told_and_not_drawn() -> None:
    rows = [Beside("good", 1.3, (1.2, 1.4), 1.5), Beside("<b>broke", 8e4, None, 9.0)]
    drawing = draw_beside(rows)
    figure: Any = drawing.figure
    drawn = [x for trace in figure.data for x in trace.x]
    assert drawn and max(drawn) <= FAR
    notes = [note.text for note in figure.layout.annotations]
    assert "1.30× · 1.50×" in notes and "80,000× → · 9× →" in notes and "&lt;b&gt;broke" in notes
    assert [list(trace.customdata) for trace in figure.data] == [[0], [0]]
    assert "good" in drawing.takeaway and draw_beside([]).takeaway == "Nothing is known yet."


def test_a_long_title_is_parted_after_its_commas_and_at_no_hyphen() -> None:
    title = (
        "Span of largest cosine (LLM-Streamline), 50 % of what goes, then one budget over channels, heads "
        "and sub-layers, all projections fitted"
    )
    assert title_lines(title) == [
        "Span of largest cosine (LLM-Streamline), 50 % of what goes,",
        "then one budget over channels, heads and sub-layers,",
        "all projections fitted",
    ]
    without_commas = "all output projections from the first cut on fitted to the stream of sub-layers"
    assert [len(line) <= WIDEST for line in title_lines(without_commas)] == [True, True]
    assert " ".join(title_lines(without_commas)) == without_commas


def test_the_best_of_every_rung_is_named() -> None:
    points = [Point(1, "b", 3.2), Point(1, "a", 3.1), Point(1, "broke", 30.0), Point(2, "a", 3.0)]
    drawing = draw_race(points)
    figure: Any = drawing.figure
    assert [note.text for note in figure.layout.annotations] == ["a", "a"]
    assert [trace.name for trace in figure.data] == list(RUNGS[:2])
    assert [len(trace.x) for trace in figure.data] == [2, 1]
    assert "Previews: 3 tried, least loss 3.100 by a." in drawing.takeaway


def test_a_training_that_has_begun_reaches_as_far_as_it_will_come() -> None:
    training = Underway(step="distil", windows=8, looks=HEALED.looks[:3], tokens=15_000, used=0.25)
    drawing = draw_underway(training)
    figure: Any = drawing.figure
    assert list(figure.layout.xaxis.range) == [0, pytest.approx(63_600)]
    assert "25 % of its budget, 15,000 tokens" in drawing.takeaway
    early = Underway(step="distil", windows=8, looks=HEALED.looks[:1], tokens=0, used=0.0)
    assert "the first look at the loss comes after a tenth" in draw_underway(early).takeaway


def test_what_is_known_is_one_sentence() -> None:
    known = known_options(BOARD.request.model, Wish(fewer=0.3), BOARD.result.shape, 4)
    told = wording.known(known, Wish(fewer=0.3))
    assert told.count(". ") == 0 and told.endswith(".")
    assert "no clear difference from “One budget" in told
    assert "nothing else is known" in wording.known(known[:1], Wish(fewer=0.3))
    assert "all others that are known are clearly worse" in wording.known(
        [known[0], known[-1]], Wish(fewer=0.3)
    )
