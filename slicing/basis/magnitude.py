"""Coordinates of the stream as they are: those with the largest mean square are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.bases import Seen
from analysis.late import torch
from slicing.basis.base import Basis, basis

if TYPE_CHECKING:
    from torch import Tensor


@basis
class Magnitude(Basis):
    """The stream's own coordinates, by decreasing mean square.

    It merges nothing and rotates nothing, so it shows what a rotation gains.
    """

    name = "magnitude"
    title = "Coordinates of largest mean square"
    source = "the textbook's, of activations"
    control = True

    def directions(self, seen: Seen, width: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Unit vectors, and the energies of the coordinates."""
        energies = seen.second.moment().diagonal()
        order = energies.argsort(descending=True, stable=True)
        return torch.eye(len(order), dtype=energies.dtype, device=energies.device)[:, order], energies[order]
