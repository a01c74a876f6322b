"""How a weight moves into another basis of the residual stream.

A linear map either *reads* the stream or *writes* it. With Q (D x W, orthonormal columns) one
rectangular product both rotates and slices it: a reader becomes ``weight @ Q``, a writer ``Q.T @ weight``.
Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor


def read_in(weight: Tensor, basis: Tensor, gain: Tensor) -> Tensor:
    """A reader (..., rows, D) for a stream given in ``basis`` (D, W), with the norm's ``gain`` (D,) in it."""
    return (_precise(weight, basis) @ (gain.to(basis).unsqueeze(1) * basis)).to(weight.dtype)


def shifted_bias(weight: Tensor, bias: Tensor | None, shift: Tensor) -> Tensor:
    """The bias of a reader (rows, D) that gets what a layer norm adds at its end, (D,)."""
    moved = _precise(weight, weight) @ _precise(shift, weight)
    return (moved if bias is None else moved + _precise(bias, weight)).to(weight.dtype)


def write_in(weight: Tensor, basis: Tensor) -> Tensor:
    """A writer (..., D, columns), or its bias (D,), for a stream given in ``basis`` (D, W)."""
    return (basis.T @ _precise(weight, basis)).to(weight.dtype)


def centred(basis: Tensor) -> Tensor:
    """``M @ basis`` with M = I - 11'/D: what is written through it has no mean, as after a layer norm."""
    return basis - basis.mean(dim=0)


def random_bases(width: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random orthogonal matrices (D, D) in fp64, on the host, without end, for the price of one.

    The first is uniformly random; the others are it with its rows shuffled and their signs drawn.
    """
    q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    basis = q * torch.sign(torch.diagonal(r))  # without the signs it would not be uniform
    while True:
        yield basis
        signs = torch.randint(0, 2, (width, 1), generator=generator) * 2.0 - 1.0
        basis = basis[torch.randperm(width, generator=generator)] * signs


def _precise(tensor: Tensor, like: Tensor) -> Tensor:
    precise = torch.promote_types(like.dtype, torch.promote_types(tensor.dtype, torch.float32))
    return tensor.detach().to(like.device, precise)
