"""One block's share set by hand, while the others give way so that a target holds.

Knows nothing about torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.errors import PlanError
from analysis.shape import ModelShape
from slicing.allocation import Manual
from slicing.plans import Plan

PARTS = 1000
"""Shares are kept in so many parts of the width, as tables show them: in tenths of a percent."""


def give_way(
    shares: Sequence[float], block: int, share: float, target: float, ceiling: float
) -> tuple[float, ...]:
    """Set the share of a block and scale the others so that the mean of all is ``target``, (L,).

    What is asked for is brought as near as the others allow: none of them loses less than nothing, or more
    than ``ceiling``. Shares are whole tenths of a percent whose sum is exact. Raises ``PlanError`` for no
    such block.
    """
    count = len(shares)
    if not 0 <= block < count:
        raise PlanError(f"There is no block {block}: they go from 0 to {count - 1}.")
    total = round(target * count * PARTS)
    most = math.floor(ceiling * PARTS)
    set_to = min(max(round(share * PARTS), total - most * (count - 1), 0), most, total)
    others = [each for place, each in enumerate(shares) if place != block]
    rest = total - set_to
    found = _scaled(others, rest, most)
    found.insert(block, set_to)
    return tuple(each / PARTS for each in found)


def give_way_at_size(
    plan: Plan,
    shares: Sequence[float],
    block: int,
    share: float,
    redundancy: Sequence[float],
    shape: ModelShape,
) -> tuple[float, ...]:
    """The same with the number of parameters of the plan held, as near as the rounding of widths allows.

    By bisection on the mean, each time by the price list of the model's shape.
    """
    wanted = plan.schedule(redundancy, shape).shape_after(shape).parameters
    count, low, high = len(shares), 0.0, plan.max_fraction
    best: tuple[float, ...] | None = None
    nearest = 0
    while high - low > 0.5 / (PARTS * count):
        middle = (low + high) / 2
        found = give_way(shares, block, share, middle, plan.max_fraction)
        size = by_hand(plan, found).schedule(redundancy, shape).shape_after(shape).parameters
        if best is None or abs(size - wanted) < abs(nearest - wanted):
            best, nearest = found, size
        low, high = (middle, high) if size > wanted else (low, middle)
    assert best is not None
    return best


def by_hand(plan: Plan, shares: Sequence[float]) -> Plan:
    """The plan with these shares, whose mean is its target."""
    settings: dict[str, float | tuple[float, ...]] = {"shares": tuple(shares)}
    changed = {"target": float(np.mean(shares)), "allocation": "manual", "settings": settings}
    return plan.model_copy(update=changed)


def _scaled(weights: Sequence[float], total: int, most: int) -> list[int]:
    """Share ``total`` parts out by weights, none above ``most``; the largest remainders round up."""
    if not weights:
        return []
    target, ceiling = total / PARTS / len(weights), most / PARTS
    alike = (1.0,) * len(weights)
    exact = (
        np.asarray(_by_weight(tuple(weights), alike, target, ceiling)) * PARTS
        if total
        else np.zeros(len(weights))
    )
    found = np.floor(exact + 1e-9).astype(int)
    for place in np.argsort(found - exact, kind="stable")[: total - int(found.sum())]:
        found[place] += 1
    return found.tolist()


def _by_weight(
    weights: tuple[float, ...], alike: tuple[float, ...], target: float, ceiling: float
) -> tuple[float, ...]:
    """Scale weights to a mean; where those that are not 0 cannot take it all, the others take the rest."""
    for each in (weights, tuple(weight + 1e-3 for weight in weights)):
        try:
            return Manual(shares=each)(alike, target, ceiling).values
        except PlanError:  # all are 0, or too few are not
            continue
    return (target,) * len(weights)
