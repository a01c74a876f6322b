"""An interval that covers what it says it covers, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics import FEWEST_WINDOWS, bootstrap_interval


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.05, 0.1, count)


def test_interval_covers_the_true_mean_about_as_often_as_promised():
    intervals = [bootstrap_interval(normal(16, seed)) for seed in range(300)]
    covered = np.mean([low <= 0.05 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.97  # of 16 values a little less than the 95 % of the limit


@pytest.mark.parametrize("count", [0, 1, FEWEST_WINDOWS - 1])
def test_there_is_no_interval_for_too_few_windows(count):
    assert bootstrap_interval(normal(count)) is None
    assert bootstrap_interval(normal(FEWEST_WINDOWS)) is not None


def test_interval_does_not_depend_on_anybody_elses_seed():
    values = normal(20)
    np.random.seed(1)
    first = bootstrap_interval(values)
    np.random.seed(2)
    assert bootstrap_interval(values) == first
    assert bootstrap_interval(values[::-1].copy()) != first  # it is the values that are resampled


def test_interval_moves_and_stretches_with_its_values():
    values = normal(20)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    np.testing.assert_allclose(bootstrap_interval(3 * values + 7), (3 * low + 7, 3 * high + 7))
    assert bootstrap_interval(np.full(20, 0.25)) == (0.25, 0.25)


def test_more_windows_narrow_the_interval():
    widths = [np.ptp(bootstrap_interval(normal(count))) for count in (16, 64, 256)]
    assert widths[0] > widths[1] > widths[2]
