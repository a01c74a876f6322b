"""The figures show the numbers they were given, in the colours of their roles, and say so in a sentence."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.evaluate import Difference, Perplexity
from analysis.profile import BlockValues, LayerProfile
from analysis.scores import SCORES
from app import figures, wording
from app.figures.base import CONSTANT, DARK, DYNAMIC, HIGHLIGHT, LIGHT, WHISKERS
from app.figures.compare import draw_differences, draw_perplexities
from app.figures.healing import draw_healing
from app.figures.plan import draw_schedule
from app.figures.profile import draw_change, draw_profile, outliers
from app.figures.ranking import draw_ranking
from app.tables import healing_table
from app.wording import change_reading
from slicing.allocation import Fractions
from slicing.healing.record import Healed, Look
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.studies.results import Measurement as Judged
from slicing.studies.store import bundled_contest, bundled_run
from slicing.studies.verdicts import read_board, read_comparison

COSINES = (0.1, 0.80, 0.90, 0.95, 0.90, 0.95, 0.90, 0.95, 0.90, 0.85)


def profile() -> LayerProfile:
    rows = tuple(tuple(value + shift for value in COSINES) for shift in (-0.01, 0.01))
    measurement = BlockValues(rest=rows, first=tuple((0.5,) * 10 for _ in range(2)))
    return LayerProfile(
        model="tiny",
        text="text",
        block_path="model.layers",
        blocks=10,
        windows=2,
        window_length=16,
        measurements={
            "cosine": measurement,
            "cosine-after-norm": measurement,
            "angular_distance": BlockValues(rest=rows, first=None),
        },
        seconds=1.0,
    )


def evaluation(perplexity: float, windows: int) -> Perplexity:
    steps = np.linspace(-0.1, 0.1, windows)
    return Perplexity(
        perplexity=perplexity,
        nll=tuple(math.log(perplexity) + steps),
        window_length=8,
        tokens_per_second=1.0,
        seconds=1.0,
        peak_memory=1,
    )


def judged(name: str, perplexity: float, windows: int = 2) -> Judged:
    return Judged(
        name=name,
        title=name.capitalize(),
        schedule=None,
        mean_slice=0.0,
        parameters=1,
        bytes=4,
        flops_per_token=2,
        evaluation=evaluation(perplexity, windows),
        slicing_seconds=None,
        slicing_peak_memory=None,
        discarded=None,
        sample=None,
    )


def schedule(*widths: int) -> SlicingSchedule:
    return SlicingSchedule(hidden_size=100, widths=(*widths, 100), embedding="shared")


@pytest.mark.parametrize("score", [name for name, score in SCORES.items() if score.measure])
def test_a_profile_shows_every_block_with_its_spread(score: str) -> None:
    drawing = draw_profile(profile(), score)
    bars: Any = drawing.figure.data[0]
    assert bars.type == "bar"
    assert list(bars.x) == list(range(10))
    assert np.allclose(bars.y, profile().values(score))
    assert np.allclose(bars.error_y.array, profile().spread(score))
    assert bars.customdata[3] == "model.layers.3"
    assert bars.marker.color[0] == HIGHLIGHT
    assert set(bars.marker.color[1:]) == {LIGHT.measured}
    assert "Block 3 changes its input least" in drawing.takeaway or score == "angular"


def test_the_first_token_can_be_counted() -> None:
    without, counted = (draw_profile(profile(), "block-influence", first).figure for first in (False, True))
    assert not np.allclose(without.data[0].y, counted.data[0].y)  # type: ignore[union-attr]


def test_zooming_leaves_the_outlier_off_and_says_so() -> None:
    drawing = draw_profile(profile(), "lr", without=outliers(profile().values("lr")))
    dots: Any = drawing.figure.data[0]
    assert dots.type == "scatter" and dots.mode == "markers"  # a bar on a fitted axis would deceive
    assert list(dots.x) == list(range(1, 10))
    assert "axis fitted" in drawing.figure.layout.yaxis.title.text


@pytest.mark.parametrize(
    ("values", "far"),
    [
        (COSINES, [0]),
        ((0.0, 0.0, *([1.0] * 10)), [0, 1]),
        (tuple(range(10)), []),
        ((1.0,) * 10, []),
        ((0.0, 1.0, 1.0), []),
        ((*([0.0] * 5), *([1.0] * 5)), []),
    ],
)
def test_outliers_are_few_and_far_from_the_rest(values: tuple[float, ...], far: list[int]) -> None:
    assert outliers(np.array(values)) == far


def test_a_schedule_shows_planned_constant_and_mean_and_hatches_capped_blocks() -> None:
    planned, constant = schedule(90, 60, 60), schedule(70, 70, 70)
    fractions = Fractions(values=(0.1, 0.4, 0.4), capped=(False, True, True))
    drawing = draw_schedule(planned, constant, fractions, "dynamic", "model.layers")
    bars, line, mean, legend = (trace for trace in drawing.figure.data)
    assert np.allclose(bars.y, [10, 40, 40]) and bars.marker.color == DYNAMIC
    assert list(bars.marker.pattern.shape) == ["", "/", "/"]
    assert bars.customdata[1][1:] == (60, 100) or list(bars.customdata[1][1:]) == [60, 100]
    assert np.allclose(line.y, [30, 30, 30]) and line.line.color == CONSTANT
    assert np.allclose(mean.y, 30.0) and mean.line.dash == "dash"
    assert legend.name == "held back by the largest fraction"
    assert "2 held back" in drawing.takeaway and "10.0 % (block 0)" in drawing.takeaway
    assert "40.0 % (block 1 and 1 other)" in drawing.takeaway


def test_words_over_a_chart_stand_on_the_colour_of_the_page() -> None:
    pages = tomllib.loads((Path(figures.__file__).parents[1] / "streamlit.toml").read_text())["theme"]
    assert LIGHT.paper == pages["light"]["backgroundColor"]
    assert DARK.paper == pages["dark"]["backgroundColor"]


def test_without_a_cap_there_is_no_hatch() -> None:
    fractions = Fractions(values=(0.3, 0.3), capped=(False, False))
    drawing = draw_schedule(schedule(70, 70), schedule(70, 70), fractions, "constant", "h")
    assert len(drawing.figure.data) == 3
    assert drawing.figure.data[0].marker.color == CONSTANT  # type: ignore[union-attr]
    assert drawing.takeaway == "Every block loses 30.0 % of its width."


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_perplexities_have_the_colours_of_their_roles(theme: figures.Theme) -> None:
    everyone = [
        judged("dense", 20.0, windows=16),
        judged("constant", 40.0),
        judged("dynamic", 30.0),
    ]
    drawing = draw_perplexities(everyone, theme)
    bars: Any = drawing.figure.data
    assert [bar.x[0] for bar in bars] == [20.0, 40.0, 30.0]
    assert [bar.marker.color for bar in bars] == [theme.dense, CONSTANT, DYNAMIC]
    low, high = everyone[0].evaluation.interval or (0.0, 0.0)
    assert low < 20.0 < high
    assert (bars[0].error_x.array[0], bars[0].error_x.arrayminus[0]) == (high - 20.0, 20.0 - low)
    assert [bar.error_x.visible for bar in bars] == [True, False, False]
    # That the dense model is best goes without saying; which of the smaller ones is, is the news.
    assert drawing.takeaway.endswith("Of the smaller models Dynamic has the lowest.")


def test_charts_with_whiskers_say_what_they_are() -> None:
    contest, board = bundled_contest(), bundled_run()
    assert contest.request.kind == "study" and board.request.kind == "study"
    compared = read_comparison(board.request, board.result)
    differences = [("at equal parameters", each) for _, each in wording.deciding(compared)]
    drawn = [
        draw_perplexities(list(compared.measured.values())),
        draw_differences(differences),
        draw_ranking(read_board(contest.request, contest.result).tables[0]),
    ]
    for figure, _ in drawn:
        assert any(each.error_x.array is not None for each in figure.data)
        assert WHISKERS in figure.layout.xaxis.title.text
    without = draw_perplexities([judged("dense", 20.0), judged("constant", 40.0)]).figure
    assert WHISKERS not in without.layout.xaxis.title.text


def test_differences_stand_around_zero_with_their_verdict() -> None:
    each = Difference(
        baseline="constant",
        contender="dynamic",
        nats=-0.1,
        nats_interval=(-0.2, -0.05),
        windows=9,
        p_value=0.01,
    )
    alone = each.model_copy(update={"nats_interval": None, "p_value": None})
    drawing = draw_differences([("at equal mean slice", each), ("at equal parameters", alone)])
    first, second = drawing.figure.data
    assert first.x[0] == pytest.approx(each.percent) and first.text[0] == "better"  # type: ignore[union-attr]
    assert second.error_x.visible is False  # type: ignore[union-attr]
    low, high = drawing.figure.layout.xaxis.range
    assert low == -high and low < each.percent_interval[0]  # type: ignore[index]
    assert "At equal parameters: −9.5 % perplexity, too few windows to tell." in drawing.takeaway


def contrast(colour: str, background: str) -> float:
    def luminance(hexadecimal: str) -> float:
        parts = [int(hexadecimal[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(colour), luminance(background)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("theme", "background"), [(LIGHT, "#FFFFFF"), (DARK, "#060709")])
def test_text_and_marks_stand_out_from_the_page(theme: figures.Theme, background: str) -> None:
    assert min(contrast(colour, background) for colour in (theme.ink, theme.label)) >= 4.5
    marks = (theme.dense, theme.measured, CONSTANT, DYNAMIC)
    assert min(contrast(colour, background) for colour in marks) >= 3.0


def test_figures_are_explicit_about_their_template_and_need_no_streamlit() -> None:
    assert all(theme.template.startswith("plotly_") for theme in (LIGHT, DARK))
    code = "import sys, app.figures; assert 'streamlit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_block_labels_stay_few() -> None:
    for count in (3, 16, 30, 80, 126):
        widths = tuple([50] * count)
        fractions = Fractions(values=(0.5,) * count, capped=(False,) * count)
        figure = draw_schedule(schedule(*widths), schedule(*widths), fractions, "dynamic", "h").figure
        assert count / figure.layout.xaxis.dtick <= 16


def test_the_curve_of_healing_marks_the_look_that_was_kept():
    looks = (Look(0, 3.5), Look(2048, 3.3), Look(4096, 3.4))
    told = Healed(
        step="distil",
        windows=8,
        before=3.5,
        after=3.3,
        tokens=4096,
        distinct=4096,
        parameters=7,
        looks=looks,
        seconds=2.0,
    )
    figure, takeaway = draw_healing([told, told.model_copy(update={"step": "finetune"})])
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [trace.name for trace in curves] == ["distil", "finetune"]
    assert list(zip(curves[0].x, curves[0].y, strict=True)) == [(look.tokens, look.loss) for look in looks]
    kept = [trace for trace in figure.data if trace.name == "kept"]
    assert [(*trace.x, *trace.y) for trace in kept] == [(2048, 3.3)] * 2
    assert takeaway.startswith("'distil' trained 7 parameters") and "from 3.500 to 3.300" in takeaway
    assert list(healing_table([told])["loss, nats per token"]) == [3.5, 3.3, 3.4]


@pytest.mark.parametrize("score", ["lr", "block-influence", "angular"])
def test_a_change_is_a_dot_on_a_log_axis_with_its_spread(score: str) -> None:
    found = profile()
    drawing = draw_change(found, score, chosen=3)
    (dots,) = drawing.figure.data
    axis = drawing.figure.layout.yaxis
    assert (
        axis.type == "log" and axis.range[0] < np.log10(min(dots.y)) < np.log10(max(dots.y)) < axis.range[1]
    )
    if score != "angular":
        change = 1.0 - found.measured("lr")
        assert dots.y == pytest.approx(change.mean(axis=0), rel=1e-5)
        assert dots.error_y.array == pytest.approx(change.std(axis=0, ddof=1), rel=1e-4)
    assert (np.asarray(dots.error_y.arrayminus) < np.asarray(dots.y)).all()  # a log axis has no zero
    assert [place for place, size in enumerate(dots.marker.size) if size > 9] == [3]
    told = [note.text for note in drawing.figure.layout.annotations]
    assert told == [
        f"<b>block {int(np.argmax(dots.y))}</b> changes it most",
        f"<b>block {int(np.argmin(dots.y))}</b> changes it least",
        "<b>↓ lower: more redundant</b>",
    ]
    assert f"Block {int(np.argmin(dots.y))} changes its input least" in drawing.takeaway
    assert "and so is the most redundant" in drawing.takeaway


@pytest.mark.parametrize("low", [0.01, -0.01])  # a log axis has room for the first alone
@pytest.mark.parametrize("score", ["leave-one-out", "slice-one", "wanda"])
def test_a_score_that_is_no_change_is_not_told_as_one(score: str, low: float) -> None:
    found = profile()
    values = np.linspace(low, 0.2, found.blocks)[None]
    drawing = draw_change(found.with_probed(score, values), score)
    hovered = [str(trace.hovertemplate) for trace in drawing.figure.data]  # type: ignore[union-attr]
    labels = [str(note.text) for note in drawing.figure.layout.annotations]
    said = " ".join((drawing.takeaway, *hovered, *labels))
    assert "changes it" not in said
    least, most = SCORES[score].ends
    assert f"lock 0 {least}" in drawing.takeaway and f"lock {found.blocks - 1} {most}" in drawing.takeaway


@pytest.mark.parametrize(("score", "way"), [("depth", "↑ higher"), ("leave-one-out", "↓ lower")])
def test_bars_say_which_way_is_redundant_too(score: str, way: str) -> None:
    found = profile().with_probed(score, np.linspace(-0.1, 1.0, profile().blocks)[None])
    (note,) = draw_change(found, score).figure.layout.annotations
    assert note.text == f"<b>{way}: more redundant</b>"


@pytest.mark.parametrize("score", ["lr", "lr-published", "block-influence", "angular", "depth"])
def test_the_words_below_a_profile_say_the_way_that_the_chart_has(score: str) -> None:
    told = change_reading(score)
    assert ("lower means more redundant" in told) is (SCORES[score].of_cosine or score == "angular")
    if SCORES[score].of_cosine and SCORES[score].higher_is_redundant:
        assert told.index("lower means more redundant") < told.index("goes the other way")


def test_what_is_no_change_or_not_above_zero_keeps_its_bars() -> None:
    depth = profile().with_probed("depth", np.linspace(0.0, 1.0, profile().blocks)[None])
    damage = profile().with_probed("leave-one-out", np.linspace(-0.1, 1.0, profile().blocks)[None])
    for found, score in ((depth, "depth"), (damage, "leave-one-out")):
        assert draw_change(found, score).figure.data[0].type == "bar"


def test_constant_is_drawn_as_constant_whatever_rounding_does() -> None:
    run: Any = bundled_run()
    scores, shape = run.result.profile.redundancy("lr"), run.result.shape
    plan = Plan(target=0.26)
    constant = plan.constant(shape)
    assert len(set(constant.block_fractions)) > 1  # 26 % of the width is no whole step
    drawing = draw_schedule(plan.schedule(scores, shape), constant, plan.fractions(scores), "dynamic", "")
    (line,) = (trace for trace in drawing.figure.data if trace.name == "constant")
    assert line.y == pytest.approx([100 * constant.mean_slice] * len(line.y))
