"""Charts from near, of windows, maps and sizes, drawn from the runs that ship: they show what is there."""

from __future__ import annotations

import re

import numpy as np
import pytest
from board_stand_in import board_run

from analysis.details import LIKENESSES, Details
from app import wording
from app.coloured import coloured_text, legend
from app.figures.base import CONSTANT, DARK, DYNAMIC, HIGHLIGHT, LIGHT, Theme, luminance, rgb
from app.figures.compare import draw_windows
from app.figures.profile import (
    TokenPath,
    draw_change,
    draw_lens,
    draw_overlay,
    draw_similarity,
    draw_split,
    most_alike,
)
from app.figures.study import draw_map, draw_sizes
from app.figures.tokens import draw_token_path, draw_tokens
from app.tables import (
    lens_table,
    map_table,
    overlay_table,
    passage_table,
    similarity_table,
    split_table,
    token_path_table,
    token_table,
    trial_table,
)
from slicing.budget import Budget
from slicing.studies.store import bundled_run, bundled_sweep, find_details
from slicing.studies.study import recipes
from slicing.studies.verdicts import Board, Comparison, Map, read_board, read_comparison, read_map

RUN = bundled_run()


@pytest.fixture(scope="module")
def details() -> Details:
    found = find_details(bundled_run())
    assert found is not None
    return found


@pytest.fixture
def compared() -> Comparison:
    return read_comparison(RUN.request, RUN.result)


@pytest.fixture(scope="module")
def whole() -> Board:
    run = bundled_sweep()
    return read_board(run.request, run.result)


@pytest.fixture
def cells(whole: Board) -> Map:
    found = read_map(whole)
    assert found is not None
    return found


@pytest.fixture
def begun() -> Board:
    """The same study with nothing stored."""
    return read_board(bundled_sweep().request)


def test_the_map_of_depths_has_a_mark_over_every_cell(details):
    figure, takeaway = draw_similarity(details, (3, 7))
    heat, marks, best = figure.data
    np.testing.assert_allclose(heat.z, details.similarity)
    assert len(marks.x) == details.similarity.size
    place = 5 * len(details.similarity) + 9
    assert (marks.y[place], marks.x[place]) == (5, 9)
    assert marks.customdata[place][0] == "after block 4"
    assert float(marks.customdata[place][2]) == pytest.approx(details.similarity[5, 9])
    (box,) = figure.layout.shapes
    assert (box.y0, box.x0, box.line.color) == (2.5, 6.5, HIGHLIGHT)
    span, first, value = most_alike(details.similarity)
    assert f"blocks {first} to {first + span - 1}" in takeaway
    assert f"{value:.3f}" in takeaway
    assert (best.y, best.x) == ((first,), (first + span,))


@pytest.mark.parametrize("by", LIKENESSES)
def test_alike_is_bright_by_every_measure(details, by):
    values = details.maps()[by]
    figure, takeaway = draw_similarity(details, by=by)
    heat, marks, best = figure.data
    np.testing.assert_allclose(heat.z, values)
    assert heat.zmin <= values.min() and heat.zmax >= values.max() - 1e-5
    brightness = [luminance(rgb(colour)) for _, colour in heat.colorscale]
    assert (brightness[-1] > brightness[0]) == LIKENESSES[by].higher_is_alike
    assert f"{heat.colorbar.title.text} %" in marks.hovertemplate
    pick = max if LIKENESSES[by].higher_is_alike else min
    value = pick(values[first, first + 7] for first in range(24))
    assert f"{value:.3f}" in takeaway
    assert values[best.y[0], best.x[0]] == value
    assert ("Unreasonable Ineffectiveness" in takeaway) == (by == "angular")
    assert ("Unreasonable Ineffectiveness" in best.name) == (by == "angular")
    assert similarity_table(details, by).iloc[3]["7"] == pytest.approx(values[3, 7], abs=1e-4)


def test_two_depths_are_told_by_the_measure_that_was_chosen(details):
    for by, words in (
        ("similarity", "Mean cosine **{}** between the stream entering block 3 and after block 8"),
        ("angular", "Angle **{} π** at the last token"),
        ("cka", "CKA **{}** between"),
    ):
        told = wording.two_depths(details, 9, 3, by)
        assert words.format(f"{details.maps()[by][3, 9]:.3f}") in told
        assert "the 6 blocks 3 to 8" in told
        assert told == wording.two_depths(details, 3, 9, by)
        assert "choose two" in wording.two_depths(details, 4, 4, by)
    assert f"{180 * details.angular[3, 9]:.0f}°" in wording.two_depths(details, 3, 9, "angular")
    assert "block 3 turns" in wording.two_depths(details, 3, 4, "angular")


def test_the_lens_shows_every_block_beside_the_dense_model(details):
    figure, takeaway = draw_lens(details)
    line, dense = figure.data
    found = np.exp(details.lens.astype(float).mean(axis=0))
    np.testing.assert_allclose(line.y, found)
    assert figure.layout.yaxis.type == "log"
    np.testing.assert_allclose(dense.y, found[-1])
    assert f"{found[-1]:.2f}" in dense.name
    assert takeaway.startswith(
        "No block can go from the top before perplexity doubles: straight after block 28"
    )
    assert f"{found[28]:.2f}" in takeaway and f"{found[-1]:.2f}" in takeaway
    table = lens_table(details)
    assert list(table["blocks left out"]) == list(range(29, -1, -1))
    np.testing.assert_allclose(table["perplexity"], found, rtol=1e-3)
    assert table["× dense"].iloc[-1] == 1.0
    assert not table.isna().any(axis=None)


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ((5.0, 4.0, 3.0), "No block can go from the top before perplexity doubles: straight after block 1"),
        ((5.0, 3.1, 3.0), "The last block can go before perplexity doubles: straight after block 1"),
        (
            (3.1, 5.0, 3.2, 3.1, 3.0),
            "The last 2 blocks can go before perplexity doubles: straight after block 2",
        ),
        ((3.2, 3.1, 3.0), "The last 2 blocks can go before perplexity doubles: straight after block 0"),
        ((3.0,), "There is one block alone"),
        ((900.0, 3.0), "No block can go"),
    ],
)
def test_how_much_can_go_from_the_top_is_one_sentence(details, losses, told):
    changed = details._replace(lens=np.array([losses, losses], dtype=np.float32))
    takeaway = draw_lens(changed).takeaway
    assert takeaway.startswith(told)
    assert takeaway.endswith(".") and "nan" not in takeaway and "inf" not in takeaway
    assert len(lens_table(changed._replace(lens=changed.lens[:1]))) == len(losses)


def test_the_most_alike_stretch_is_found_by_brute_force(details):
    similarity = details.similarity
    span, first, value = most_alike(similarity)
    assert value == max(similarity[i, i + span] for i in range(len(similarity) - span))
    assert similarity[first, first + span] == value


def test_tokens_are_counted_and_first_ones_marked_apart(details):
    figure, takeaway = draw_tokens(details, 24)
    bars, first = figure.data
    assert sum(bars.y) == pytest.approx(100.0)
    np.testing.assert_allclose(first.x, details.change[:, 0, 24].astype(np.float32))
    assert f"{np.median(details.change[:, 1:, 24].astype(np.float32)):.3f}" in takeaway
    assert "Block 24" in takeaway
    # First tokens hardly change here: they stand at the end of the axis, and are seen whole.
    assert first.cliponaxis is False and "first token of a window by less than 0.001" in takeaway
    # On a phone names in the middle of their lines would run into each other.
    assert [note.xanchor for note in figure.layout.annotations] == ["right", "left", "left"]


def test_a_token_is_shown_on_its_path_beside_the_mean_of_all(details):
    figure, takeaway = draw_token_path(details, 1, 7, 24)
    band, mean, own = figure.data
    half = len(band.y) // 2
    np.testing.assert_allclose(own.customdata, details.change[1, 7].astype(np.float32))
    np.testing.assert_allclose(mean.y, details.change[:, 1:].astype(np.float32).mean(axis=(0, 1)), rtol=1e-5)
    assert (np.asarray(band.y[:half]) > np.asarray(band.y[half:])[::-1]).all()
    assert f"block 24 changes it by {own.customdata[24]:.3g}" in takeaway
    times = own.customdata / mean.y
    most = int(times.argmax())
    assert most != 24 and f"Block {most} exceeds the mean most: {times[most]:.1f} times" in takeaway
    # Where the block shown is that one, it is not told twice.
    assert draw_token_path(details, 1, 7, most).takeaway.endswith(
        "No other block exceeds the mean by so much."
    )
    table = token_path_table(details, 1, 7)
    assert table["× mean"].iloc[24] == pytest.approx(own.customdata[24] / mean.y[24], abs=0.01)


def test_the_line_of_a_token_lies_in_the_chart_of_changes_and_stretches_it_little(details):
    profile = RUN.result.profile
    still = TokenPath("still", np.zeros(30, dtype=np.float32))
    for path in (TokenPath.of(details, 0, 5), still):
        figure = draw_change(profile, "lr", path=path).figure
        line, dots = figure.data
        assert line.mode == "lines+markers" and dots.mode == "markers"
        assert line.line.width == 1 and line.line.color == LIGHT.label  # quieter than the mean
        assert min(dots.marker.size) > 2 * line.marker.size
        low, high = 10.0 ** np.asarray(figure.layout.yaxis.range)
        assert (np.asarray(line.y) > low).all() and (np.asarray(line.y) < high).all()
        assert low > 0.05 * min(dots.y)
        (key,) = (each for each in figure.layout.annotations if "dotted line" in each.text)
        assert (key.x, key.xanchor) == (0, "left")  # the buttons of a chart stand at its right
    assert len(draw_change(profile, "angular", path=still).figure.data) == 1  # which is of the last token


def test_heads_and_mlp_fill_a_hundred_percent(details):
    figure, takeaway = draw_split(details)
    heads, mlp = figure.data
    np.testing.assert_allclose(np.add(heads.y, mlp.y), 100.0, rtol=1e-5)
    assert heads.marker.pattern.shape != mlp.marker.pattern.shape  # not by colour alone
    larger = [str(block) for block in np.flatnonzero(np.asarray(heads.y) > 50)]
    assert f"blocks {', '.join(larger)}." in takeaway


def test_an_overlay_puts_models_of_any_depth_on_one_scale():
    profile = RUN.result.profile
    shallow = profile.model_copy(
        update={
            "blocks": 10,
            "measurements": {
                name: each.model_copy(
                    update={
                        "rest": tuple(row[:10] for row in each.rest),
                        "first": each.first and tuple(row[:10] for row in each.first),
                    }
                )
                for name, each in profile.measurements.items()
            },
        }
    )
    figure, takeaway = draw_overlay([("deep", profile), ("shallow", shallow)], "lr")
    deep, other = figure.data
    assert (deep.x[0], deep.x[-1]) == pytest.approx((100 / 60, 100 - 100 / 60))
    assert (other.x[0], other.x[-1]) == pytest.approx((5.0, 95.0))
    assert (deep.line.dash, deep.marker.symbol) != (other.line.dash, other.marker.symbol)
    assert "deep at" in takeaway
    table = overlay_table([("deep", profile), ("shallow", shallow)], "lr")
    assert len(table) == 40


def test_windows_show_each_difference_with_its_place(compared):
    figure, takeaway = draw_windows(compared, "constant", "dynamic")
    base, other = (np.array(compared.measured[name].evaluation.nll) for name in ("constant", "dynamic"))
    expected = 100 * np.expm1(other - base)
    shown = {int(x): y for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    np.testing.assert_allclose([shown[window] for window in range(16)], expected)
    worse, better = figure.data
    assert (worse.marker.color, better.marker.color) == (DYNAMIC, CONSTANT)
    assert all(y > 0 for y in worse.y)
    assert f"Better on {int((expected <= 0).sum())} of 16 windows" in takeaway
    assert any("Obama 2010" in str(note.text) for note in figure.layout.annotations)
    table = passage_table(compared, "constant", "dynamic")
    assert table["document"][0] == "Obama 2010"
    np.testing.assert_allclose(table["difference"], (other - base).round(4), atol=1e-9)


def test_windows_without_places_are_drawn_all_the_same(compared):
    evaluation = RUN.result.evaluation.model_copy(update={"passages": ()})
    bare = compared._replace(result=RUN.result.model_copy(update={"evaluation": evaluation}))
    assert len(draw_windows(bare, "constant", "dynamic").figure.data) == 2
    assert (passage_table(bare, "constant", "dynamic")["document"] == "").all()


def test_the_map_colours_what_ran_and_names_what_did_not(whole, cells, begun):
    figure, takeaway = draw_map(cells, whole)
    heat, marks = figure.data
    for row, budget in enumerate(cells.budgets):
        for column, base in enumerate(cells.bases):
            cell = cells.cell(base, budget)
            place = row * len(cells.bases) + column
            if cell.constant:
                assert np.isnan(heat.z[row][column])
                assert marks.text[place] == "=<br>constant"
            else:
                gain = cell.standing.gain
                assert heat.z[row][column] == pytest.approx(gain.percent, rel=1e-5)
                assert f"{abs(gain.percent):.1f} %" in marks.text[place]
                assert marks.hovertext[place].endswith(cell.recipe.line)
    assert heat.zmax == -heat.zmin
    best = min(cell.standing.gain.percent for cell in cells.cells if cell.standing)
    assert f"{best:+.1f} %".replace("-", "−") in takeaway
    empty, told = draw_map(read_map(begun), begun)
    assert np.isnan(empty.data[0].z).all()
    assert set(empty.data[1].text) == {"", "=<br>constant"}
    assert told == f"0 of {begun.total} trials have run."


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_numbers_on_the_map_can_be_read(whole, cells, theme: Theme):
    figure, _ = draw_map(cells, whole, theme=theme)
    heat, marks = figure.data
    inks = np.array(marks.textfont.color).reshape(np.shape(heat.z))
    for value, ink in zip(np.ravel(heat.z), np.ravel(inks), strict=True):
        if np.isnan(value):
            continue
        share = abs(value) / heat.zmax
        end = rgb(CONSTANT if value < 0 else DYNAMIC)
        ground = luminance([(1 - share) * a + share * b for a, b in zip(rgb(theme.middle), end, strict=True)])
        light, dark = sorted((ground, luminance(rgb(ink))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_the_map_says_what_its_scale_and_its_axes_are(whole, cells):
    figure, _ = draw_map(cells, whole)
    assert figure.data[0].colorbar.title.text == "perplexity vs constant, %"
    assert figure.layout.xaxis.title.text == "slice base (SB): what every block loses at least"
    assert [note.text for note in figure.layout.annotations] == ["target (SP):<br>mean slice"]


def test_the_chosen_cell_is_framed(whole, cells):
    target = Budget(amount=0.2)
    (box,) = draw_map(cells, whole, cells.cell(0.05, target)).figure.layout.shapes
    assert (box.x0 + 0.5, box.y0 + 0.5) == (cells.bases.index(0.05), cells.budgets.index(target))


def test_size_against_loss_shows_everyone_once(whole, begun):
    figure, takeaway = draw_sizes(whole)
    marks = [name for trace in figure.data if trace.mode == "markers" for name in trace.text]
    assert sorted(marks) == sorted(each.title for each in wording.models(whole))
    table = trial_table(whole)
    assert len(table) == len(marks) == whole.total
    assert set(table["recipe"]) == {"dense", *(each.line for each in whole.study.recipes)}
    unbeaten = list(table.query("unbeaten")["title"])
    assert len(unbeaten) == 3 and all(name in takeaway for name in unbeaten if name != "Dense")
    assert len(draw_sizes(begun).figure.data[0].x) == 0


def test_size_against_loss_knows_every_kind_of_recipe():
    run = board_run(recipes=recipes("slice(constant)", "fasp", "shortgpt", "shortgpt(share=0.5) | fasp"))
    figure, _ = draw_sizes(read_board(run.request, run.result))
    assert {"cuts inside blocks", "removes blocks", "does both"} <= {trace.name for trace in figure.data}


def test_tables_of_a_map_leave_blank_what_did_not_run(whole, cells, begun):
    assert (map_table(read_map(begun), begun).filter(like="SB").isin(["", "constant"])).all(axis=None)
    table = map_table(cells, whole)
    assert list(table["constant"]) == [f"{each.baseline.perplexity:.2f}" for each in whole.tables]
    assert table.iloc[0]["SB 20 %"] == "constant"
    assert trial_table(begun).empty


def test_tables_from_near_hold_every_number(details):
    tokens = token_table(details, 2, 7)
    assert list(tokens["token id"]) == details.tokens[2].tolist()
    np.testing.assert_allclose(tokens["change (1 − cosine)"], details.change[2, :, 7], atol=1e-3)
    assert similarity_table(details).shape == (31, 32)
    heads, mlp = details.split.T
    np.testing.assert_allclose(
        split_table(details)["heads, % of the change"], 100 * heads / (heads + mlp), atol=0.06
    )


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_is_coloured_by_its_change_and_can_be_read(details, theme: Theme):
    html = coloured_text(details, 0, 24, theme)
    opacities = [float(each) for each in re.findall(r"rgba\(\d+,\d+,\d+,([\d.]+)\)", html)]
    change = details.change[0, :, 24].astype(np.float32)
    assert len(opacities) == change.size
    assert np.corrcoef(opacities, change)[0, 1] > 0.8
    strong = np.percentile(details.change[:, 1:, 24].astype(np.float32), 95)
    assert html.count("underline;") == int((change >= strong).sum())
    ground = rgb("#FFFFFF" if theme is LIGHT else "#060709")
    most = max(opacities)
    mixed = [(1 - most) * a + most * b for a, b in zip(ground, rgb(DYNAMIC), strict=True)]
    light, dark = sorted((luminance(mixed), luminance(rgb(theme.ink))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert f"{strong:.3f}" in legend(details, 24)


def test_text_is_never_taken_for_markup(details):
    hostile = details._replace(pieces=dict.fromkeys(details.pieces, '<script>alert("&")</script>'))
    html = coloured_text(hostile, 0, 0, LIGHT)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
