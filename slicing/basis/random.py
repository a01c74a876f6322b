"""Random directions: the control of controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.bases import Seen
from analysis.device import widen
from analysis.late import torch
from slicing.basis.base import Basis, along, basis
from slicing.rotation import random_bases

if TYPE_CHECKING:
    from torch import Tensor


@basis
class RandomBasis(Basis):
    """A uniformly random orthonormal basis, another one at every place."""

    name = "random"
    title = "Random directions"
    source = "a control"
    control = True
    drawn = True

    def directions(self, seen: Seen, width: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Drawn by ``draw`` and the place alone."""
        total = seen.second.moment()
        generator = torch.Generator().manual_seed((1_000_003 * draw + seen.place) % 2**63)
        found = widen(next(random_bases(len(total), generator)), total.device)
        return found, along(found, total)
