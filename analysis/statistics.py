"""Intervals for numbers measured on windows of text. Knows nothing about models."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
FEWEST_WINDOWS = 8
"""Below this many windows an interval would be a pretence; there is none."""


def bootstrap_interval(values: np.ndarray) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the mean of ``values`` (N,), or ``None`` for too few.

    For a difference, pass the paired differences: what is hard in one window is hard for every model.
    The resampling is seeded, so the same values give the same interval.
    """
    if values.size < FEWEST_WINDOWS:
        return None
    draws = np.random.default_rng(0).integers(0, values.size, size=(RESAMPLES, values.size))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)
