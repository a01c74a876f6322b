"""Principal directions of a second moment, found by products of matrices alone.

The projector onto the leading subspace of a matrix is a polynomial of it (purification of a density matrix,
as electronic structure theory does it: Niklasson, Expansion algorithm for the density matrix, Phys. Rev. B
66, 155115, 2002). One projector parts the directions in two halves. Halves that are parted again and again
end in eigenvectors (Nakatsukasa and Higham, Stable and efficient spectral divide and conquer algorithms,
SIAM J. Sci. Comput. 35, 2013). A GPU multiplies matrices at its full rate, and of an eigenproblem it does
most at the rate of its memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from analysis.device import widen
from analysis.late import torch
from analysis.products import product, square

if TYPE_CHECKING:
    from torch import Tensor

_MASSIVE = 16
"""Directions that may be massive. A massive token gives a few of them up to 100,000 times the energy of the
others, and fp32 would round those away."""
_BESIDE, _ROUNDS = 16, 8
"""So many more are iterated with them in fp64, and how often."""
_FIRST, _MORE, _MOST = 44, 4, 96
"""Products before the first look at how far it is, between looks, and at most. Every product parts two
neighbouring eigenvalues at the cut 1.24 times as far (on the demo model 36 to 52 are enough)."""
_OFF = 1e-4
"""By which the products of its columns may differ from those of an orthogonal matrix; rounding makes 1e-6."""
_LEAST = 1e-6
"""What every eigenvalue is raised by, relative to those at the cut, so that rounding makes none negative."""
_SMALL = 32
"""Eigenproblems up to this width are solved at once: cuSOLVER takes many of them together, and wider ones one
after the other."""


def leading_subspace(moment: Tensor, width: int) -> tuple[Tensor, float] | None:
    """Turn to the leading ``width`` directions of a second ``moment`` (D, D), fp64.

    Returns an orthogonal matrix (D, D), fp32, of which the first ``width`` columns span what the leading
    eigenvectors span and the others the rest, in no order; and the share of the trace that is in the rest.
    ``None`` where so narrow a subspace, or one that the moment does not set apart, takes eigenvectors.
    """
    if not _MASSIVE + _BESIDE < width < len(moment):
        return None
    level = _levelled(moment)
    projectors = _purified(level.moment.float().unsqueeze(0), width)
    if projectors is None:
        return None
    missed = (level.moment.trace() - _inner(level.moment, projectors[0])) / moment.trace()
    turns = _halves(projectors, width)
    return None if turns is None else (turns[0], max(0.0, float(missed)))


def eigenvectors(moment: Tensor) -> tuple[Tensor, Tensor] | None:
    """Find the eigenvectors of a second ``moment`` (D, D), fp64, as columns (D, D), fp32.

    With them come the eigenvalues (D,), fp64, both by decreasing eigenvalue. ``None`` where a half cannot be
    parted from the other, because eigenvalues are alike, or where D is odd or no more than ``_SMALL``.
    """
    level = _levelled(moment)
    blocks, found = level.moment.float().unsqueeze(0), None
    while blocks.shape[-1] > _SMALL and blocks.shape[-1] % 2 == 0:  # (b, n, n) -> (2b, n/2, n/2)
        half = blocks.shape[-1] // 2
        projectors = _purified(blocks, half)
        turns = None if projectors is None else _halves(projectors, half)
        if turns is None:
            return None
        found = turns[0] if found is None else _joined(_parted(found, len(blocks)) @ turns)
        turned = turns.mT @ blocks @ turns
        turned = (turned + turned.mT) / 2
        blocks = torch.stack((turned[:, :half, :half], turned[:, half:, half:]), 1).flatten(0, 1)
    if found is None:
        return None
    found, least = _parted(found, len(blocks)), widen(blocks, moment.device)  # (b, D, n), (b, n, n)
    least[0] += level.taken(widen(found[0], moment.device))  # the massive directions are in the first group
    values, vectors = torch.linalg.eigh(least)
    found = _joined(found @ vectors.flip(-1).to(found))
    values, order = values.flip(-1).flatten().sort(descending=True, stable=True)
    return found[:, order], values.clamp_min(0.0)


def nearly_orthogonal(basis: Tensor) -> Tensor:
    """Take the rounding out of orthogonal matrices (..., D, D), by one step of Newton and Schulz."""
    return 1.5 * basis - 0.5 * basis @ (basis.mT @ basis)


class _Levelled(NamedTuple):
    """A second moment without what the massive directions have beyond the others."""

    moment: Tensor
    """(D, D), fp64. Its largest eigenvalues are alike, and its directions are those of the whole moment."""
    directions: Tensor
    """(D, ``_MASSIVE``), fp64."""
    beyond: Tensor
    """Tells how much of its eigenvalue each of them has lost, (``_MASSIVE``,)."""

    def taken(self, found: Tensor) -> Tensor:
        """Tell what was taken from the products of columns (D, n), (n, n)."""
        along = self.directions.T @ found
        return along.T @ (self.beyond.unsqueeze(1) * along)


def _levelled(moment: Tensor) -> _Levelled:
    """Lower the leading eigenvalues to twice the first that is not among them.

    They are found by subspace iteration in fp64, which is exact for those that stand out.
    """
    drawn = torch.Generator().manual_seed(0)  # on the host: the same numbers on every device
    shape = len(moment), _MASSIVE + _BESIDE
    found = torch.randn(shape, dtype=torch.float64, generator=drawn).to(moment.device)
    for _ in range(_ROUNDS):
        found = torch.linalg.qr(moment @ found)[0]
    values, vectors = torch.linalg.eigh(found.T @ (moment @ found))
    leading = found @ vectors[:, -_MASSIVE:]
    beyond = (values[-_MASSIVE:] - 2 * values[-_MASSIVE - 1]).clamp_min(0.0)
    return _Levelled(moment - (leading * beyond) @ leading.T, leading, beyond)


def _purified(moments: Tensor, rank: int) -> Tensor | None:
    """Find the projectors (b, D, D) onto the leading ``rank`` directions of ``moments`` (b, D, D), fp32.

    Their start has the same eigenvectors, and the eigenvalues ``x / (x + scale)``. Then x² or 2x - x² of them
    is taken, whichever brings their sum nearer to ``rank``, until all are 0 or 1.
    """
    size = moments.shape[-1]
    plain = torch.eye(size, dtype=moments.dtype, device=moments.device)
    scales = moments.diagonal(dim1=-2, dim2=-1).sort(-1).values[:, -rank, None, None]
    factors, failing = torch.linalg.cholesky_ex(moments / scales + plain)
    solved = ((failing == 0) & (scales.flatten() > 0)).all()
    if not solved:  # a moment has eigenvalues far below 0, by its noise
        return None
    inverse = torch.linalg.solve_triangular(factors, plain.expand_as(factors), upper=False)
    found = plain - (1 - _LEAST) * product(inverse.mT, inverse)
    for done in range(_MOST):
        squared = square(found)
        one, two = _traces(found), _traces(squared)
        looks = done % _MORE == 0
        if looks and done >= _FIRST and ((one - two).abs() < 1e-6 * size).all():
            right = ((one - rank).abs() < 0.5).all()
            if not right:  # what is off by a direction is another subspace
                return None
            squared = found @ found  # not by halves: one more step, of McWeeny, squares what is left
            return 3 * squared - 2 * squared @ found
        smaller = (two - rank).abs() < (2 * one - two - rank).abs()
        found.lerp_(squared, (2.0 * smaller - 1.0)[:, None, None])  # x² by a weight of 1, 2x - x² by -1
        if looks:  # rounding makes it a little less symmetric
            found = (found + found.mT) / 2
    return None


def _halves(projectors: Tensor, width: int) -> Tensor | None:
    """Find orthogonal matrices (b, D, D) whose first ``width`` columns span the ranges of ``projectors``.

    ``None`` where rounding leaves one too far from orthogonal.
    """
    size = projectors.shape[-1]
    places = torch.arange(size, dtype=projectors.dtype, device=projectors.device)
    drawn = torch.Generator().manual_seed(0)  # on the host: the same numbers on every device
    signs = (torch.randint(0, 2, (size, 1), generator=drawn) * 2 - 1).to(projectors)
    # Any columns do that are not special to it: those of a cosine transform, by random signs of the rows.
    columns = signs * torch.cos((places + 0.5).unsqueeze(1) * places * (math.pi / size))
    columns = _orthonormal(_apart(product(projectors, columns), columns, width), width)
    found = nearly_orthogonal(_apart(projectors @ columns, columns, width))
    off = product(found.mT, found).sub_(torch.eye(size, dtype=found.dtype, device=found.device)).abs().max()
    return found if off < _OFF else None


def _orthonormal(columns: Tensor, width: int) -> Tensor:
    """Make the first ``width`` of columns (b, D, D) orthonormal, and so the others, which are orthogonal to
    them.

    A GPU takes QR decompositions one after the other. So several matrices go by Cholesky's of their products,
    in fp64, since those have the square of their condition.
    """
    if len(columns) == 1:
        return torch.linalg.qr(columns)[0]
    wide = widen(columns, columns.device)
    parts = []
    for some in (wide[..., :width], wide[..., width:]):
        factor, _ = torch.linalg.cholesky_ex(some.mT @ some)  # where it fails, what comes is not orthogonal
        parts.append(torch.linalg.solve_triangular(factor.mT, some, upper=True, left=False))
    return torch.cat(parts, dim=-1).to(columns)


def _apart(kept: Tensor, columns: Tensor, width: int) -> Tensor:
    """Keep the projections of the first ``width`` columns (..., D, D), and the rest of the others."""
    kept[..., width:] = columns[..., width:] - kept[..., width:]
    return kept


def _parted(columns: Tensor, count: int) -> Tensor:
    """Part columns (D, D) in so many groups of neighbours, (count, D, D / count)."""
    return columns.unflatten(1, (count, -1)).transpose(0, 1)


def _joined(groups: Tensor) -> Tensor:
    """Put groups of columns (count, D, D / count) side by side, (D, D)."""
    return groups.transpose(0, 1).flatten(1)


def _traces(matrices: Tensor) -> Tensor:
    """Sum the diagonals of matrices (b, D, D), (b,)."""
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """Sum the products of the entries of two matrices, in fp64."""
    return sum(((a * widen(b)).sum() for a, b in zip(one.split(1024), other.split(1024), strict=True)))  # type: ignore[return-value]
