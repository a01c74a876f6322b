"""The policy that PruneNet trains: it scores the rows of a weight, and draws those that stay."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Drawn(NamedTuple):
    """Rows that were drawn, and the logarithm of the chance of each, summed, with its gradient."""

    rows: Tensor
    chance: Tensor


class Policy(nn.Module):
    """Scores the rows of a weight (n, D): ``(W P + b) r``, of which the sigmoid is taken."""

    def __init__(self, hidden: int, width: int, draw: torch.Generator) -> None:
        """``hidden``: the columns of P, (width, hidden); all start uniform, as those of linear maps do."""
        super().__init__()

        def uniform(*sizes: int, fan: int) -> nn.Parameter:
            return nn.Parameter((2.0 * torch.rand(sizes, generator=draw) - 1.0) / math.sqrt(fan))

        self.project = uniform(width, hidden, fan=width)
        self.shift = uniform(hidden, fan=width)
        self.weigh = uniform(hidden, fan=hidden)

    def forward(self, weight: Tensor) -> Tensor:
        """(n, D) -> (n,): the scores before the sigmoid."""
        return (weight @ self.project + self.shift) @ self.weigh

    def draw(self, weight: Tensor, count: int, draw: torch.Generator) -> Drawn:
        """Draw ``count`` rows without replacement, by chances with the noise of a concrete distribution."""
        noise = torch.rand(len(weight), generator=draw).clamp(1e-6, 1.0 - 1e-6).logit()
        noisy = self(weight) + noise.to(weight)
        chances = noisy.detach().sigmoid().cpu().clamp_min(1e-6)
        rows = torch.multinomial(chances, count, generator=draw).to(weight.device)
        return Drawn(rows, functional.logsigmoid(noisy)[rows].sum())
