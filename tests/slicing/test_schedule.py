"""Widths keep the mean, and prices are exact before anything is built."""

from __future__ import annotations

import itertools
import timeit

import pytest
from conftest import DEMO_SHAPE
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import PlanError, StorageError
from analysis.shape import ModelShape, SublayerShape
from slicing.allocation import Dynamic
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule, constant_at_parameters

SMALL = ModelShape(
    architecture="llama",
    hidden_size=16,
    vocab_size=50,
    tied=True,
    blocks=(
        (
            SublayerShape(kind="attention", reader_rows=24, writer_columns=16),
            SublayerShape(kind="mlp", reader_rows=40, writer_columns=20),
        ),
    )
    * 3,
)


def constant(
    fraction: float, rounding: int, embedding="shared", shape: ModelShape = DEMO_SHAPE
) -> SlicingSchedule:
    return SlicingSchedule.from_fractions(
        [fraction] * shape.block_count, shape.hidden_size, rounding, embedding
    )


@given(
    fractions=st.lists(st.floats(0.0, 0.9), min_size=1, max_size=40),
    rounding=st.sampled_from([1, 8, 64]),
    hidden_size=st.sampled_from([64, 200, 576, 960, 4096]),
)
def test_rounding_keeps_the_mean_and_the_multiples(fractions, rounding, hidden_size):
    schedule = SlicingSchedule.from_fractions(fractions, hidden_size, rounding, "untied")
    *widths, head = schedule.widths
    assert head == hidden_size
    assert all(width % rounding == 0 or width == hidden_size for width in widths)
    if hidden_size % rounding == 0 and min(hidden_size * (1 - f) for f in fractions) >= rounding:
        wanted = sum(hidden_size * (1 - f) for f in fractions)
        assert abs(sum(widths) - wanted) <= rounding / 2 + 1e-6
        assert all(
            abs(width - hidden_size * (1 - f)) < rounding + 1e-6
            for width, f in zip(widths, fractions, strict=True)
        )


@given(fractions=st.lists(st.floats(0.0, 0.5), min_size=2, max_size=30), rounding=st.sampled_from([1, 8]))
def test_smaller_fraction_is_at_most_one_step_narrower(fractions, rounding):
    widths = SlicingSchedule.from_fractions(fractions, 576, rounding, "shared").widths[:-1]
    for (_, wide), (_, narrow) in itertools.pairwise(sorted(zip(fractions, widths, strict=True))):
        assert wide >= narrow - rounding


@given(
    multiples=st.lists(st.integers(1, 72), min_size=1, max_size=40), rounding=st.sampled_from([1, 2, 4, 8])
)
def test_widths_that_are_multiples_already_stay(multiples, rounding):
    widths = [8 * multiple for multiple in multiples]
    fractions = [1 - width / 576 for width in widths]
    assert list(SlicingSchedule.from_fractions(fractions, 576, rounding, "shared").widths[:-1]) == widths


def test_blocks_that_are_not_cut_keep_the_whole_width_whatever_the_rounding():
    schedule = SlicingSchedule.from_fractions([0.0, 0.5], 100, 64, "untied")
    assert schedule.widths == (100, 64, 100)


def test_equal_remainders_are_spread_over_the_depth():
    widths = constant(0.3, 8).widths[:-1]
    assert set(widths) == {400, 408}
    wide = [block for block, width in enumerate(widths) if width == 408]
    gaps = [b - a for a, b in itertools.pairwise(wide)]
    assert len(wide) == 12  # 30 x 403.2 = 12,096 = 18 x 400 + 12 x 408
    assert max(gaps) <= 3
    assert (wide[0] <= 2, wide[-1] >= 27) == (True, True)


def test_published_parameter_counts_of_the_demo_model():
    assert DEMO_SHAPE.parameters == 134_515_008
    assert constant(0.25, 8, "untied").shape_after(DEMO_SHAPE).parameters == 140_652_288
    assert constant(0.25, 8, "shared").shape_after(DEMO_SHAPE).parameters == 119_668_032
    # Untied and fused, without shortcuts: the full-width form less its 60 shortcut matrices.
    assert constant(0.0, 8, "untied").shape_after(DEMO_SHAPE).parameters - 60 * 576**2 == 162_791_424


def test_cutting_more_never_adds_parameters_or_flops():
    schedules = [constant(fraction / 100, 8) for fraction in range(2, 90, 2)]
    sizes = [schedule.shape_after(DEMO_SHAPE).parameters for schedule in schedules]
    flops = [schedule.shape_after(DEMO_SHAPE).flops_per_token for schedule in schedules]
    assert sizes == sorted(sizes, reverse=True)
    assert flops == sorted(flops, reverse=True)


def test_mean_slice_is_what_was_asked_for():
    fractions = Dynamic(base=0.1)([0.0] + [0.9 + i / 300 for i in range(29)], 0.25).values
    for rounding in (1, 8, 64):
        schedule = SlicingSchedule.from_fractions(fractions, 576, rounding, "shared")
        assert schedule.mean_slice == pytest.approx(0.25, abs=rounding / 2 / 576 / 30 + 1e-12)


@pytest.mark.parametrize("embedding", ["shared", "untied"])
@pytest.mark.parametrize("rounding", [1, 2, 4])
def test_matched_constant_comes_as_near_as_any_constant_does(embedding, rounding):
    every = {
        constant(steps / 480, rounding, embedding, SMALL).shape_after(SMALL).parameters
        for steps in range(10 * 16 * 3)
    }
    for wanted in range(min(every), max(every), 7):
        found = constant_at_parameters(SMALL, wanted, rounding, embedding).shape_after(SMALL).parameters
        assert abs(found - wanted) == min(abs(size - wanted) for size in every)


def test_matched_constant_outside_the_range_says_the_range():
    with pytest.raises(PlanError, match=r"No constant schedule has 10 parameters: they range from .* to .*"):
        constant_at_parameters(SMALL, 10, 1, "shared")


@pytest.mark.parametrize(
    ("widths", "sentence"),
    [
        ((0, 16, 16), "must lie between 1 and 16"),
        ((17, 16, 16), "must lie between 1 and 16"),
        ((8, 8, 8), "the last width must be 16"),
        ((16,), "a width for each block"),
    ],
)
def test_widths_that_cannot_be_are_refused(widths, sentence):
    with pytest.raises(PlanError, match=sentence):
        SlicingSchedule(hidden_size=16, widths=widths, embedding="shared")


def test_schedule_goes_to_json_and_back():
    schedule = constant(0.3, 8)
    assert SlicingSchedule.from_json(schedule.to_json(), "test") == schedule
    with pytest.raises(StorageError, match="is not a readable SlicingSchedule"):
        SlicingSchedule.from_json(schedule.to_json().replace("576", '"wide"', 1), "test")


def test_planning_takes_less_than_a_frame():
    plan, redundancy = Plan(), [i / 29 for i in range(30)]
    seconds = min(
        timeit.repeat(
            lambda: plan.schedule(redundancy, DEMO_SHAPE).shape_after(DEMO_SHAPE).parameters,
            number=10,
            repeat=5,
        )
    )
    assert seconds / 10 < 0.005  # measured 0.0002; a slider has 0.016
