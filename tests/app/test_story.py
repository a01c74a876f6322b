"""The story tells the numbers of its run, hides them until asked, and opens at the step the URL names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idle_app import AppTest
from told_stand_in import case

from analysis.errors import PlanError, StorageError
from app.figures.base import DARK, LIGHT, WHISKERS
from app.figures.story import SIZE, Turn, draw_pipe, draw_turns
from app.story import SCENES, Scene, case_of, scenes_of, sizes
from slicing.schedule import SlicingSchedule
from slicing.studies import store
from slicing.studies.requests import ProfileRequest
from slicing.studies.store import COMPARISONS, bundled_run, bundled_sweep, find_details
from slicing.studies.verdicts import read_comparison

MAIN = Path(__file__).parents[2] / "app" / "main.py"
NUMBERS = range(1, len(SCENES) + 1)


def scene(part: str) -> Scene:
    """The one scene whose title has this in it."""
    (found,) = (each for each in SCENES if part in each.title)
    return found


@pytest.mark.parametrize("with_details", [True, False])
@pytest.mark.parametrize("number", NUMBERS)
def test_every_step_has_a_sentence_a_chart_and_notes(number: int, with_details: bool) -> None:
    step, told = SCENES[number - 1], case(with_details)
    if not step.told_of(told):
        assert not with_details
        return
    setting = step.setting(told)
    drawing = step.draw(told, setting, LIGHT, False)
    assert step.sentence(told, setting).endswith(".") and "nan" not in step.sentence(told, setting)
    assert "nan" not in step.answer(told)
    assert drawing.takeaway and step.question.endswith("?")
    assert step.formula(told) and "\n" not in step.formula(told)
    assert step.notes.minutes > 0 and step.notes.exercise.task


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("number", NUMBERS)
def test_type_is_large_in_every_chart(number: int, theme: Any) -> None:
    step, told = SCENES[number - 1], case()
    layout = step.draw(told, step.setting(told), theme, False).figure.layout
    sizes = [
        layout.font.size,
        layout.legend.font.size,
        layout.xaxis.tickfont.size,
        layout.yaxis.tickfont.size,
    ]
    sizes += [annotation.font.size or SIZE for annotation in layout.annotations]
    assert min(sizes) >= 20
    assert layout.xaxis.tickfont.color == theme.ink


@pytest.mark.parametrize("number", NUMBERS)
def test_before_the_answer_the_axes_are_there_and_the_marks_are_not(number: int) -> None:
    step, told = SCENES[number - 1], case()
    hidden, shown = (
        step.draw(told, step.setting(told), LIGHT, concealed).figure for concealed in (True, False)
    )
    if step.stages:  # the tokens are there from the first, and only move
        assert step.stages[0] != step.stages[1]
        return
    assert len(hidden.data) < len(shown.data)
    assert tuple(hidden.layout.xaxis.range) == tuple(shown.layout.xaxis.range)
    assert tuple(hidden.layout.yaxis.range) == tuple(shown.layout.yaxis.range)
    assert {"dynamic, planned", "Dynamic"}.isdisjoint(str(trace.name) for trace in hidden.data)


@pytest.mark.parametrize("name", ["demo", "demo-energy"])
def test_the_scene_of_the_profile_names_both_ends_at_their_bars(name: str) -> None:
    run = COMPARISONS[name]()
    told = case_of(run, find_details(run))
    step = next(each for each in scenes_of(told) if "where is it redundant" in each.title)
    shown, hidden = (step.draw(told, 0.0, LIGHT, concealed).figure for concealed in (False, True))
    order = np.asarray(told.redundancy)
    found = {note.text: note.x for note in shown.layout.annotations}
    assert found == {"<b>most redundant</b>": order.argmax(), "<b>least redundant</b>": order.argmin()}
    assert max(shown.layout.yaxis.tickvals) <= float(np.max(shown.data[0].y) * 1.02)
    assert not hidden.layout.annotations  # the question asks for them


def test_the_dial_says_once_where_all_sizes_leave_the_text_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    run = bundled_run()
    told, step = case_of(run, find_details(run)), scene("Turn the dial")
    assert step.answer(told).endswith("Every smaller model leaves the dense model's text at word 1.")
    found = sizes.view(told)
    first, *others = found.sizes
    words = first.text.split()
    other = others[0]._replace(text=" ".join([*words[:3], "otherwise"]))
    monkeypatch.setattr(sizes, "view", lambda _: found._replace(sizes=(first, other, *others[1:])))
    assert step.answer(told).endswith("is, in the same order, number 4, 1, 1, 1.")


def test_the_turn_is_the_angle_of_the_mean_cosine() -> None:
    most, least = case().turns
    cosine = case().cosine
    assert (most.block, least.block) == (int(cosine.argmin()), int(cosine.argmax()))
    told = scene("the cosine").sentence(case(), 0.0)  # the scene that follows speaks of the same two
    assert f"passes block {least.block} with" in told and f"and block {most.block} with" in told
    assert np.cos(np.radians(most.degrees)) == pytest.approx(cosine.min())
    assert Turn(0, 0.0, 2.0).degrees == pytest.approx(90.0)
    drawing = scene("What does a block").draw(case(), 0.0, LIGHT, False)
    arrows = [a for a in drawing.figure.layout.annotations if a.showarrow]
    lengths = [np.hypot(a.x - a.ax, a.y - a.ay) for a in arrows]
    assert lengths[1] / lengths[0] == pytest.approx(most.growth)
    assert lengths[3] / lengths[2] == pytest.approx(least.growth)
    across, up = arrows[1].x - arrows[1].ax, arrows[1].y - arrows[1].ay
    assert np.degrees(np.arctan2(up, across)) == pytest.approx(most.degrees)


def test_without_details_lengths_and_tokens_are_not_claimed() -> None:
    told = case(with_details=False)
    assert "kept no lengths" in scene("What does a block").sentence(told, 0.0)
    assert "times" not in scene("What does a block").sentence(told, 0.0)
    assert "window" in scene("One number for the turn").sentence(told, 0.0)
    spread = told.spread
    assert np.allclose(spread.middle, np.median(told.result.profile.measured("lr"), axis=0))


def test_the_cosine_is_spread_over_tokens_and_the_first_stands_apart() -> None:
    spread = case().spread
    assert np.allclose(spread.middle, 0.9, atol=1e-3)
    assert np.allclose(spread.high - spread.low, 0.1, atol=2e-3)
    assert spread.first is not None and np.allclose(spread.first, -0.5)
    assert f"in **{spread.first.size} of {spread.first.size}** blocks" in scene(
        "One number for the turn"
    ).sentence(case(), 0.0)


@pytest.mark.parametrize("base", [0.0, 0.1, 0.25])
def test_the_base_is_the_floor_of_every_bar(base: float) -> None:
    told = case()
    floor, rest = scene("The slice base").draw(told, base, LIGHT, False).figure.data
    total = np.asarray(floor.y) + np.asarray(rest.y)  # type: ignore[union-attr]
    assert np.allclose(floor.y, 100 * base)  # type: ignore[union-attr]
    assert rest.marker.line.width > 0  # type: ignore[union-attr]  # hatching alone has no edge
    assert total.mean() == pytest.approx(100 * told.plan.target, abs=1e-3)
    assert ("constant slicing" in scene("The slice base").sentence(told, base)) == (base == 0.25)


def test_moving_a_dial_does_not_move_its_axis() -> None:
    told = case()
    for step in (scene("The slice base"), scene("The target")):
        assert step.dial
        ends = step.dial.lowest(told), step.dial.highest(told)
        figures = [step.draw(told, end, LIGHT, False).figure for end in ends]
        assert figures[0].layout.yaxis.range == figures[1].layout.yaxis.range
        tops = [max(max(bar.y) for bar in figure.data if bar.type == "bar") for figure in figures]  # type: ignore[union-attr]
        assert max(tops) <= figures[0].layout.yaxis.range[1]


def test_the_target_moves_the_plan_and_the_sentence() -> None:
    sentence = scene("The target").sentence(case(), 0.4)
    bars: Any = scene("The target").draw(case(), 0.4, LIGHT, False).figure.data[0]
    assert "**40\N{NO-BREAK SPACE}%** on average" in sentence
    assert np.mean(bars.y) == pytest.approx(40.0, abs=0.1)


def test_a_target_below_the_base_is_a_sentence() -> None:
    with pytest.raises(PlanError, match="may not exceed the target"):
        scene("The target").draw(case(), 0.05, LIGHT, False)


def test_a_plan_without_a_base_is_taught_by_the_dynamic_rule() -> None:
    told = case(allocation="constant", settings={}, target=0.05)
    told = told._replace(comparison=told.comparison._replace(planned="constant"))
    assert told.plan.allocation == "dynamic"
    assert (told.plan.target, told.base) == (0.05, 0.05)
    for step in scenes_of(told):
        step.draw(told, step.setting(told), LIGHT, False)
        assert step.sentence(told, step.setting(told))
    assert "costs +125.0\N{NO-BREAK SPACE}% perplexity" in scene("What did it cost?").why(told)


@pytest.mark.parametrize("score", ["block-influence", "angular"])
def test_other_scores_have_formulas_of_their_own(score: str) -> None:
    told = case(score=score)
    assert scene("Layer redundancy").formula(told) != scene("Layer redundancy").formula(case())
    assert f"Block **{int(np.argmax(told.redundancy))}** is the most redundant" in scene(
        "Layer redundancy"
    ).sentence(told, 0.0)


def test_the_pipe_is_as_wide_as_the_stream() -> None:
    planned = SlicingSchedule(hidden_size=8, widths=(8, 4, 8), embedding="shared")
    constant = SlicingSchedule(hidden_size=8, widths=(6, 6, 8), embedding="shared")
    figure = draw_pipe(planned, constant, "dynamic", LIGHT, shortcuts=(-0.25, 0.25, 0.75)).figure
    dense, pipe, other, shortcuts = figure.data
    assert shortcuts.name == "3 shortcut matrices" and list(shortcuts.x) == [-0.25, 0.25, 0.75]  # type: ignore[union-attr]
    # What stands behind the blocks is called by its name and by no number.
    assert list(figure.layout.xaxis.ticktext) == ["block 0", "1", "head"]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    widest = {trace.name: max(trace.y) - min(trace.y) for trace in (dense, pipe, other)}  # type: ignore[union-attr]
    assert widest == {"dense": 8, "dynamic, planned": 8, "constant": 8}
    assert list(pipe.y[:6]) == [4, 4, 2, 2, 4, 4]  # type: ignore[union-attr]
    assert list(pipe.x[:6]) == [-0.5, 0.5, 0.5, 1.5, 1.5, 2.5]  # type: ignore[union-attr]


def test_the_price_draws_every_shortcut_matrix_that_it_counts() -> None:
    told = case()
    drawn = scene("The price").draw(told, 0.0, LIGHT, False).figure.data[-1]
    assert f"**{len(drawn.x)} shortcut matrices**" in scene("The price").why(told)  # type: ignore[union-attr]
    hidden = scene("The price").draw(told, 0.0, LIGHT, True).figure.data
    assert all("shortcut" not in trace.name for trace in hidden)  # type: ignore[union-attr]


def test_short_arrows_have_heads_that_leave_them_seen() -> None:
    figure = draw_turns((Turn(0, 0.0, 20.0), Turn(1, 0.9, 1.0)), LIGHT).figure
    heads = {
        math.hypot(note.x - note.ax, note.y - note.ay) > 0.2: note.arrowwidth * note.arrowsize
        for note in figure.layout.annotations
        if note.showarrow
    }
    assert heads[False] < heads[True] / 2
    words = [note.text for note in figure.layout.annotations]
    assert "each pair has<br>a scale of its own" in words and "block 0<br>90°, 20 × as long" in words


def test_whiskers_say_what_they_are() -> None:
    step, told = scene("What did it cost"), case()
    assert WHISKERS in step.draw(told, 0.0, LIGHT, False).figure.layout.xaxis.title.text


def test_blocks_are_numbered_where_a_phone_has_room() -> None:
    for part in ("One number", "Layer redundancy", "The slice base", "The target"):
        step, told = scene(part), case()
        axis = step.draw(told, step.setting(told), LIGHT, False).figure.layout.xaxis
        assert axis.ticktext[0] == "block 0" and len(axis.ticktext) <= 5 and not axis.title.text


def test_the_target_uses_its_axis() -> None:
    told = case()
    step = scene("The target")
    figure = step.draw(told, step.setting(told), LIGHT, False).figure
    assert max(figure.data[0].y) >= 0.5 * figure.layout.yaxis.range[1]  # type: ignore[union-attr]


def test_the_same_name_with_two_perplexities_is_explained() -> None:
    run = bundled_run()
    told = case_of(run, find_details(run))
    step = scene("removing blocks")
    sentence, why = step.sentence(told, 0.0), step.why(told)
    assert "**27.84** (LLM-Streamline, repaired)" in sentence
    assert "11.0\N{NO-BREAK SPACE}% fewer, by one draw: hence 51.00 there and 50.17 here" in why
    assert "Delta" not in step.formula(told) and "120.4" in step.formula(told)


def test_the_cut_says_what_is_left_of_the_parameters() -> None:
    told = case()
    dense, planned = (told.measured[name].parameters for name in ("dense", "dynamic"))
    sentence = scene("The price").sentence(told, 0.0)
    assert f"{planned / 1e6:.1f} M" in sentence
    assert f"{100 * (1 - planned / dense):.1f}\N{NO-BREAK SPACE}% fewer" in sentence


def test_a_plan_that_loses_is_told_as_it_is() -> None:
    told = case()
    request, result = bundled_run().request, told.result
    lost = tuple(
        each.model_copy(
            update={
                "evaluation": each.evaluation.model_copy(
                    update={"nll": tuple(2 * loss for loss in each.evaluation.nll)}
                )
            }
        )
        if each.name == "dynamic"
        else each
        for each in result.measurements
    )
    comparison: Any = read_comparison(request, result.model_copy(update={"measurements": lost}))
    worse = told._replace(comparison=comparison)
    assert "worse" in scene("What did it cost?").why(worse)
    assert "better" not in scene("What did it cost?").why(worse)
    assert "At equal mean slice: worse" in scene("What did it cost?").answer(worse)


def test_only_a_comparison_can_be_told() -> None:
    run = bundled_run()
    request = ProfileRequest(model=run.request.model, text=run.request.profile_text)
    with pytest.raises(StorageError, match="of the kind 'profile': open a comparison instead"):
        case_of(run.model_copy(update={"request": request}), None)
    with pytest.raises(StorageError, match="of the kind 'map'"):
        case_of(bundled_sweep(), None)


def talk(**parameters: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=30)
    for name, value in {"present": "1", **parameters}.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception
    return app


@pytest.mark.parametrize("number", NUMBERS)
def test_an_address_opens_its_step(number: int) -> None:
    app = talk(step=str(number))
    assert app.title[0].value == SCENES[number - 1].title
    assert len(app.get("plotly_chart")) == (not (SCENES[number - 1].stages or SCENES[number - 1].live))
    assert f"{number} / {len(SCENES)}" in [caption.value for caption in app.caption]
    assert not app.error


@pytest.mark.parametrize(("step", "number"), [("0", 1), ("99", len(SCENES)), ("x", 1), ("-3", 1), ("", 1)])
def test_a_step_that_is_none_is_the_nearest(step: str, number: int) -> None:
    assert talk(step=step).title[0].value == SCENES[number - 1].title


def test_forward_and_back_are_in_the_address() -> None:
    app = press(talk(), "forward")
    assert app.query_params["step"] == "2" and app.title[0].value == SCENES[1].title
    press(app, "remote-forward")
    assert app.title[0].value == SCENES[2].title
    press(app, "back")
    assert app.title[0].value == SCENES[1].title


def test_the_ends_of_the_talk_have_no_beyond() -> None:
    assert talk().button(key="back").disabled
    last = talk(step=str(len(SCENES)))
    assert last.button(key="forward").disabled
    press(last, "remote-forward")
    assert last.title[0].value == SCENES[-1].title


def test_predictions_ask_first_and_answer_then() -> None:
    app = talk(predict="1", step="7")
    assert SCENES[6].question in [element.value for element in app.markdown]
    assert not app.slider
    assert app.button(key="forward").label == "Reveal"
    press(app, "forward")
    assert app.query_params["step"] == "7" and app.query_params["reveal"] == "1"
    assert SCENES[6].question not in [element.value for element in app.markdown]
    press(app, "forward")
    assert app.query_params["step"] == "8" and "reveal" not in app.query_params
    assert SCENES[7].question in [element.value for element in app.markdown]
    press(app, "back")
    assert SCENES[6].question not in [element.value for element in app.markdown]


def test_a_dial_answers_at_once() -> None:
    app = talk(step="8")
    app.slider[0].set_value(40).run()
    assert not app.exception
    assert any("**40\N{NO-BREAK SPACE}%** on average" in element.value for element in app.markdown)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_question_has_options_and_one_of_them_is_right(number: int) -> None:
    step, told = SCENES[number - 1], case()
    options, right = step.guess(told)
    assert 2 <= len(options) <= 9 and len(set(options)) == len(options)
    assert 0 <= right < len(options)


def test_the_right_option_is_what_was_measured() -> None:
    told = case()

    def right(part: str, of: Any = told) -> str:
        options, place = scene(part).guess(of)
        return options[place]

    assert right("The cut") == "More than twice"  # 51.00 of 22.67
    assert right("Layer redundancy") == "The first"  # block 0
    assert right("The price") == "By less"
    assert right("What did it cost") == "The plan is better"
    assert right("removing blocks") == "Less"
    assert right("Turn the dial") == "−5\N{NO-BREAK SPACE}%"
    assert right("One number for the turn") == "The first token of a window stands apart"
    assert (
        right("One number for the turn", case(with_details=False))
        == "The first token of a window stands apart"
    )
    assert right(
        "What did it cost", told._replace(comparison=told.comparison._replace(planned="constant"))
    ) == ("The plan is constant slicing")


def rooms(app: AppTest) -> list[str]:
    return [each.proto.body for each in app.get("html") if "slicescope-room" in each.proto.body]


def test_the_room_guesses_and_is_held_against_the_truth() -> None:
    app = talk(predict="1", step="6")
    for key in ("guess-0", "guess-0", "guess-2"):
        press(app, key)
    assert "**· 2 hands**" in app.button(key="guess-0").label and app.query_params["room"] == "6.2-0-1"
    assert rooms(app) == []
    press(app, "forward")
    (shown,) = rooms(app)
    assert "2 of 3 guessed it" in shown and "<li class=right>The first ✓<span" in shown
    again = talk(predict="1", step="6", room="6.2-0-1")  # what a reload or a link opens
    assert "**· 2 hands**" in again.button(key="guess-0").label
    press(again, "guess-none")
    assert again.button(key="guess-0").label == "The first" and "room" not in again.query_params


@pytest.mark.parametrize(
    "room", ["", "x", "6.", "6.1-x", "6.-3", "0.1-1", "6.99999999-1", "6.1-1-1-1-1-1-1-1-1-1-1"]
)
def test_counts_that_are_none_are_left_out(room: str) -> None:
    app = talk(predict="1", step="6", room=room)
    assert app.button(key="guess-0").label == "The first" and "room" not in app.query_params


def test_without_predictions_nobody_is_asked_to_guess() -> None:
    app = talk(step="6", room="6.2-0-1")
    assert not [each for each in app.button if str(each.key).startswith("guess")] and rooms(app) == []
    assert "room" not in app.query_params


def test_leaving_keeps_the_run_that_was_shown() -> None:
    run = bundled_run()
    folder = store.runs_folder() / run.key
    folder.mkdir(parents=True)
    (folder / store.RUN_FILE).write_text(run.to_json())
    app = press(talk(step="3", compare=run.key), "leave")
    assert app.title[0].value == "Where is it redundant?"
    assert app.query_params["compare"] == run.key
    assert "present" not in app.query_params and "step" not in app.query_params


def test_without_a_run_there_is_a_sentence_and_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "BUNDLED_RUN", tmp_path / "nothing")
    app = talk()
    assert "no finished comparison" in app.info[0].value
    assert app.button(key="leave")


def test_the_notes_have_everything_a_teacher_needs() -> None:
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    app.switch_page("app_pages/notes.py").run()
    assert not app.exception
    words = "\n".join(element.value for element in app.markdown)
    for step in SCENES:
        assert step.question in words and step.notes.say in words and step.notes.exercise.task in words
    assert f"about {sum(step.notes.minutes for step in SCENES)} minutes" in words
    assert [header.value for header in app.header] == [
        f"{number}. {step.title}" for number, step in enumerate(SCENES, start=1)
    ]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_exercise_begins_on_a_page_that_takes_its_settings(number: int) -> None:
    exercise = SCENES[number - 1].notes.exercise
    app = AppTest.from_file(str(MAIN), default_timeout=30)
    for name, value in exercise.parameters.items():
        app.query_params[name] = value
    app.run()
    app.switch_page(exercise.page).run()
    assert not app.exception and not app.error
    for name, value in exercise.parameters.items():
        if name == "study":  # which run is shown, and no setting
            continue
        kinds = (app.slider, app.toggle, app.segmented_control)
        widgets = [widget for kind in kinds for widget in kind if widget.key == name]
        assert len(widgets) == 1, f"the page has no setting '{name}'"
        assert widgets[0].value in ({"true": True}.get(value), _number(value), "angular")


def _number(value: str) -> int | None:
    return int(value) if value.isdecimal() else None
