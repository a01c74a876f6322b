"""Two profiles block by block: how much more one changes its input than the other, and how sure that is.

Knows nothing about runs, or about how blocks came to be numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.errors import PlanError
from analysis.late import pd
from analysis.profile import LayerProfile
from analysis.statistics import LEVEL, apart_interval, apart_p_value, holm, mean_interval, p_value


class ProfileDifference(NamedTuple):
    """The change of every block in two profiles, and the difference of the two."""

    score: str
    """A name in ``SCORES``; what is held side by side is ``LayerProfile.change`` of it."""
    blocks: np.ndarray
    """(n,): numbers of the blocks that both have, in the dense model."""
    first: np.ndarray
    """(n,): the mean over windows in the first profile."""
    second: np.ndarray
    """(n,): the same in the second."""
    difference: np.ndarray
    """(n,): second less first; where ``relative``, in percent of the first."""
    interval: np.ndarray | None
    """(n, 2): its 95 % interval for each block alone; ``None`` where either has fewer than eight windows."""
    p_values: np.ndarray | None
    """(n,): of no difference, two-sided, corrected for all n blocks (Holm)."""
    paired: bool
    """Whether it is by Student on the differences of every window, rather than by Welch on two samples."""
    relative: bool
    windows: tuple[int, int]

    @property
    def clear(self) -> np.ndarray:
        """(n,): whether a block differs at 5 % after the correction; none where there are too few windows."""
        if self.p_values is None:
            return np.zeros(self.blocks.size, dtype=bool)
        return self.p_values < 1.0 - LEVEL

    def to_frame(self) -> pd.DataFrame:
        """One row per block: both means, the difference with its interval, and the p-value."""
        unit = ", %" if self.relative else ""
        columns = {
            "block": self.blocks,
            "first": self.first,
            "second": self.second,
            f"difference{unit}": self.difference,
        }
        if self.interval is not None and self.p_values is not None:
            columns |= {
                f"95 % from{unit}": self.interval[:, 0],
                f"95 % to{unit}": self.interval[:, 1],
                "p-value (Holm)": self.p_values,
                "clear": self.clear,
            }
        return pd.DataFrame(columns)


def profile_difference(
    first: LayerProfile,
    second: LayerProfile,
    score: str,
    first_token: bool = False,
    *,
    same_windows: bool,
    numbers: tuple[Sequence[int], Sequence[int]] | None = None,
    relative: bool = False,
) -> ProfileDifference:
    """Hold two profiles side by side, second less first.

    ``numbers`` gives the number in the dense model of every block of each profile; without it blocks are
    numbered from 0. ``same_windows``: whether window i of both is the same text, so that they can be paired.
    ``relative`` takes logarithms, so that the difference is a ratio of geometric means. Raises ``PlanError``
    where no block is in both, where a profile does not hold the score, or where a value to take the logarithm
    of is not above 0.
    """
    sides = [each.change(score, first_token) for each in (first, second)]
    named = numbers or tuple(range(each.blocks) for each in (first, second))
    common = sorted(set(named[0]) & set(named[1]))
    if not common:
        raise PlanError("These two profiles have no block in common: choose profiles of related models.")
    one, two = (
        side[:, [list(names).index(block) for block in common]]
        for side, names in zip(sides, named, strict=True)
    )
    means = one.mean(axis=0), two.mean(axis=0)
    if relative and min(one.min(), two.min()) <= 0.0:
        raise PlanError(
            "A difference in percent is of values above 0, and some of these are not: ask for the plain "
            "difference."
        )
    if relative:
        one, two = np.log(one), np.log(two)
    paired = same_windows and len(one) == len(two)
    difference = two.mean(axis=0) - one.mean(axis=0)
    found = [_judged(one[:, place], two[:, place], paired) for place in range(len(common))]
    ends = np.asarray([each[0] for each in found if each is not None])
    alone = [each[1] for each in found if each is not None]
    interval = ends if len(alone) == len(common) else None
    if relative:
        difference = 100.0 * np.expm1(difference)
        interval = None if interval is None else 100.0 * np.expm1(interval)
    return ProfileDifference(
        score=score,
        blocks=np.asarray(common),
        first=means[0],
        second=means[1],
        difference=difference,
        interval=interval,
        p_values=None if interval is None else np.asarray(holm(alone)),
        paired=paired,
        relative=relative,
        windows=(len(one), len(two)),
    )


def can_be_relative(profiles: Sequence[LayerProfile], score: str, first_token: bool = False) -> bool:
    """Tell whether a difference in percent can be given: all values are above 0."""
    return all(bool((each.change(score, first_token) > 0.0).all()) for each in profiles)


def _judged(first: np.ndarray, second: np.ndarray, paired: bool) -> tuple[tuple[float, float], float] | None:
    """Give the interval and the p-value of one block's difference; ``None`` for too few windows."""
    if paired:
        interval, value = mean_interval(second - first), p_value(second - first)
    else:
        interval, value = apart_interval(first, second), apart_p_value(first, second)
    return None if interval is None or value is None else (interval, value)
