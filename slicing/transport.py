"""Optimal transport between two sets of features, with an entropy that keeps the plan spread out.

Knows nothing about models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS, QUICK = 50, 100
"""Of Sinkhorn's iteration, at most: in logarithms, and of products after each."""


def sinkhorn(cost: Tensor, strength: float) -> Tensor:
    """The plan (n, k) of least ``cost`` (n, k) less ``strength`` times its entropy, both marginals uniform.

    Each of n rows sends 1 / n, each of k columns gets 1 / k. In logarithms, so that no strength is too small,
    with quick rounds of products between, as long as they stay in range (Peyré and Cuturi, Computational
    Optimal Transport, 2019, section 4.4).
    """
    cost = cost.to(torch.promote_types(cost.dtype, torch.float32))
    # By how much the mass of a column may be off, and beyond what no factor of a product grows.
    near, largest = (1e-6, 1e100) if cost.dtype is torch.float64 else (1e-4, 1e15)
    rows, columns = cost.shape
    scaled = -cost / strength
    sends, gets = 1 / rows, 1 / columns
    down, across = torch.zeros_like(scaled[0]), torch.zeros_like(scaled[:, 0])
    for _ in range(ROUNDS):
        down = math.log(gets) - (scaled + across.unsqueeze(1)).logsumexp(0)
        across = math.log(sends) - (scaled + down).logsumexp(1)
        plan = (scaled + across.unsqueeze(1) + down).exp()
        if (plan.sum(0) / gets - 1).abs().max() < near:
            return plan
        left, right = torch.ones_like(across), torch.ones_like(down)
        for _ in range(QUICK):
            narrower = gets / (left @ plan)
            wider = sends / (plan @ narrower)
            if not (narrower.max() < largest and wider.max() < largest):
                break
            left, right = wider, narrower
        down, across = down + right.log(), across + left.log()
    return (scaled + across.unsqueeze(1) + down).exp()


def as_mixes(plan: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a plan T (n, k) to the matrices that mix rows and columns of n features into k.

    R (n, k): every new row is a mean of old ones, so that the columns of R add up to 1. W (n, k): every old
    column goes to new ones as a whole, so that the rows of W add up to 1.
    """
    return plan / plan.sum(dim=0), plan / plan.sum(dim=1, keepdim=True)
