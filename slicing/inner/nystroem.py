"""Which columns of a second moment tell most of the others, and how the others are made of them.

Knows nothing about models: a moment is any symmetric matrix without negative eigenvalues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.device import widen
from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor


def leverage(moment: Tensor, ridge: float) -> Tensor:
    """The ridge leverage scores, (n,) fp64: the diagonal of ``C inv(C + l I)`` (Alaoui & Mahoney, 2015).

    ``moment`` is C, (n, n); l is ``ridge`` times the mean of its diagonal. They add up to the effective
    dimension.
    """
    moment = widen(moment)
    return torch.linalg.solve(_damped(moment, ridge), moment).diagonal()


def nystroem(moment: Tensor, kept: np.ndarray, ridge: float) -> Tensor:
    """What takes all channels up into those that are ``kept``, W (n, k) fp64: ``C_:k inv(C_kk)``.

    It is the least-squares fit of all channels by those that stay (``moment`` is C, (n, n)). They stand for
    themselves exactly. For the others the ``ridge``, relative to the mean of the diagonal, is added to
    ``C_kk``, which may have no inverse.
    """
    moment = widen(moment)
    stay = torch.as_tensor(kept, device=moment.device)
    others = torch.ones(len(moment), dtype=torch.bool, device=moment.device)
    others[stay] = False
    found = moment.new_zeros(len(moment), len(stay))
    found[stay, torch.arange(len(stay), device=moment.device)] = 1.0
    damped = _damped(moment, ridge)[stay][:, stay]
    found[others] = torch.linalg.solve(damped, moment[stay][:, others]).T
    return found


def _damped(moment: Tensor, ridge: float) -> Tensor:
    energy = moment.diagonal().mean().clamp_min(1e-30)  # what reads zeros alone has none to be relative to
    return moment + torch.diag((ridge * energy).expand(len(moment)))
