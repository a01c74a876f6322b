"""Principal components: the directions that hold most of the energy of the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.bases import Seen
from analysis.products import pays
from analysis.subspace import leading_subspace, nearly_orthogonal
from slicing.basis.base import Basis, basis

if TYPE_CHECKING:
    from torch import Tensor


@basis
class PrincipalComponents(Basis):
    """The eigenvectors of the stream's second moment (SliceGPT, 2401.15024, section 3.3)."""

    name = "pca"
    title = "Principal components"
    source = "Ashkboos et al., SliceGPT, ICLR 2024"
    anywhere = True

    def directions(self, seen: Seen, width: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """By decreasing eigenvalue, which are the energies."""
        return seen.second.principal_basis()

    def turned(self, seen: Seen, width: int, rotation: Tensor, draw: int = 0) -> tuple[Tensor, Tensor, float]:
        """Turn to the principal components; on a GPU to any basis of the same leading subspace."""
        if pays(rotation.device, len(rotation)):
            found = leading_subspace(seen.second.moment(), width)
            if found is not None:
                turn, lost = found
                return turn, nearly_orthogonal(rotation.to(turn) @ turn), lost
        return super().turned(seen, width, rotation, draw)
