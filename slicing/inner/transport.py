"""Optimal transport between two sets of features, with an entropy that keeps the plan spread out.

Knows nothing about models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 500
"""At most: a low temperature needs many."""
TOLERANCE = 1e-4
"""The share of its mass that a row may lack at the end."""


def transport(cost: Tensor, temperature: float) -> Tensor:
    """The plan T (n, k) of least ``<T, cost> - temperature * entropy(T)``, by Sinkhorn's iteration.

    As in Cuturi (2013), with logarithms, so that no temperature above 0 is too low. Each of n rows has the
    mass 1/n, and each of the k columns gets 1/k; at a very low temperature the rounds may end before all rows
    have theirs. The ``temperature`` is relative to the mean of the ``cost`` (n, k).
    """
    cost = cost.to(torch.promote_types(cost.dtype, torch.float32))
    rows, columns = cost.shape
    scores = cost / (-temperature * cost.mean().clamp_min(1e-30))
    of_rows, of_columns = scores.new_full((rows,), -math.inf), scores.new_zeros(columns)
    for _ in range(ROUNDS):
        before = of_rows
        of_rows = -math.log(rows) - (scores + of_columns).logsumexp(dim=1)
        if float((of_rows - before).abs().max()) < TOLERANCE:  # each row had its mass, but for so much
            break
        of_columns = -math.log(columns) - (scores + of_rows[:, None]).logsumexp(dim=0)
    return (scores + of_rows[:, None] + of_columns).exp()


def as_mixes(plan: Tensor) -> tuple[Tensor, Tensor]:
    """What a plan T (n, k) makes of the rows that give n features and of the columns that read them.

    R (n, k): every new row is a mean of old ones, so that the columns of R add up to 1. W (n, k): every old
    column goes to new ones as a whole, so that the rows of W add up to 1.
    """
    return plan / plan.sum(dim=0), plan / plan.sum(dim=1, keepdim=True)
