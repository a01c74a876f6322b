"""Ridge leverage: how much of what a unit says the others cannot say for it, as MoDeGPT does for channels."""

from __future__ import annotations

import numpy as np

from analysis.device import widen
from analysis.late import torch
from slicing.inner.scores.base import UnitScore, UnitSite, unit_score

RIDGE = 1.0
"""Of the mean of the diagonal of C. The paper adds I, which weighs more where activations are small."""


@unit_score
class Leverage(UnitScore):
    """The sum over the columns of a unit of the diagonal of ``C (C + ridge I)^-1``.

    C is the second moment of what the writer reads. The ridge is ``RIDGE`` times the mean of its diagonal, so
    that the scores do not depend on the scale of the activations. A score is between 0 and the number of
    columns, and all of them add up to the effective dimension of C.
    """

    name = "leverage"
    title = "Ridge leverage"
    source = "Lin et al., MoDeGPT, ICLR 2025, algorithm 1"
    cite = "lin2025modegpt"

    def score(self, site: UnitSite) -> np.ndarray:
        """One less the ridge times the diagonal of the inverse, which is the same."""
        moment = widen(site.moment)
        ridge = RIDGE * moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)
        inverse = torch.linalg.inv(moment + ridge * torch.eye(len(moment)).to(moment))
        return site.summed(1.0 - ridge * inverse.diagonal())
