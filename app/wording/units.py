"""What is said of the costs of the parts inside blocks."""

from __future__ import annotations

import numpy as np

from analysis.statistics import rank_correlation
from app.wording.numbers import minus
from slicing.inner.costs import SCALED_BLOCKS, BranchCosts, UnitCosts

OFF = 2.0
"""A prediction fails where it is off by this factor or more."""
NAMES = {"attention": "attention", "mlp": "MLP"}

UNITS_READING = (
    "Predicted by optimal brain surgery with the curvature of the loss, from one pass forward and one back. "
    "Where units go, the others are refitted; where a whole attention or MLP goes, nothing is. Costs of "
    "single parts add up only while little goes."
)
"""What costs of units are."""


def units_found(costs: UnitCosts) -> str:
    """Say on what the costs were found."""
    measured = f"; measured on {costs.measured_windows} of them" if costs.measured_windows else ""
    return (
        f"Predicted on {costs.windows} windows of {costs.window_length:,} tokens, the curvature of the loss "
        f"on {costs.curvature_windows} of them{measured}."
    )


def agreement_of_units(costs: UnitCosts, after: int = 0) -> float | None:
    """Spearman's rank correlation of predicted and measured costs of whole branches, from a block on.

    ``None`` where fewer than three were measured.
    """
    pairs = [(each.whole, each.measured) for block, each in costs.compared() if block >= after]
    if len(pairs) < 3:
        return None
    predicted, measured = np.asarray(pairs).T
    return rank_correlation(predicted, measured)


def units_agreement(costs: UnitCosts) -> tuple[str, ...]:
    """Say how well the costs of whole branches were predicted, and where not; empty if none were measured."""
    every = agreement_of_units(costs)
    if every is None:
        return ()
    compared = costs.compared()
    told = (
        f"Spearman's rank correlation of predicted and measured cost is {every:+.2f} over {len(compared)} "
        "attentions and MLPs"
    )
    later = agreement_of_units(costs, SCALED_BLOCKS)
    told += "." if later is None else f", {later:+.2f} without the first {SCALED_BLOCKS} blocks."
    off = units_off(costs)
    if not off:
        return (minus(told), f"No prediction is off by a factor of {OFF:g} or more.")
    named = ", ".join(f"block {block} {NAMES[branch.kind]} ({_times(branch)})" for block, branch in off)
    return minus(told), f"Off by a factor of {OFF:g} or more, measured against predicted: {named}."


def units_off(costs: UnitCosts) -> tuple[tuple[int, BranchCosts], ...]:
    """The branches whose measured cost is twice what is predicted or more, or half of it or less."""
    return tuple(
        (block, branch)
        for block, branch in costs.compared()
        if branch.ratio is not None and not 1 / OFF < branch.ratio < OFF
    )


def _times(branch: BranchCosts) -> str:
    ratio = branch.ratio
    if ratio is None or ratio <= 0.0:
        return "the loss falls"
    return f"{ratio:.1f} ×" if ratio >= 0.1 else f"{ratio:.2f} ×"
