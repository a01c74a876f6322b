"""How long to train: tokens or minutes, and how the learning rate falls meanwhile. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM = 0.05
"""Share of the budget in which the learning rate rises to its largest."""
LAST = 0.05
"""Share of the learning rate that is left at the end, a cosine between."""


@dataclass(frozen=True)
class Limits:
    """The budget of a training: so many tokens, or so many seconds where these are given."""

    tokens: int
    seconds: float = 0.0

    def used(self, tokens: int, seconds: float) -> float:
        """Tell the share of the budget that is used, from 0 to 1."""
        return min(1.0, seconds / self.seconds if self.seconds else tokens / self.tokens)


def rate_at(used: float, rate: float) -> float:
    """Give the learning rate when a share ``used`` of the budget is used."""
    if used < WARM:
        return rate * (used + 0.01) / (WARM + 0.01)
    falling = (used - WARM) / (1.0 - WARM)
    return rate * (LAST + (1.0 - LAST) * (1.0 + math.cos(math.pi * falling)) / 2.0)
