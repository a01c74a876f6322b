"""Intervals that cover what they say, p-values that agree with them, and a correction for being many."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from analysis.statistics import (
    FEWEST_WINDOWS,
    apart_interval,
    apart_p_value,
    holm,
    mean_interval,
    median_coverage,
    p_value,
)

DRAWS = 4000


def coverage(draw: np.ndarray, mean: float, interval=mean_interval) -> float:
    """How often the interval of a row of ``draw`` (rows, N) holds the mean."""
    found = (interval(row) for row in draw)
    return float(np.mean([low <= mean <= high for low, high in found]))


def percentile_bootstrap(values: np.ndarray) -> tuple[float, float]:
    """What was used before."""
    draws = np.random.default_rng(0).integers(0, values.size, size=(500, values.size))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


@pytest.mark.parametrize("count", [8, 16, 64])
def test_an_interval_covers_the_mean_of_normal_differences_as_often_as_it_says(count):
    draw = np.random.default_rng(count).normal(0.05, 0.1, (DRAWS, count))
    assert 0.93 <= coverage(draw, 0.05) <= 0.97


@pytest.mark.parametrize(("count", "least"), [(8, 0.88), (16, 0.89), (64, 0.92)])
def test_of_skewed_differences_it_covers_less_but_more_than_the_bootstrap(count, least):
    draw = np.random.default_rng(count).exponential(0.1, (DRAWS, count))
    found = coverage(draw, 0.1)
    assert least <= found < 0.95
    few = draw[:400]
    assert coverage(few, 0.1) >= coverage(few, 0.1, percentile_bootstrap)


def test_the_bootstrap_covered_too_little():
    draw = np.random.default_rng(0).normal(0.05, 0.1, (1000, 8))
    assert coverage(draw, 0.05, percentile_bootstrap) < 0.91 < 0.93 < coverage(draw, 0.05)


@pytest.mark.parametrize("count", [0, 1, FEWEST_WINDOWS - 1])
def test_there_is_no_interval_and_no_test_for_too_few_windows(count):
    assert mean_interval(np.ones(count)) is None
    assert p_value(np.ones(count)) is None


def test_interval_and_p_value_are_those_of_scipy():
    values = np.random.default_rng(1).normal(0.05, 0.1, 20)
    expected = stats.ttest_1samp(values, 0.0)
    np.testing.assert_allclose(mean_interval(values), expected.confidence_interval(0.95))
    assert p_value(values) == pytest.approx(expected.pvalue)


@given(some.lists(some.floats(-1, 1), min_size=8, max_size=30))
def test_the_p_value_is_below_5_percent_where_the_interval_leaves_out_zero(values):
    low, high = mean_interval(np.array(values))
    p = p_value(np.array(values))
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (low > 0 or high < 0)


def test_interval_moves_and_stretches_with_its_values():
    values = np.random.default_rng(0).normal(0.05, 0.1, 20)
    low, high = mean_interval(values)
    assert low < values.mean() < high
    np.testing.assert_allclose(mean_interval(3 * values + 7), (3 * low + 7, 3 * high + 7))


def test_equal_values_leave_no_doubt():
    assert mean_interval(np.full(20, 0.25)) == (0.25, 0.25)
    assert p_value(np.full(20, 0.1)) == 0.0
    assert p_value(np.zeros(20)) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5]) == (0.5,)
    assert holm([]) == ()


@given(some.lists(some.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_makes_a_p_value_smaller(values):
    found = holm(values)
    assert all(own <= new <= 1.0 for own, new in zip(values, found, strict=True))
    order = sorted(range(len(values)), key=lambda place: values[place])
    assert all(found[a] <= found[b] for a, b in itertools.pairwise(order))


def test_of_many_true_nothings_a_study_finds_one_in_5_percent_at_most():
    draws = np.random.default_rng(3).normal(0.0, 0.1, (600, 10, 16))
    wrong = [min(holm([p_value(values) for values in study])) < 0.05 for study in draws]
    assert np.mean(wrong) < 0.08  # 40 % without the correction
    assert np.mean([min(p_value(values) for values in study) < 0.05 for study in draws]) > 0.3


@pytest.mark.parametrize("count", [5, 6, 8])
def test_the_range_of_some_rounds_covers_the_median_as_often_as_it_says(count):
    draws = np.random.default_rng(count).lognormal(0.0, 0.5, (20000, count))
    covered = np.mean((draws.min(axis=1) <= 1.0) & (draws.max(axis=1) >= 1.0))
    assert covered == pytest.approx(median_coverage(count), abs=0.01)
    assert math.isclose(median_coverage(5), 0.9375)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 40), (30, 12)])
def test_two_samples_apart_are_judged_as_scipy_does_by_welch(sizes):
    random = np.random.default_rng(sum(sizes))
    first, second = random.normal(0.0, 0.3, sizes[0]), random.normal(0.2, 0.1, sizes[1])
    expected = stats.ttest_ind(second, first, equal_var=False)
    np.testing.assert_allclose(apart_interval(first, second), expected.confidence_interval(0.95))
    assert apart_p_value(first, second) == pytest.approx(expected.pvalue)


def test_two_samples_apart_need_eight_windows_each_and_equal_ones_leave_no_doubt():
    few, many = np.arange(7.0), np.arange(20.0)
    assert apart_interval(few, many) is apart_interval(many, few) is apart_p_value(few, many) is None
    assert apart_interval(np.full(8, 0.5), np.full(9, 0.25)) == (-0.25, -0.25)
    assert (apart_p_value(np.ones(8), np.ones(9)), apart_p_value(np.ones(8), np.zeros(9))) == (1.0, 0.0)
