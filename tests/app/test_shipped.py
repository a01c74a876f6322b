"""The comparisons that ship: each is what its request says, opens on every page, and is told by the talk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idle_app import AppTest

from app.figures.base import DARK, LIGHT
from app.planned import plan_asked
from app.report import build_report
from app.story import SCENES, Case, case_of, scenes_of
from app.wording import spread_of_cut
from slicing.studies.results import Run
from slicing.studies.store import (
    COMPARISONS,
    bundled_energy,
    bundled_run,
    costs_inside,
    find_details,
    named_run,
)
from slicing.studies.verdicts import Comparison, read_comparison

MAIN = Path(__file__).parents[2] / "app" / "main.py"
SECOND = "demo-energy"
NUMBERS = range(1, len(SCENES) + 1)


def compared(run: Run) -> Comparison:
    request, result = run.request, run.result
    assert request.kind == "study" and result.kind == "study"
    return read_comparison(request, result)


def told(name: str) -> Case:
    run = COMPARISONS[name]()
    return case_of(run, find_details(run))


def page(name: str, **parameters: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=30)
    for key, value in parameters.items():
        app.query_params[key] = value
    app.run()
    app.switch_page(f"app_pages/{name}.py").run()
    assert not app.exception and not app.error
    return app


def words(app: AppTest) -> str:
    return "\n".join(str(each.value) for each in (*app.markdown, *app.caption, *app.header))


def test_both_stand_on_the_same_windows() -> None:
    first, second = bundled_run(), bundled_energy()
    one, other = compared(first), compared(second)
    for used in ("calibration", "evaluation"):
        assert getattr(one.result, used).digest == getattr(other.result, used).digest
    for name in ("dense", "constant"):
        found = other.measured[name].evaluation.perplexity
        assert found == pytest.approx(one.measured[name].evaluation.perplexity, rel=1e-3)
    assert second.result.profile.values("lr") == pytest.approx(first.result.profile.values("lr"), abs=1e-5)


@pytest.mark.parametrize("name", COMPARISONS)
def test_each_was_cut_as_its_plan_says(name: str) -> None:
    run = COMPARISONS[name]()
    found, plan = compared(run), plan_asked(run.request)
    assert plan is not None
    schedule = plan.schedule(run.result.profile.redundancy(plan.score), found.result.shape)
    assert found.measured[found.planned].schedule == schedule


@pytest.mark.parametrize("name", COMPARISONS)
def test_each_has_its_profile_from_near_and_what_units_cost(name: str) -> None:
    run = named_run(name)
    found, profile = find_details(run), run.result.profile
    assert found is not None and found.lens is not None and found.cloud is not None
    change = 1.0 - profile.measured("lr").mean(axis=0)
    assert found.change[:, 1:].mean(axis=(0, 1), dtype=np.float64) == pytest.approx(change, abs=2e-3)
    assert costs_inside(run) is not None


def test_the_second_does_not_mean_sparing_one_block() -> None:
    def spared(run: Run) -> tuple[float, float]:
        found = compared(run)
        schedule = found.measured[found.planned].schedule
        assert schedule is not None
        cut = np.asarray(schedule.block_fractions)
        kept = np.maximum(found.study.budgets[0].amount - cut, 0.0)
        return kept.max() / kept.sum(), float(np.delete(cut, kept.argmax()).std())

    (most, rest), (most_there, rest_there) = map(spared, (bundled_run(), bundled_energy()))
    assert most > 0.5 > 2 * most_there
    assert rest_there > 5 * rest
    low, high = np.percentile(bundled_energy().result.profile.values("discarded-energy"), [25, 75])
    assert high > 1.5 * low  # its chart, whose bars begin at 0, is not flat either


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("number", NUMBERS)
def test_every_scene_is_told_of_the_second(number: int, theme: Any) -> None:
    case = told(SECOND)
    assert len(scenes_of(case)) == len(SCENES)
    scene = scenes_of(case)[number - 1]
    setting = scene.setting(case)
    drawing = scene.draw(case, setting, theme, False)
    said = (scene.sentence(case, setting), scene.answer(case), scene.why(case), drawing.takeaway)
    assert not any("nan" in each.split() for each in said)
    options, right = scene.guess(case)
    assert 0 <= right < len(options)


def test_a_plan_by_another_score_is_not_told_as_one_by_the_change() -> None:
    case = told(SECOND)
    scenes = scenes_of(case)
    profile, target = scenes[5], scenes[7]
    assert profile.title == "Discarded energy: where is it redundant?"
    assert profile.question.startswith("Which block loses the most energy to a cut: the first")
    least = int(np.argmin(case.redundancy))
    assert f"block **{least}** the least" in profile.sentence(case, 0.0)
    assert profile.answer(case).startswith(f"Block {least} loses the most energy to a cut")
    about = (
        *(each(case) for each in (profile.why, profile.answer, target.answer)),
        *(profile.title, profile.question, profile.notes.say, *target.guess(case).options),
        profile.draw(case, 0.0, LIGHT, False).takeaway,
    )
    assert not [each for each in about if re.search(r"change.? (its|their) input|LR stands for", each)]
    for number in (
        3,
        4,
    ):  # what a block does to its input is measured by the cosine, whatever the plan goes by
        assert "score: LR score, Dumitru et al." in scenes[number].source(case)
    assert "Ashkboos et al., SliceGPT" in profile.source(case)
    assert scenes_of(told("demo"))[5] == SCENES[5]


def test_the_profile_scene_shows_every_bar_from_zero() -> None:
    case = told(SECOND)
    figure = scenes_of(case)[5].draw(case, 0.0, LIGHT, False).figure
    low, high = figure.layout.yaxis.range
    bars: Any = figure.data[0]
    assert low <= min(0.0, min(bars.y)) and high >= max(bars.y)


@pytest.mark.parametrize("name", ["profile", "tune", "compare", "notes", "slides"])
def test_the_second_opens_on_every_page(name: str) -> None:
    app = page(name, profile=SECOND, compare=SECOND)
    assert not app.warning
    if name != "slides":
        assert "second demo run that ships with slicescope" in words(app)
    assert app.query_params["compare"] in (SECOND, [SECOND])


def test_the_profile_page_begins_with_the_score_of_the_plan() -> None:
    def shown(app: AppTest) -> str:
        (found,) = (each for each in app.segmented_control if each.key == "shown")
        return str(found.value)

    assert shown(page("profile", profile=SECOND)) == "discarded-energy"
    assert shown(page("profile")) == "lr"


def test_nobody_is_told_of_a_changed_plan_who_changed_none() -> None:
    told = "The plan on the Tune page has changed since"
    app = page("compare", compare=SECOND)
    assert told not in words(app)
    app.switch_page("app_pages/tune.py").run()
    app.switch_page("app_pages/compare.py").run()
    assert told in words(app)


def test_the_runs_that_ship_are_on_the_page_of_runs() -> None:
    app = page("runs")
    for make in COMPARISONS.values():
        assert spread_of_cut(compared(make())) in words(app)
    app.button(key=f"tune-{SECOND}").click().run()
    assert not app.exception and app.title[0].value == "How much to cut where?"
    (score,) = (each for each in app.selectbox if each.key == "score")
    assert score.value == "discarded-energy"


def test_a_comparison_that_ships_opens_as_a_study() -> None:
    app = page("runs")
    app.button(key=f"study-{SECOND}").click().run()
    assert not app.exception and app.query_params["study"] in (SECOND, [SECOND])
    assert "by discarded energy" in words(app)


def test_the_speaker_chooses_which_run_the_talk_tells() -> None:
    app = page("notes")
    (choice,) = (each for each in app.segmented_control if each.key == "told-of")
    assert choice.value == "demo"
    choice.set_value(SECOND).run()
    assert not app.exception
    assert "6. Discarded energy: where is it redundant?" in [each.value for each in app.header]
    assert app.query_params["compare"] in (SECOND, [SECOND])


@pytest.mark.parametrize("number", NUMBERS)
def test_the_talk_tells_the_second_by_its_address(number: int) -> None:
    app = AppTest.from_file(str(MAIN), default_timeout=30)
    for key, value in {"present": "1", "compare": SECOND, "step": str(number)}.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception and not app.error
    assert app.title[0].value == scenes_of(told(SECOND))[number - 1].title


def test_a_report_of_the_second_names_its_score() -> None:
    assert "Discarded energy" in build_report(bundled_energy())
