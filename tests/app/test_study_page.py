"""The Study page without a browser: its forms, its views, the card of a recipe, and links of old pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from board_stand_in import board_run
from conftest import byte_tokenizer, tiny_model
from contest_stand_in import LOSSES, contest_run, contest_study
from desk import Desk, charts, press, seated, words
from idle_app import MAIN, page
from pydantic import Field
from streamlit.testing.v1 import AppTest

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from app import shipped, state
from app.forms import FIRST_ON_BOARD, FIRST_RECIPES
from app.job import Job
from app.policy import Policy
from slicing.library import bring_in
from slicing.steps import STEPS
from slicing.steps.removal import Removal
from slicing.studies.files import write_study
from slicing.studies.requests import ProfileRequest
from slicing.studies.run import perform
from slicing.studies.store import bundled_board, bundled_run, bundled_sweep
from slicing.studies.study import Study, recipes

BOTH = "sleb(share=0.5) | slice(dynamic, base=0, blocks_per_basis=3, repair=writers)"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def form(kind: str, **parameters: str) -> AppTest:
    """The page with the form of a kind of study."""
    app = page("study", **parameters)
    app.segmented_control(key="study-kind").set_value(kind).run()
    assert not app.exception
    return app


def look(app: AppTest, view: str) -> AppTest:
    next(each for each in app.segmented_control if each.label == "View").set_value(view).run()
    assert not app.exception
    return app


def click(app: AppTest, recipe: str, budget: str) -> AppTest:
    app.session_state["study-mark"] = recipe, budget
    app.run()
    assert not app.exception
    return app


# What ships, and links


@pytest.mark.parametrize(
    ("name", "view", "more"),
    [
        ("demo-map", "map", "frontier"),
        ("demo-ranking", "ranking", None),
        ("demo-frontier", "frontier", "ranking"),
    ],
)
def test_the_studies_that_ship_begin_with_their_view(
    desk: Desk, name: str, view: str, more: str | None
) -> None:
    app = page("study", study=name)
    assert not app.error
    assert "The demo run that ships with slicescope" in words(app)
    assert charts(app) == [view]
    # One view is no choice.
    assert ("View" in {each.label for each in app.segmented_control}) == (more is not None)
    if more:
        assert charts(look(app, more)) == ["sizes" if view == "map" else more]


def test_warnings_of_a_study_stand_below_what_it_found(desk: Desk) -> None:
    app = page("study", study="demo-frontier")
    told = [str(getattr(each, "value", "")) for each in app.main]  # in the order of the page
    found = next(place for place, line in enumerate(told) if "Least perplexity against dense" in line)
    warned = next(place for place, line in enumerate(told) if "a plain model in one basis has two" in line)
    assert found < warned


def test_the_demo_studies_are_chosen_on_the_page(desk: Desk) -> None:
    app = page("study")
    press(app, "Recipes at several sizes: size against loss")
    assert app.query_params["study"] in ("demo-frontier", ["demo-frontier"])
    assert charts(app) == ["frontier"]


@pytest.mark.parametrize("old", ["sweep", "contest", "leaderboard"])
def test_old_links_lead_to_the_study_page_with_their_run(desk: Desk, old: str) -> None:
    run = bring_in(contest_run().to_json().encode(), "it")
    app = page("study", **{old: run.key})
    assert f"Run {run.key}" in words(app)
    assert app.query_params["study"] in (run.key, [run.key])
    assert old not in app.query_params


def test_the_study_of_an_old_page_is_shown_first(desk: Desk) -> None:
    app = AppTest.from_file(str(MAIN), default_timeout=60).run()
    app.session_state["study-run"] = shipped.EARLIER["leaderboard"]
    app.switch_page("app_pages/study.py").run()
    assert charts(app) == ["frontier"]


def test_a_study_is_opened_from_the_runs(desk: Desk) -> None:
    run = bring_in(contest_run().to_json().encode(), "it")
    app = press(page("runs"), "Open the study")
    assert app.title[0].value == "Which recipe, at which size?"
    assert app.query_params["study"] in (run.key, [run.key])


def test_a_comparison_is_shown_as_a_ranking_too(desk: Desk) -> None:
    run = bring_in(bundled_run().to_json().encode(), "it")
    app = page("study", study=run.key)
    assert not app.error
    assert charts(app)[0] == "ranking"


# Sweeps: bases by targets


def test_a_sweep_is_queued_and_what_has_come_is_shown(desk: Desk) -> None:
    app = form("sweep")
    app.multiselect(key="sweep-bases").set_value([0, 10])
    app.multiselect(key="sweep-targets").set_value([30, 20])
    press(app, "Run")
    (study,) = desk.tasks
    assert study.view == "map"
    assert [each.line for each in study.recipes] == [
        "slice(constant, one_shot=true)",
        "slice(dynamic, base=0, one_shot=true)",
        "slice(dynamic, one_shot=true)",
    ]
    assert [each.target for each in study.budgets] == [0.2, 0.3]
    assert charts(app) == ["map"]
    desk.cancel(desk.active[0])
    app.run()
    press(app, "Resume")
    assert desk.tasks == [study, study]


def test_an_impossible_sweep_is_a_sentence(desk: Desk) -> None:
    app = form("sweep")
    app.multiselect(key="sweep-bases").set_value([])
    press(app, "Run")
    assert any("distinct bases" in warning.value for warning in app.warning)
    assert desk.tasks == []


def test_a_study_of_another_session_is_shown_while_it_runs(desk: Desk) -> None:
    desk.active = (Job(1, bundled_sweep().request, "somebody", state="running"),)
    app = page("study")
    assert "from another session" in words(app)
    assert charts(app) == ["map"]


def test_the_study_that_is_shown_stays_while_another_runs(desk: Desk) -> None:
    sweep = bring_in(bundled_sweep().to_json().encode(), "it")
    other = bundled_sweep().request.model_copy(update={"seeds": (9,)})
    desk.active = (Job(1, other, "somebody", state="running"),)
    app = page("study", study=sweep.key)
    assert f"Run {sweep.key}" in words(app)
    assert "trials are stored" not in words(app)


def test_a_cell_has_a_card_and_opens_its_plan(desk: Desk) -> None:
    app = page("study", study="demo-map")
    study: Any = bundled_sweep().request
    recipe, budget = study.recipes[1], study.budgets[1]
    click(app, recipe.line, budget.line)
    assert recipe.title in words(app).replace("\\", "")
    assert any(code.value == recipe.line for code in app.code)
    assert "for the baseline" in words(app)
    press(app, "Open in Tune")
    plan = app.session_state["plan"]
    assert (plan.allocation, plan.target, plan.base) == ("dynamic", budget.target, recipe.steps[0].base)


# Contests: recipes at one size


def test_a_contest_is_queued_and_what_has_come_is_shown(desk: Desk) -> None:
    app = form("contest")
    assert app.multiselect(key="contest-recipes").value == list(FIRST_RECIPES)
    assert "10 trials" in words(app)
    app.multiselect(key="contest-recipes").set_value(["slice(rising)", "slice(constant)", "slice(searched)"])
    app.multiselect(key="contest-seeds").set_value([2, 0])
    app.segmented_control(key="contest-equal").set_value("slice")
    app.number_input(key="contest-evaluation-windows").set_value(9)
    app.toggle(key="contest-second").set_value(False)
    press(app, "Run")
    (study,) = desk.tasks
    assert [each.line for each in study.recipes] == ["slice(constant)", "slice(rising)", "slice(searched)"]
    assert (study.seeds, study.evaluation_windows, study.other) == ((0, 2), 9, None)
    assert study.budgets[0].line == "mean_slice=0.25"
    assert charts(app) == ["ranking"]
    desk.cancel(desk.active[0])
    app.run()
    press(app, "Resume")
    assert desk.tasks == [study, study]


def test_the_usual_contest_is_at_equal_parameters_with_a_second_text(desk: Desk) -> None:
    press(form("contest"), "Run")
    (study,) = desk.tasks
    assert (study.seeds, study.budgets[0].line) == ((0,), "like_constant=0.25")
    assert study.other == TextSource(kind="demo", split="out-of-style")


@pytest.mark.parametrize(
    ("kind", "key"), [("sweep", "sweep"), ("contest", "contest"), ("leaderboard", "board")]
)
def test_repetitions_are_asked_for_by_the_words_of_the_field(desk: Desk, kind: str, key: str) -> None:
    app = form(kind)
    asked = app.number_input(key=f"{key}-jitter")
    field = Study.model_fields["jitter"]
    assert (asked.label, asked.help, asked.value) == (field.title, field.description, 0)
    asked.set_value(2).run()
    assert "Each calibrated recipe is repeated with noise, 2 times." in words(app)
    press(app, "Run")
    assert desk.tasks[0].jitter == 2


@pytest.mark.parametrize(
    ("kind", "key"), [("sweep", "sweep"), ("contest", "contest"), ("leaderboard", "board")]
)
def test_the_precision_of_calibration_is_asked_for_by_the_words_of_the_field(
    desk: Desk, kind: str, key: str
) -> None:
    app = form(kind)
    asked = app.toggle(key=f"{key}-precision")
    field = Study.model_fields["calibration_precision"]
    assert (asked.label, asked.help, asked.value) == (field.title, field.description, False)
    asked.set_value(True).run()
    press(app, "Run")
    assert desk.tasks[0].calibration_precision == "fast"


def test_recipes_have_human_titles_and_any_of_them_is_the_baseline(desk: Desk) -> None:
    app = form("contest")
    assert "Slicing, rising with depth (ATP)" in app.multiselect(key="contest-recipes").options
    assert any("slice(rising)" in code.value for code in app.code)  # the lines stand below
    app.selectbox(key="contest-recipes-baseline").set_value("slice(rising)").run()
    press(app, "Run")
    assert desk.tasks[0].baseline.line == "slice(rising)"


@pytest.mark.parametrize(
    ("chosen", "one_shot", "sentence"),
    [
        ([], False, "distinct recipes"),
        (["slice(constant)", "slice(constant, repair=writers)"], True, "Repair follows sequential slicing"),
    ],
)
def test_an_impossible_contest_is_a_sentence(
    desk: Desk, chosen: list[str], one_shot: bool, sentence: str
) -> None:
    app = form("contest")
    app.multiselect(key="contest-recipes").set_value(chosen)
    app.segmented_control(key="contest-bases-found").set_value(one_shot)
    press(app, "Run")
    assert any(sentence in warning.value for warning in app.warning)
    assert desk.tasks == []


def test_a_ranking_is_read_and_its_recipes_have_cards(desk: Desk) -> None:
    run = bring_in(contest_run().to_json().encode(), "it")
    app = page("study", study=run.key)
    assert not app.error
    assert charts(app) == ["ranking", "scatter"]
    assert "rank correlation" in words(app)
    budget = contest_study().budgets[0].line
    for line in LOSSES:
        click(app, line, budget)
        assert any(code.value == line for code in app.code)
        assert charts(app) == ["ranking", "recipe-widths", "scatter"]
    assert "took the loss from 3.500 to 3.250" in words(app)
    press(app, "Open in Tune")
    plan = app.session_state["plan"]
    result: Any = run.result
    schedule = result.measurements[-1].schedule
    assert plan.allocation == "manual"
    assert plan.target == pytest.approx(schedule.mean_slice, abs=1e-3)
    assert plan.settings["shares"] == pytest.approx(schedule.block_fractions, abs=6e-4)
    scores = result.profile.redundancy("lr")
    assert plan.schedule(scores, result.shape).widths == schedule.widths


def test_strangers_are_offered_what_is_quick(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setattr(state, "enforced", lambda: Policy.demo())
    app = form("contest")
    offered = app.multiselect(key="contest-recipes").options
    assert len(offered) >= len(FIRST_RECIPES)
    assert not [title for title in offered if "searched" in title or "one loss" in title]
    press(app, "Run")
    assert len(desk.tasks) == 1
    assert "File" not in app.segmented_control(key="study-kind").options
    assert not [toggle for toggle in page("profile").toggle if toggle.key == "profile-damage"]


# Leaderboards: recipes at several sizes


def test_a_board_follows_a_recipe_and_keeps_its_model(desk: Desk) -> None:
    run = bring_in(board_run().to_json().encode(), "it")
    app = page("study", study=run.key)
    assert not app.error
    assert charts(app) == ["frontier"]
    line = "llm-streamline(repair=writers)"
    click(app, line, "parameters=0.1")
    assert "without 5-8" in words(app)
    assert "Known issue of" in words(app)
    press(app, "Make and keep this model")
    (request,) = desk.tasks
    assert (request.kind, request.recipe.line, request.budget.line) == ("compress", line, "parameters=0.1")
    click(app, line, "parameters=0.2")
    assert "without 5-12" in words(app)
    app.segmented_control(key="study-text").set_value("second").run()
    assert not app.exception
    look(app, "ranking")
    app.segmented_control(key="study-budget").set_value("parameters=0.2").run()
    assert charts(app) == ["ranking", "recipe-body"]
    assert not app.exception


def test_a_card_shows_where_a_recipe_cut(desk: Desk) -> None:
    lines = ("slice(constant)", "fasp", "shortgpt")
    run = bring_in(board_run(recipes=recipes(*lines)).to_json().encode(), "it")
    app = click(page("study", study=run.key), "fasp", "parameters=0.1")
    assert charts(app) == ["frontier", "recipe-body"]
    told = words(app)
    assert "Where it was cut" in told and "Block 0 has no attention any more." in told
    assert "Every column is a block" in told
    app = click(app, "shortgpt", "parameters=0.1")
    assert "Blocks 5-8 are gone." in words(app)
    app = click(app, "slice(constant)", "parameters=0.1")
    assert "recipe-body" not in charts(app)


def test_a_board_is_queued_and_shows_what_has_come(desk: Desk) -> None:
    app = form("leaderboard")
    assert app.multiselect(key="board-recipes").value == list(FIRST_ON_BOARD)
    app.multiselect(key="board-sizes").set_value([20])
    app.multiselect(key="board-recipes").set_value(["sleb", "slice(constant)", BOTH])
    app.segmented_control(key="board-share").set_value("search")
    app.number_input(key="board-search-windows").set_value(2)
    press(app, "Run")
    (study,) = desk.tasks
    assert [each.line for each in study.budgets] == ["parameters=0.2"]
    assert [each.line for each in study.recipes] == [
        "slice(constant)",
        "sleb(windows=2)",
        BOTH.replace("share=0.5", "windows=2, share=search"),
    ]
    assert charts(app) == ["frontier"] or charts(app) == ["ranking"]


def test_what_a_shallow_model_cannot_give_is_told_before_it_is_queued(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_model("llama", num_hidden_layers=10).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    words_of = tmp_path / "words.txt"
    words_of.write_text("Ten blocks are few. " * 30)
    model, text = ModelSource.parse(str(folder)), TextSource.parse(str(words_of), "calibration")
    run = perform(ProfileRequest(model=model, text=text, windows=2, window_length=32))
    app = page("study", profile=run.key)
    app.segmented_control(key="study-kind").set_value("leaderboard").run()
    (shown,) = app.warning  # of the board on show; the form begins with what this model can give
    assert "This is a run of SmolLM2-135M" in shown.value
    app.multiselect(key="board-sizes").set_value([10, 20]).run()
    (warning,) = (each for each in app.warning if each.value != shown.value)
    assert "LLM-Streamline" in warning.value and "10\N{NO-BREAK SPACE}% fewer parameters" in warning.value
    assert next(each for each in app.button if each.label == "Run").disabled
    app.multiselect(key="board-sizes").set_value([20]).run()
    press(app, "Run on tiny")
    assert desk.tasks[0].model == model


@pytest.mark.parametrize(("sizes", "chosen"), [([], ["slice(constant)"]), ([10], [])])
def test_an_impossible_board_is_a_sentence(desk: Desk, sizes: list[int], chosen: list[str]) -> None:
    app = form("leaderboard")
    app.multiselect(key="board-sizes").set_value(sizes)
    app.multiselect(key="board-recipes").set_value(chosen)
    press(app, "Run")
    assert app.warning
    assert desk.tasks == []


# Recipes of one's own


class Dummy(Removal):
    """A step that anybody might register."""

    name = "dummy"
    title = "A dummy"
    source = "Nobody, 2026"
    known_issue = "It does nothing."
    colour: int = Field(default=3, ge=1, le=9, title="Colour of the dummy")
    merge: bool = False
    variants: ClassVar[tuple[str, ...]] = ()

    def layout(self, view: Any, count: int) -> Any:
        """Decide nothing."""


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "dummy", Dummy)


def test_a_step_that_anybody_registers_is_in_the_form_with_its_fields(desk: Desk, dummy: None) -> None:
    app = form("leaderboard")
    key = "board-recipes"
    assert "A dummy" in app.selectbox(key=f"{key}-step").options
    app.selectbox(key=f"{key}-step").set_value("dummy").run()
    colour = app.number_input(key=f"{key}-dummy-colour")
    assert (colour.label, colour.value, colour.min, colour.max) == ("Colour of the dummy", 3, 1, 9)
    assert app.toggle(key=f"{key}-dummy-merge").label == "Merge"
    assert app.selectbox(key=f"{key}-dummy-repair").options[0] == "None"
    colour.set_value(5).run()
    assert any(code.value == "dummy(colour=5)" for code in app.code)
    assert "Known issue of A dummy: It does nothing." in words(app)
    press(app, "Add to the study")
    assert app.multiselect(key=key).value == [*FIRST_ON_BOARD, "dummy(colour=5)"]
    press(app, "Run")
    assert desk.tasks[0].recipes[-1].line == "dummy(colour=5)"


def test_steps_follow_one_another_and_the_fields_of_an_allocation_are_asked_for(desk: Desk) -> None:
    app = form("leaderboard")
    key = "board-recipes"
    app.selectbox(key=f"{key}-step").set_value("sleb").run()
    app.selectbox(key=f"{key}-then").set_value("slice").run()
    app.selectbox(key=f"{key}-then-slice-allocation").set_value("softmax").run()
    app.number_input(key=f"{key}-then-slice-temperature").set_value(0.1)
    app.segmented_control(key=f"{key}-share").set_value(0.25).run()
    assert any(code.value == "sleb(share=0.25) | slice(softmax, temperature=0.1)" for code in app.code)
    app.selectbox(key=f"{key}-then-slice-allocation").set_value("dynamic").run()
    app.slider(key=f"{key}-then-slice-base").set_value(5).run()
    assert any("slice(dynamic, base=0.05)" in code.value for code in app.code)


def test_fields_that_do_not_go_together_are_a_sentence_in_place(desk: Desk) -> None:
    app = form("contest")
    key = "contest-recipes"
    app.selectbox(key=f"{key}-step").set_value("slice").run()
    app.toggle(key=f"{key}-slice-one_shot").set_value(True).run()
    app.selectbox(key=f"{key}-slice-repair").set_value("writers").run()
    assert any("Repair follows sequential slicing" in warning.value for warning in app.warning)


def test_a_line_is_typed_and_what_does_not_fit_names_its_column(desk: Desk) -> None:
    app = form("contest")
    key = "contest-recipes"
    app.segmented_control(key=f"{key}-how").set_value("line").run()
    app.text_input(key=f"{key}-line").set_value("slice(dynamc)").run()
    assert any("column" in warning.value for warning in app.warning)
    app.text_input(key=f"{key}-line").set_value("slice(dynamic, base=0.05)").run()
    assert "Slicing, dynamic" in words(app)
    press(app, "Add to the study")
    press(app, "Run")
    assert desk.tasks[0].recipes[-1].line == "slice(dynamic, base=0.05)"


def test_a_study_file_is_pasted(desk: Desk) -> None:
    app = form("file")
    assert any("Choose a ready study" in warning.value for warning in app.warning)
    study: Any = bundled_board().request
    update = {"recipes": recipes("slice(constant)", "shortgpt"), "redrawn": ()}
    small = study.model_copy(update=update)
    app.text_area(key="study-pasted").set_value(write_study(small)).run()
    press(app, "Run")
    assert desk.tasks == [small]
    app = form("file")
    app.text_area(key="study-pasted").set_value("recipes = 3").run()
    assert any("study file" in warning.value for warning in app.warning)


def test_what_repeats_a_study_is_its_file(desk: Desk) -> None:
    study: Any = bundled_board().request
    app = page("study", study="demo-frontier")
    told = [code.value for code in app.code if "recipes = [" in code.value]
    assert told == [write_study(study).strip()]


def test_tokens_of_training_are_asked_for_where_a_recipe_heals(desk: Desk) -> None:
    app = form("leaderboard")
    asked = [each.key for each in app.number_input]
    assert "board-healing-tokens" not in asked
    key = "board-recipes"
    app.segmented_control(key=f"{key}-how").set_value("line").run()
    app.text_input(key=f"{key}-line").set_value("sleb | distil").run()
    press(app, "Add to the study")
    field = Study.model_fields["healing_tokens"]
    asked = app.number_input(key="board-healing-tokens")
    assert (asked.label, asked.help, asked.value) == (field.title, field.description, 0)
    asked.set_value(30_000).run()
    press(app, "Run")
    assert desk.tasks[0].recipes[-1].line == "sleb | distil(tokens=30000)"
    assert desk.tasks[0].healing_tokens == 30_000


@pytest.mark.parametrize(("kind", "key"), [("contest", "contest"), ("leaderboard", "board")])
def test_int8_is_asked_for(desk: Desk, kind: str, key: str) -> None:
    app = form(kind)
    app.toggle(key=f"{key}-int8").set_value(True).run()
    press(app, "Run")
    assert desk.tasks[0].int8
