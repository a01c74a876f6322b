"""Adapters of low rank (LoRA, 2106.09685), as parametrizations of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """W + (alpha / r) B A, of a weight W (M, N): B (M, r) begins as zeros, A (r, N) is drawn."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rank = min(rank, *weight.shape)
        drawn = torch.randn(rank, weight.shape[1], generator=torch.Generator().manual_seed(0))
        self.scale = alpha / rank
        self.first = nn.Parameter(drawn.to(weight) / rank**0.5)
        self.then = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Give the weight with what was learned."""
        return weight + self.scale * (self.then @ self.first)
