"""The picture of the cloud shows what was kept and measured, alive and still, and breaks out of no page."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idle_app import AppTest
from told_stand_in import case, cloud, details

from analysis.cloud import DRAWN, FEW
from app.figures.base import DARK, LIGHT, Theme
from app.figures.cloud import (
    SCRIPT,
    STAGES,
    CloudView,
    Cost,
    Grip,
    Stage,
    alive,
)
from app.figures.cloud_still import draw_cloud, draw_energies, draw_whole
from app.report import build_report
from app.security import inline_scripts
from app.story import SCENES, scenes_of
from app.tables import cloud_table
from slicing.studies import store
from slicing.studies.store import bundled_run, bundled_widths, find_details


def shown() -> CloudView:
    found = case().cloud
    assert found is not None
    return found


def data(view: CloudView, theme: Theme = LIGHT) -> dict[str, Any]:
    (held,) = re.findall(r'data-cloud="([^"]*)"', alive(view, "cut", theme, "told"))
    return json.loads(html.unescape(held))


def test_the_run_that_ships_has_a_cloud_of_real_tokens() -> None:
    run = bundled_run()
    found = find_details(run)
    assert found is not None and found.cloud is not None
    assert found.cloud.fit(run.result.profile.blocks)
    assert found.cloud.tokens.size >= 200 and found.cloud.principal.shape[1] == run.result.shape.hidden_size
    assert (store.BUNDLED_RUN / store.DETAILS_FILE).stat().st_size < 600_000


def test_every_number_of_the_counter_was_measured() -> None:
    told, run = case(), bundled_widths()
    measured = {round(each.evaluation.perplexity, 6) for each in run.result.measurements}
    measured |= {round(told.measured[name].evaluation.perplexity, 6) for name in ("dense", "constant")}
    stops = told.widths
    assert {round(perplexity, 6) for _, perplexity in stops} <= measured
    assert stops[0] == (576.0, told.measured["dense"].evaluation.perplexity)
    assert (432.0, told.measured["constant"].evaluation.perplexity) in stops
    widths = [width for width, _ in stops]
    assert widths == sorted(widths, reverse=True) and len(widths) == len(run.result.measurements) + 1


def test_a_run_of_other_windows_has_only_its_own_sizes() -> None:
    told = case()
    other = told.result.model_copy(
        update={"evaluation": told.result.evaluation.model_copy(update={"digest": "0" * 16})}
    )
    alone = told._replace(comparison=told.comparison._replace(result=other))
    assert [width for width, _ in alone.widths] == [576.0, 432.0]
    assert alone.rivals == ()


def test_what_is_drawn_is_as_large_as_its_energy() -> None:
    view = shown()
    for place in range(2):
        drawn = view.drawn(place)
        kept = view.cloud.places[place].astype(np.float64)
        mean = np.maximum(view.cloud.principal[place, :DRAWN] - kept[:, :DRAWN].var(axis=0), 0.0).sum()
        assert drawn[:, :2].var(axis=0).sum() == pytest.approx(1.0 - mean, rel=1e-6)
        assert drawn[:, 2].std() == pytest.approx(1.0, rel=0.05)
        assert view.thickness(place, 432) ** 2 == pytest.approx(view.cloud.beyond(place, 432))


def test_the_script_is_told_the_energy_beyond_every_width() -> None:
    told, view = data(shown()), shown()
    for place, block in enumerate(told["blocks"]):
        kept = np.asarray(block["kept"])
        for width in (0, 288, 432, 576):
            at = width / told["size"] * (kept.size - 1)
            beyond = 1 - np.interp(at, np.arange(kept.size), kept)
            assert beyond == pytest.approx(view.cloud.beyond(place, width), abs=2e-6)
        assert len(block["principal"]) == len(block["own"]) == 192
        assert np.max(block["own"]) - np.min(block["own"]) < 0.01  # the energy was spread evenly
    assert told["width"] == 432.0 and told["stops"][0][0] == told["size"]


def test_no_text_of_a_token_is_markup_and_the_script_may_run() -> None:
    body = alive(shown(), "turned", DARK, 'told "so" <b>')
    held = re.sub(r"<(style|script)>.*?</\1>", "", body, flags=re.DOTALL)
    assert re.findall(r"<[^>]*>", held) == [held[: held.index("></div>") + 1], "</div>"]
    assert "</script><b>" in data(shown())["tokens"]
    assert SCRIPT in set(inline_scripts())
    # What cleans the page drops a script that has anything like a tag in it.
    assert not re.search(r"<[/\w!]", SCRIPT)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("stage", STAGES)
def test_the_still_picture_of_every_stage(stage: Stage, theme: Theme) -> None:
    view = shown()
    drawing = draw_cloud(view, stage, theme, view.told(stage))
    (tokens,) = (each for each in drawing.figure.data if each.mode == "markers")
    assert len(tokens.x) == view.cloud.tokens.size
    slab = [each for each in drawing.figure.data if each.fill == "toself"]
    assert len(slab) == (2 if stage in ("shaded", "cut") else 0)
    lost = [each for each in drawing.figure.data if each.mode == "lines" and len(each.x) == 3 * len(tokens.x)]
    assert len(lost) == (stage == "cut")
    assert str(view.cloud.tokens.size) in drawing.takeaway


@pytest.mark.parametrize("stage", STAGES)
def test_no_corner_of_the_box_and_hardly_a_token_is_cut_off(stage: Stage) -> None:
    view = shown()
    figure = draw_cloud(view, stage).figure
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for slab in (each for each in figure.data if each.fill == "toself"):
        assert left <= min(slab.x) and max(slab.x) <= right
        assert low <= min(slab.y) and max(slab.y) <= high
    (tokens,) = (each for each in figure.data if each.mode == "markers")
    x, y = np.asarray(tokens.x), np.asarray(tokens.y)
    out = (x < left) | (x > right) | (y < low) | (y > high)
    assert out.mean() <= 0.05


def test_the_box_is_as_large_as_the_cloud() -> None:
    view = shown()
    place = view.cloud.middle()
    points, bounds = view.drawn(place)[:, :2], view.bounds(place)
    within = (points >= bounds[:, 0]) & (points <= bounds[:, 1])
    assert within.all(axis=1).mean() >= 0.9
    assert (bounds[:, 0] >= points.min(axis=0)).all() and (bounds[:, 1] <= points.max(axis=0)).all()
    assert np.allclose(data(view)["blocks"][place]["bounds"], bounds, atol=1e-3)


def test_the_scale_of_the_energies_names_its_axis() -> None:
    view = shown()
    labels = data(view)["labels"]
    for name in ("own", "principal"):
        assert str(view.size) in labels[name] and "log scale" in labels[name]


@pytest.mark.parametrize("stage", STAGES)
def test_on_paper_the_numbers_and_the_energies_are_beside_the_cloud(stage: Stage) -> None:
    view = shown()
    figure = draw_whole(view, stage).figure
    (bars,) = (each for each in figure.data if each.type == "bar")
    shares = view.cloud.own if stage == "askew" else view.cloud.principal
    energy = float(np.asarray(bars.y, dtype=np.float64) @ np.asarray(bars.width)) / 100.0
    assert energy == pytest.approx(float(shares[view.cloud.middle()].sum()), rel=1e-3)
    words = " ".join(note.text for note in figure.layout.annotations)
    width = view.width if stage == "cut" else view.size
    assert f"<b>{dict(view.stops)[width]:.2f}</b>" in words and f"<b>{round(width)}</b>" in words
    kept = 100.0 * (1.0 - view.held()) if stage == "cut" else 100.0
    assert f"{kept:.2f}" in words or (kept == 100.0 and "<b>100\N{NO-BREAK SPACE}%</b>" in words)
    assert (432 in figure.layout.xaxis2.tickvals) == (stage in ("shaded", "cut"))


def test_a_cut_presses_the_cloud_into_a_plane() -> None:
    view = shown()
    flat, whole = (draw_cloud(view, stage).figure.data for stage in ("cut", "shaded"))
    points = [
        np.column_stack([tokens.x, tokens.y])
        for data in (flat, whole)
        for tokens in data
        if tokens.mode == "markers"
    ]
    assert not np.allclose(points[0], points[1])


def test_the_report_holds_the_picture_and_one_without_a_cloud_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = bundled_run()
    report = build_report(run)
    assert "The stream as a cloud" in report and "Energy of every direction" in report
    without = details(run.result.profile.blocks)._replace(cloud=None)
    monkeypatch.setattr("app.report.shown.find_details", lambda run: without)
    assert "The stream as a cloud" not in build_report(run)


def test_a_run_that_kept_no_cloud_is_told_without_its_scenes() -> None:
    told = case()
    assert told.details is not None
    old = told._replace(details=told.details._replace(cloud=None))
    assert [each.title for each in scenes_of(told)] == [each.title for each in SCENES]
    assert [each.title for each in scenes_of(old)] == [each.title for each in SCENES if not each.stages]


def test_the_table_and_the_chart_of_energies() -> None:
    view = CloudView.cut_by_a_quarter(cloud(64), {})
    table = cloud_table(view.cloud, round(view.width))
    assert table["16 weakest axes of the model, %"].tolist() == [25.0, 25.0]
    assert (table.iloc[:, 1] < 25.0).all()
    drawing = draw_energies(view)
    assert "the 16 thinnest of 64" in drawing.takeaway


def test_one_block_of_several_and_the_one_that_is_nearest() -> None:
    whole = cloud(64)
    assert [whole.nearest(block) for block in (0, 14, 15, 29)] == [0, 0, 1, 1]
    one = whole.only([1])
    assert one.blocks.tolist() == [29] and one.fit(30) and (one.places[0] == whole.places[1]).all()
    many = whole.only([0] * 20)
    assert len(many.few().blocks) == FEW and whole.few() is whole


def test_a_plan_shows_its_own_cost_alone_and_its_block_can_be_gripped() -> None:
    view = CloudView(cloud(64), {}, (), 48.0, "it", Cost("31.00", "previewed"), Grip(3, 16, 8))
    told = data(view)
    assert told["stops"] == [] and told["cost"] == {"value": "31.00", "note": "previewed"}
    assert told["grip"] == {"block": 3, "least": 16, "step": 8}
    assert 'class="slicescope-cloud beside"' in alive(view, "cut", LIGHT, "it", beside=True)
    assert 'class="slicescope-cloud"' in alive(view, "cut", LIGHT, "it")
    # What is left of the dial's track would be white on a dark page.
    assert 'class="slicescope-cloud beside dark"' in alive(view, "cut", DARK, "it", beside=True)


def page(name: str, block: int | None = None) -> AppTest:
    app = AppTest.from_file(str(Path(__file__).parents[2] / "app" / "main.py"), default_timeout=60).run()
    app.switch_page(f"app_pages/{name}.py").run()
    if block is not None:
        app.selectbox(key="block").set_value(block).run()
    assert not app.exception
    return app


def clouds(app: AppTest) -> list[dict[str, Any]]:
    bodies = [element.proto.body for element in app.get("html")]
    held = [re.findall(r'data-cloud="([^"]*)"', body) for body in bodies]
    return [json.loads(html.unescape(each)) for found in held for each in found]


@pytest.mark.parametrize("block", [0, 3, 29])
def test_profile_and_tune_show_the_chosen_block(block: int) -> None:
    for name in ("profile", "tune"):
        (told,) = clouds(page(name, block))
        assert [each["block"] for each in told["blocks"]] == [block]
        assert (told["grip"] is None) == (name == "profile") == bool(told["stops"])


def test_the_picture_of_a_plan_is_as_wide_as_the_plan_leaves_the_block() -> None:
    app = page("tune", 7)
    (told,) = clouds(app)
    run = bundled_run()
    shape = run.result.shape
    plan = app.session_state["plan"]
    widths = plan.schedule(run.result.profile.redundancy(plan.score, plan.first_token), shape).widths
    assert told["width"] == widths[7] and told["grip"]["block"] == 7
    assert told["cost"] is None  # the run that ships kept no bases


def test_runs_with_fewer_clouds_or_none_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = details(bundled_run().result.profile.blocks)
    monkeypatch.setattr("app.stream_view.find_details", lambda run: kept)
    app = page("profile", 11)
    (told,) = clouds(app)
    assert [each["block"] for each in told["blocks"]] == [0]
    assert any("blocks 0 and 29; the nearest to block 11 is shown" in each.value for each in app.caption)
    monkeypatch.setattr("app.stream_view.find_details", lambda run: kept._replace(cloud=None))
    for name in ("profile", "tune"):
        app = page(name)
        assert clouds(app) == []
        assert any("stored without token states" in each.value for each in app.info)
