"""The parts of a sliced model: norm without gain, sub-layer with a shortcut, block, embedding.

One block class serves every pre-norm family, because the attention and MLP modules stay those of
transformers, with smaller linears inside. Knows nothing about how the bases were found.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class UnitRMSNorm(nn.Module):
    """RMS norm without a gain. Divides by the *dense* width, so that slicing does not change the scale."""

    def __init__(self, hidden_size: int, epsilon: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        """Normalise (..., W) in fp32 or better, and return it in its own dtype."""
        precise = states.to(torch.promote_types(states.dtype, torch.float32))
        mean_square = precise.square().sum(-1, keepdim=True) / self.hidden_size
        return (precise * torch.rsqrt(mean_square + self.epsilon)).to(states.dtype)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"hidden_size={self.hidden_size}, epsilon={self.epsilon}"


class SlicedSublayer(nn.Module):
    """``x @ shortcut + core(norm(x))``: the shortcut takes the stream from its old basis to the new one."""

    def __init__(self, kind: str, norm: UnitRMSNorm, core: nn.Module, shortcut: Tensor) -> None:
        super().__init__()
        self.kind = kind
        self.norm = norm
        self.core = core
        self.shortcut = nn.Parameter(shortcut, requires_grad=False)

    def branch(self, states: Tensor, **context: Any) -> Tensor:
        """What the sub-layer adds to the stream; ``context`` (positions, mask, cache) is attention's."""
        normed = self.norm(states)
        return self.core(normed, **context)[0] if self.kind == "attention" else self.core(normed)

    def forward(self, states: Tensor, **context: Any) -> Tensor:
        """(B, T, W_in) -> (B, T, W_out)."""
        return states @ self.shortcut + self.branch(states, **context)


class SlicedBlock(nn.Module):
    """A decoder block: its sliced sub-layers, one after the other."""

    def __init__(self, sublayers: list[SlicedSublayer]) -> None:
        super().__init__()
        self.sublayers = nn.ModuleList(sublayers)

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        """(B, T, W_in) -> (B, T, W_out), called by the transformers decoder like its own blocks."""
        for sublayer in self.sublayers:
            hidden_states = sublayer(hidden_states, **context)
        return hidden_states


class SlicedEmbedding(nn.Module):
    """Token rows in the first basis.

    Shared form: the dense table (V, D), which the head uses too, and a rotation (D, W) after the
    look-up. Untied form: a table (V, W) of its own and no rotation.
    """

    def __init__(self, weight: nn.Parameter, rotation: Tensor | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.scale = scale
        self.rotation = None if rotation is None else nn.Parameter(rotation, requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, W)."""
        rows = functional.embedding(tokens, self.weight)
        if self.scale != 1.0:
            # Rounded to the weight's dtype first, as transformers does for Gemma.
            rows = rows * torch.tensor(self.scale, dtype=rows.dtype, device=rows.device)
        return rows if self.rotation is None else rows @ self.rotation
