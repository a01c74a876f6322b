"""Intervals, tests and rank correlations of numbers that were measured. Knows nothing about models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from analysis.late import special

FEWEST_WINDOWS = 8
"""Below this many windows an interval would be a pretence; there is none."""
LEVEL = 0.95
"""How often an interval is to hold the true mean."""


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Give Student's 95 % interval of the mean of ``values`` (N,), or ``None`` for too few.

    For a difference, pass the paired differences: what is hard in one window is hard for every model. The
    interval is exact for independent normal values, and too narrow for skewed ones
    (``tests/analysis/test_statistics.py`` measures by how much).
    """
    if values.size < FEWEST_WINDOWS:
        return None
    mean, reach = float(values.mean()), _quantile(values.size - 1) * _standard_error(values)
    return mean - reach, mean + reach


def p_value(values: np.ndarray) -> float | None:
    """Give the two-sided p-value of Student's test that the mean of ``values`` (N,) is 0.

    It is below 0.05 where ``mean_interval`` leaves out 0. ``None`` for too few values.
    """
    if values.size < FEWEST_WINDOWS:
        return None
    mean, error = float(values.mean()), _standard_error(values)
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * special.stdtr(values.size - 1, -abs(mean) / error))


def apart_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """Give the 95 % interval of the mean of ``second`` (M,) less that of ``first`` (N,), not paired.

    By Welch (Biometrika, 1947), who does not take the two spreads to be equal. ``None`` where either has too
    few values.
    """
    found = _apart(first, second)
    if found is None:
        return None
    mean, error, degrees = found
    reach = _quantile(degrees) * error if error else 0.0
    return mean - reach, mean + reach


def apart_p_value(first: np.ndarray, second: np.ndarray) -> float | None:
    """Give the two-sided p-value of Welch's test that the means of two independent samples are equal.

    It is below 0.05 where ``apart_interval`` leaves out 0. ``None`` where either has too few values.
    """
    found = _apart(first, second)
    if found is None:
        return None
    mean, error, degrees = found
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * special.stdtr(degrees, -abs(mean) / error))


def _apart(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float] | None:
    """Give the difference of two means, its standard error and the degrees of freedom of that."""
    if min(first.size, second.size) < FEWEST_WINDOWS:
        return None
    mean = float(second.mean()) - float(first.mean())
    parts = [_standard_error(values) ** 2 for values in (first, second)]
    whole = sum(parts)
    if whole == 0.0:
        return mean, 0.0, 1.0
    each = zip(parts, (first, second), strict=True)
    # Shares of the whole, since squares of small variances would underflow.
    degrees = 1.0 / sum((part / whole) ** 2 / (values.size - 1) for part, values in each)
    return mean, math.sqrt(whole), degrees


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct p-values for being many, in their order (Holm, Scandinavian Journal of Statistics, 1979).

    Of all verdicts at 0.05 on the corrected values, one or more are wrong in at most 5 % of studies.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return tuple(corrected)


def median_coverage(count: int) -> float:
    """Say how often the range from the least to the most of ``count`` values holds the true median."""
    return 1.0 - 2.0 ** (1 - count)


def _standard_error(values: np.ndarray) -> float:
    # Equal values differ by nothing, whatever rounding makes of their mean.
    return 0.0 if np.ptp(values) == 0.0 else float(values.std(ddof=1)) / math.sqrt(values.size)


@lru_cache(maxsize=256)
def _quantile(degrees: float) -> float:
    return float(special.stdtrit(degrees, (1.0 + LEVEL) / 2.0))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's: the correlation of the ranks, equal values sharing theirs; 0 where one does not vary."""
    ranks = [_ranks(values) - (values.size - 1) / 2 for values in (first, second)]
    norms = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / norms if norms else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 0, the mean of their places for equal values."""
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[groups]
