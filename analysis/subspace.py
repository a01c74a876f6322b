"""The leading subspace of a second moment, found by products of matrices alone.

What a cut keeps depends on the leading subspace only, not on the eigenvectors in it. The projector onto it is
a polynomial of the moment (purification of a density matrix, as electronic structure theory does it:
Niklasson, Expansion algorithm for the density matrix, Phys. Rev. B 66, 155115, 2002). A GPU multiplies
matrices at its full rate, and of an eigenproblem it does most at the rate of its memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.device import widen
from analysis.late import torch
from analysis.products import square

if TYPE_CHECKING:
    from torch import Tensor

_MASSIVE = 16
"""Directions that are found in fp64 first. A massive token gives a few of them up to 100,000 times the energy
of those at the cut, which fp32 would round away."""
_BESIDE, _ROUNDS = 16, 8
"""So many more are iterated with them, and how often."""
_FIRST, _MORE, _MOST = 48, 8, 96
"""Products before the first look at how far it is, between looks, and at most. Every product parts two
neighbouring eigenvalues at the cut 1.24 times as far (on the demo model 20 to 44 are enough)."""
_OFF = 1e-4
"""By which the products of its columns may differ from those of an orthogonal matrix; rounding makes 1e-6."""
_LEAST = 1e-6
"""What every eigenvalue is raised by, relative to those at the cut, so that rounding makes none negative."""


def leading_subspace(moment: Tensor, width: int) -> tuple[Tensor, float] | None:
    """Turn to the leading ``width`` directions of a second ``moment`` (D, D), fp64.

    Returns an orthogonal matrix (D, D), fp32, of which the first ``width`` columns span what the leading
    eigenvectors span and the others the rest, in no order; and the share of the trace that is in the rest.
    ``None`` where so narrow a subspace, or one that the moment does not set apart, takes eigenvectors.
    """
    size = len(moment)
    if not _MASSIVE + _BESIDE < width < size:
        return None
    leading = _massive(moment)  # (D, m)
    along = moment @ leading
    rest = moment - along @ leading.T - leading @ along.T + leading @ (leading.T @ along) @ leading.T
    projector = _purified(rest.float(), width - _MASSIVE, float(rest.diagonal().sort().values[-width]))
    if projector is None:
        return None
    missed = (rest.trace() - _inner(rest, projector)) / moment.trace()
    projector += (leading @ leading.T).float()
    turn = _halves(projector, width)
    return None if turn is None else (turn, max(0.0, float(missed)))


def nearly_orthogonal(basis: Tensor) -> Tensor:
    """Take the rounding out of an orthogonal matrix (D, D), by one step of Newton and Schulz."""
    return 1.5 * basis - 0.5 * basis @ (basis.T @ basis)


def _massive(moment: Tensor) -> Tensor:
    """Find the leading eigenvectors (D, ``_MASSIVE``) by subspace iteration in fp64."""
    size = len(moment)
    drawn = torch.Generator().manual_seed(0)  # on the host: the same numbers on every device
    found = torch.randn(size, _MASSIVE + _BESIDE, dtype=torch.float64, generator=drawn).to(moment.device)
    for _ in range(_ROUNDS):
        found = torch.linalg.qr(moment @ found)[0]
    _, vectors = torch.linalg.eigh(found.T @ (moment @ found))
    return found @ vectors[:, -_MASSIVE:]


def _purified(moment: Tensor, rank: int, scale: float) -> Tensor | None:
    """Find the projector (D, D) onto the leading ``rank`` directions of a ``moment`` (D, D), fp32.

    Its start has the same eigenvectors, and the eigenvalues ``x / (x + scale)``. Then x² or 2x - x² of them
    is taken, whichever brings their sum nearer to ``rank``, until all are 0 or 1.
    """
    size = len(moment)
    plain = torch.eye(size, dtype=moment.dtype, device=moment.device)
    factor, failing = torch.linalg.cholesky_ex(moment / scale + plain)
    solved = failing == 0
    if not solved:  # the moment has eigenvalues far below 0, by its noise
        return None
    found = plain - (1 - _LEAST) * torch.cholesky_inverse(factor)
    for done in range(_MOST):
        squared = square(found)
        one, two = found.trace(), squared.trace()
        if done >= _FIRST and done % _MORE == 0 and one - two < 1e-6 * size:
            right = (one - rank).abs() < 0.5
            if not right:  # what is off by a direction is another subspace
                return None
            squared = found @ found  # not by halves: one more step, of McWeeny, squares what is left
            return 3 * squared - 2 * squared @ found
        smaller = (two - rank).abs() < (2 * one - two - rank).abs()
        found = torch.where(smaller, squared, 2 * found - squared)
        found = (found + found.T) / 2
    return None


def _halves(projector: Tensor, width: int) -> Tensor | None:
    """Find an orthogonal matrix (D, D) whose first ``width`` columns span the range of ``projector`` (D, D).

    ``None`` where rounding leaves the matrix too far from orthogonal.
    """
    size = len(projector)
    places = torch.arange(size, dtype=projector.dtype, device=projector.device)
    drawn = torch.Generator().manual_seed(0)  # on the host: the same numbers on every device
    signs = (torch.randint(0, 2, (size, 1), generator=drawn) * 2 - 1).to(projector)
    # Any columns do that are not special to it: those of a cosine transform, by random signs of the rows.
    columns = signs * torch.cos((places + 0.5).unsqueeze(1) * places * (math.pi / size))
    columns = torch.linalg.qr(_apart(projector, columns, width))[0]
    found = nearly_orthogonal(_apart(projector, columns, width))
    off = (found.T @ found).sub_(torch.eye(size, dtype=found.dtype, device=found.device)).abs().max()
    return found if off < _OFF else None


def _apart(projector: Tensor, columns: Tensor, width: int) -> Tensor:
    """Project the first ``width`` of ``columns`` (D, D), and project the others onto the rest."""
    kept = projector @ columns
    kept[:, width:] = columns[:, width:] - kept[:, width:]
    return kept


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """Sum the products of the entries of two matrices, in fp64."""
    return sum(((a * widen(b)).sum() for a, b in zip(one.split(1024), other.split(1024), strict=True)))  # type: ignore[return-value]
