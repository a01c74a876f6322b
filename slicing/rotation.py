"""Orthogonal bases of the residual stream: where they come from, and how a weight moves into one.

A linear map either *reads* the stream or *writes* it. With Q (D x W, orthonormal columns) one
rectangular product both rotates and slices it: a reader becomes ``weight @ Q``, a writer ``Q.T @ weight``.
Knows nothing about models.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Covariance:
    """The uncentred second moment of a stream, accumulated batch by batch in fp64.

    fp64, because one massive first token can carry almost all of the energy: in fp32 the directions the
    other tokens live in drown (SliceGPT, 2401.15024, Tables 4 and 5: 8.5 against 7.6 perplexity).
    """

    def __init__(self, width: int, device: torch.device) -> None:
        # MPS has no fp64; there the (D x D) products are made on the host.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.sum = torch.zeros(width, width, dtype=torch.float64, device=self.device)

    def add(self, states: Tensor) -> None:
        """Add the tokens of ``states``, shape (..., D)."""
        flat = states.reshape(-1, states.shape[-1]).to(self.device, torch.float64)
        self.sum.addmm_(flat.T, flat)

    def principal_basis(self) -> tuple[Tensor, Tensor]:
        """Eigenvectors as columns (D, D) and eigenvalues (D,), both fp64, by decreasing eigenvalue."""
        values, vectors = torch.linalg.eigh(self.sum)
        return vectors.flip(-1), values.flip(-1).clamp_min(0.0)


def random_basis(width: int, generator: torch.Generator) -> Tensor:
    """A uniformly random orthogonal matrix (D, D) in fp64, on the host."""
    q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    return q * torch.sign(torch.diagonal(r))  # without the signs the rotations would not be uniform


def fold_gain(linear: nn.Linear, gain: Tensor) -> None:
    """Move the norm's ``gain`` (D,) into the weight (rows, D) of a linear that reads what it norms."""
    weight = _precise(linear.weight)
    _assign(linear, weight * gain.to(weight))


def rotate_reader(linear: nn.Linear, basis: Tensor, gain: Tensor) -> None:
    """Make ``linear`` read a stream given in ``basis`` (D, W), with the norm's ``gain`` (D,) folded in.

    Replaces the weight: (rows, D) becomes (rows, W). The bias stays.
    """
    weight = _precise(linear.weight)
    _assign(linear, weight * gain.to(weight) @ basis.to(weight))


def rotate_writer(linear: nn.Linear, basis: Tensor) -> None:
    """Make ``linear`` write into ``basis`` (D, W).

    Replaces the weight, (D, columns) becomes (W, columns), and the bias, (D,) becomes (W,).
    """
    weight = _precise(linear.weight)
    bias = linear.bias
    _assign(linear, basis.to(weight).T @ weight)
    if bias is not None:
        linear.bias = _frozen((_precise(bias) @ basis.to(weight)).to(bias.dtype))


def _assign(linear: nn.Linear, weight: Tensor) -> None:
    linear.weight = _frozen(weight.to(linear.weight.dtype))
    linear.out_features, linear.in_features = weight.shape


def _precise(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)
