"""The order in which units are best taken out of a sub-layer, and what the loss is then predicted to rise by.

Optimal brain surgery on the columns of a writer (Hassibi & Stork, 1993; with structure: Kurtic et al.,
ZipLM, 2023), its errors weighted by the curvature of the loss: ``C`` is the second moment of what the writer
reads and ``G`` that of the gradient at what it writes, both relative to the stream. Taking the columns B out,
with the others refitted, is predicted to cost ``tr(G W_B inv(Ci_BB) W_B') / 2`` nats per token, where ``Ci``
is the inverse of C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analysis.device import widen
from analysis.late import torch
from analysis.units import Index

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.1
"""What is added to the diagonal of C, relative to it: what a refit with a ridge can make up for."""
AT_A_TIME = 32
"""So many of the cheapest channels go between two updates."""


class Order(NamedTuple):
    """Units in the order in which they go."""

    units: np.ndarray
    """(n,) of places, the first to go in front."""
    costs: np.ndarray
    """(n,) nats per token: the predicted rise of the loss once this one is gone too."""


def root(moment: Tensor) -> Tensor:
    """The symmetric square root of a second moment (D, D), fp64."""
    values, vectors = torch.linalg.eigh(widen(moment))
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T


def order_of_removal(scaled: Tensor, moment: Tensor, units: Index) -> Order:
    """Take all units out, the cheapest first; what each one writes falls to those that stay.

    ``scaled`` (D, F) is ``G^1/2 W``, ``moment`` (F, F) is C, ``units`` (n, c) are the columns of every unit.
    """
    moment = widen(moment)
    scaled = widen(scaled, moment.device)
    inverse = torch.linalg.inv(
        moment + torch.diag(DAMPING * moment.diagonal() + 1e-9 * moment.diagonal().max())
    )
    left = torch.as_tensor(units, device=moment.device)  # (units left, c), of the columns that are left
    names = np.arange(len(units))
    order: list[int] = []
    costs: list[float] = []
    total = 0.0
    while len(left):
        if left.shape[1] == 1:
            each = scaled[:, left[:, 0]].square().sum(0) / inverse.diagonal()[left[:, 0]] / 2
            chosen = each.argsort()[:AT_A_TIME]
        else:
            each = torch.stack([_cost(scaled, inverse, own) for own in left])
            chosen = each.argsort()[:1]
        gone = left[chosen].flatten()
        together, alone = float(_cost(scaled, inverse, gone)), each[chosen]
        shares = (alone / alone.sum().clamp_min(1e-30)).tolist()
        for unit, share in zip(chosen.tolist(), shares, strict=True):
            total += together * share
            order.append(int(names[unit]))
            costs.append(total)
        stays = torch.ones(len(left), dtype=torch.bool, device=left.device)
        stays[chosen] = False
        keep = torch.ones(len(inverse), dtype=torch.bool, device=left.device)
        keep[gone] = False
        solved = torch.linalg.solve(inverse[gone][:, gone], inverse[gone][:, keep])  # inv(Ci_BB) Ci_B:
        # In place: of a wide MLP each of these is as large as what is measured of it.
        scaled = scaled[:, keep].sub_(scaled[:, gone] @ solved)
        inverse = inverse[keep][:, keep].sub_(inverse[keep][:, gone] @ solved)
        left, names = (keep.cumsum(0) - 1)[left[stays]], names[stays.cpu().numpy()]
    return Order(np.asarray(order), np.asarray(costs))


def _cost(scaled: Tensor, inverse: Tensor, columns: Tensor) -> Tensor:
    part = scaled[:, columns]
    return (torch.linalg.solve(inverse[columns][:, columns], part.T).T * part).sum() / 2


class Ranks(NamedTuple):
    """The values of a group with fewer coordinates."""

    costs: np.ndarray
    """(size + 1,) nats per token: the predicted rise of the loss at every rank, from 0 on."""
    rows: Tensor
    """R, (size, size): its first r columns make the values of rank r."""
    columns: Tensor
    """W, (size, size): its first r columns take them back to the coordinates that are read."""


def value_ranks(scaled: Tensor, moment: Tensor, heads: Index) -> Ranks:
    """The best smaller coordinates for the values of one group (MoDeGPT type III, with curvature).

    ``heads`` (query heads of the group, size) are the columns of ``scaled`` (D, F), which is ``G^1/2 W``,
    that read the group's values. With ``Cb`` the mean moment of the heads and A the stack of
    ``G^1/2 O_h Cb^1/2``, rank r costs half the squared singular values of A behind the first r.
    """
    moment = widen(moment)
    scaled = widen(scaled, moment.device)
    places = torch.as_tensor(heads, device=moment.device)
    mean = torch.stack([moment[own][:, own] for own in places]).mean(0)
    values, vectors = torch.linalg.eigh(mean)
    values = values.clamp_min(1e-9 * float(values.max()))
    whiten, colour = (vectors * values.rsqrt()) @ vectors.T, (vectors * values.sqrt()) @ vectors.T
    stacked = torch.cat([scaled[:, own] @ colour for own in places])
    _, singular, right = torch.linalg.svd(stacked, full_matrices=False)
    energies = singular.square()
    behind = energies.flip(0).cumsum(0).flip(0) / 2
    costs = torch.cat([behind, behind.new_zeros(1)]).cpu().numpy()
    return Ranks(costs, whiten @ right.T, colour @ right.T)
