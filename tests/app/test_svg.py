"""Figures as SVG: every figure of ours can be drawn, at both widths, and says what it says in the app."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import UnsupportedError
from app.figures.base import LIGHT, Drawing, empty_figure
from app.figures.svg.axes import Axis, axis_of, ticks_of
from app.figures.svg.chart import NARROW, WIDE, as_svg
from app.figures.svg.paint import Paint
from app.figures.svg.symbols import known
from app.figures.svg.words import tooltip, width_of, wrapped
from app.report import figures, sections
from slicing.studies.store import (
    bundled_board,
    bundled_contest,
    bundled_energy,
    bundled_run,
    bundled_sweep,
)

SVG = "{http://www.w3.org/2000/svg}"
BUNDLED = [bundled_run, bundled_energy, bundled_board, bundled_contest, bundled_sweep]


def drawn(*traces, **layout) -> ElementTree.Element:
    figure = empty_figure(LIGHT, 300)
    for each in traces:
        figure.add_trace(each)
    figure.update_layout(**layout)
    return ElementTree.fromstring(as_svg(Drawing(figure, "what it says")))


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("bundled", BUNDLED)
def test_every_figure_of_a_report_is_drawn_within_its_frame(bundled, width):
    for section in sections(bundled()):
        if section.drawing is None:
            continue
        root = ElementTree.fromstring(as_svg(section.drawing, width))
        assert root.get("aria-label")
        height = float(root.get("height", "0"))
        for circle in root.iter(f"{SVG}circle"):
            assert -1 <= float(circle.get("cx", "0")) <= width + 1
            assert -1 <= float(circle.get("cy", "0")) <= height + 1
        for text in root.iter(f"{SVG}text"):
            if text.get("transform"):
                continue
            size, anchor = float(text.get("font-size", "0")), text.get("text-anchor")
            for line in text.iter(f"{SVG}tspan"):
                said = "".join(line.itertext())
                if line.get("x") is None:
                    continue
                wide = width_of(said, size)
                left = (
                    float(line.get("x", "0")) - {"start": 0.0, "middle": wide / 2, "end": wide}[str(anchor)]
                )
                assert left >= -2, (section.title, said)
                assert left + wide <= width + 30, (section.title, said)  # estimated, and a little too wide


def test_nothing_is_no_number():
    for bundled in BUNDLED:
        for content in figures(bundled()).values():
            assert not re.search(r"\bnan\b|\binf\b", re.sub(r"<title>.*?</title>", "", content))


def test_every_marker_of_a_figure_is_known():
    symbols = set()
    for bundled in BUNDLED:
        for section in sections(bundled()):
            data: Any = section.drawing.figure.data if section.drawing else ()
            for trace in data:
                symbol = getattr(trace.marker, "symbol", None) if trace.type == "scatter" else None
                symbols |= {symbol} if isinstance(symbol, str) else set(symbol or ())
    assert len(symbols) > 5
    assert all(map(known, symbols))


def test_bars_are_as_high_as_their_values():
    root = drawn(go.Bar(x=[0, 1, 2], y=[1.0, 2.0, 4.0], marker={"color": "#112233"}))
    heights = [
        float(each.get("height", "0")) for each in root.iter(f"{SVG}rect") if each.get("fill") == "#112233"
    ]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[2] == pytest.approx(4 * heights[0], abs=0.2)


def test_bars_at_the_same_place_stand_beside_each_other_and_others_do_not():
    def widths(second):
        root = drawn(go.Bar(x=[0, 1], y=[1, 1], marker={"color": "#112233"}), go.Bar(x=second, y=[1, 1]))
        return [
            float(each.get("width", "0")) for each in root.iter(f"{SVG}rect") if each.get("fill") == "#112233"
        ]

    assert widths([0, 1])[-1] < 0.8 * widths([2, 3])[-1] * 2
    stacked = drawn(
        go.Bar(x=[0], y=[1.0], marker={"color": "#112233"}),
        go.Bar(x=[0], y=[3.0], marker={"color": "#445566"}),
        barmode="stack",
    )
    tops = {each.get("fill"): float(each.get("y", "0")) for each in stacked.iter(f"{SVG}rect")}
    assert tops["#445566"] < tops["#112233"]


def test_a_log_axis_has_decades_and_a_reversed_one_runs_down():
    axis = axis_of({"type": "log"}, [0.01, 1000.0], padded=False)
    labels = [tick.label for tick in ticks_of({"exponentformat": "power"}, axis, 200.0)]
    assert "10⁰" in labels and "10³" in labels
    assert Axis(0.0, 2.0, 100.0, 0.0).place(2.0) == 0.0
    assert math.isnan(axis.unit(-1.0)) and math.isnan(axis.unit(None))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(60, 900))
def test_ticks_lie_within_their_axis_and_are_few(low, span, pixels):
    axis = Axis(low, low + span, 0.0, float(pixels))
    ticks = ticks_of({}, axis, pixels)
    assert len(ticks) <= max(4, pixels / 20)
    assert all(axis.holds(tick.at) for tick in ticks)
    assert len({tick.at for tick in ticks}) == len(ticks)


def test_a_tooltip_says_what_the_template_says():
    known_of = {"x": 3, "y": -0.12345, "customdata": ("a < b", 1234), "error_y.array": 0.5}
    template = (
        "block %{x}: %{y:+.2f} ± %{error_y.array:.1f}<br>%{customdata[0]}, %{customdata[1]:,}<extra></extra>"
    )
    assert tooltip(template, known_of) == "block 3: −0.12 ± 0.5\na &lt; b, 1,234"


def test_texts_of_anybody_are_no_markup():
    root = drawn(
        go.Scatter(x=[0, 1], y=[0, 1], name="&lt;script&gt;alert(1)&lt;/script&gt;"),
        go.Scatter(x=[0, 1], y=[1, 0], name="other", text=["&lt;b&gt;", "x"], mode="markers+text"),
    )
    assert "<script>alert(1)</script>" in texts(root)
    assert "<b>" in texts(root)
    assert not list(root.iter(f"{SVG}script"))


def test_colours_of_the_background_get_other_names_and_roles_keep_theirs():
    figure = empty_figure(LIGHT, 300)
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": LIGHT.measured}))
    figure.add_trace(go.Scatter(x=[0, 1], y=[1, 0], mode="lines", line={"color": "#D55E00"}))
    content = as_svg(Drawing(figure, "said"), paint=Paint({LIGHT.measured: "var(--measured)"}))
    assert 'stroke="var(--measured)"' in content and 'stroke="#D55E00"' in content
    assert LIGHT.measured not in content


def test_long_labels_of_rows_stand_above_them_on_a_phone():
    names = [f"A recipe with a very long name that says all it does, number {place}" for place in range(4)]
    figure = empty_figure(LIGHT, 300)
    figure.add_trace(go.Bar(x=[1, 2, 3, 4], y=names, orientation="h"))
    wide, narrow = (
        ElementTree.fromstring(as_svg(Drawing(figure, "said"), width)) for width in (1200, NARROW)
    )
    assert float(narrow.get("height", "0")) != float(wide.get("height", "0"))
    spots = [each for each in narrow.iter(f"{SVG}text") if "A recipe" in "".join(each.itertext())]
    assert all(each.get("text-anchor") == "start" for each in spots)


def test_what_none_of_our_figures_has_is_refused():
    figure = go.Figure(go.Pie(values=[1, 2]))
    with pytest.raises(UnsupportedError, match="'pie' cannot be drawn as SVG"):
        as_svg(Drawing(figure, "said"))


def test_long_titles_break_between_words():
    assert wrapped("one two three", 14.0, 60.0).count("<br>") >= 1
    assert wrapped("one", 14.0, 1.0) == "one"
