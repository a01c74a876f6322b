"""Products of large matrices on a GPU: in fp32 in place of fp64, and in bf16 halves in place of fp32.

What is added up over many terms is added up in fp64 all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor

_WIDE = 1024
"""Width from which a GPU multiplies in fp32 so much faster than it works in fp64 that this pays."""
_TERMS = 2048
"""Products that are summed in fp32 before they join a sum in fp64."""
_APART = {(8, 0), (9, 0), (10, 0), (10, 3)}
"""Compute capabilities of NVIDIA's cards for data centres (A100, H100, B200, B300). By the maker's figures
they multiply in bf16 15 to 28 times as fast as in fp32. Others do so twice to four times as fast."""

Parts = tuple["Tensor", ...]
"""Matrices whose sum is meant: one in any dtype, or the two halves of one in fp32, in bf16."""


def pays(device: torch.device, width: int) -> bool:
    """Tell whether matrices of this width are worked with in fp32 on this device, instead of in fp64."""
    return device.type == "cuda" and width >= _WIDE


def in_halves(device: torch.device) -> bool:
    """Tell whether products in fp32 are made of products in bf16 on this device.

    It goes by the kind of card alone, so that a job gives the same numbers whenever it runs on one.
    """
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) in _APART
    )


def parts(matrix: Tensor) -> Parts:
    """Split a matrix in fp32 in two bf16 halves, where its device multiplies those faster.

    Their sum has the leading 16 binary digits of every number. A matrix in bf16 is one part.
    """
    if matrix.dtype is not torch.float32 or not in_halves(matrix.device):
        return (matrix,)
    high = matrix.to(torch.bfloat16)
    return high, (matrix - high).to(torch.bfloat16)


def multiplied(first: Parts, second: Parts, squares: bool = False) -> Tensor:
    """Multiply (..., N, K) by (..., K, M), each given in parts.

    Of two halves the product of the lower ones is left out, which is 2^-18 of the whole at most. Where
    numbers meet themselves (``squares``) it is taken too: it has one sign there, and sums would be 3e-6 too
    small.
    """
    last = max(len(first), len(second)) - (not squares)
    pairs = [(i, j) for i in range(len(first)) for j in range(len(second)) if i + j <= last]
    (i, j), *others = sorted(pairs, key=sum, reverse=True)  # the small ones first
    found = _product(first[i], second[j])
    for i, j in others:
        found += _product(first[i], second[j])
    return found


def product(first: Tensor, second: Tensor) -> Tensor:
    """Multiply (..., K) by (K, M), or batches (b, N, K) by (b, K, M), all in fp32, or all in fp64."""
    if first.dtype is not torch.float32 or not in_halves(first.device):
        return first @ second
    if second.dim() == 3:
        return multiplied(parts(first), parts(second))
    return multiplied(parts(first.flatten(0, -2)), parts(second)).unflatten(0, first.shape[:-1])


def square(matrix: Tensor) -> Tensor:
    """Multiply symmetric matrices (..., D, D), fp32, by themselves.

    By halves, what is on the diagonal is up to 4e-6 too small.
    """
    if not in_halves(matrix.device):
        return matrix @ matrix
    high, low = parts(matrix)
    mixed = _product(high, low)
    return (mixed + mixed.mT).add_(_product(high, high))


def summed(first: Tensor, second: Tensor) -> Tensor:
    """Multiply (N, K) by (K, M), both fp64 or both fp32, to (N, M), fp64.

    In fp32, ``_TERMS`` of the K terms are added up at a time, and those sums in fp64.
    """
    if first.dtype is torch.float64:
        return first @ second
    found = first.new_zeros(len(first), second.shape[1], dtype=torch.float64)
    for some, others in zip(first.split(_TERMS, dim=1), second.split(_TERMS), strict=True):
        found += product(some, others)
    return found


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Multiply matrices, or a batch of them, in their dtype; in fp32 where that is bf16, which has no room
    for the sums."""
    if first.dtype is not torch.bfloat16:
        return first @ second
    if first.device.type == "cuda":
        multiply = torch.mm if first.dim() == 2 else torch.bmm
        return multiply(first, second, out_dtype=torch.float32)
    return first.float() @ second.float()
