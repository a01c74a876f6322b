"""Wanda, summed over the columns of a unit, as FASP does."""

from __future__ import annotations

import numpy as np

from analysis.device import widen
from slicing.inner.scores.base import UnitScore, UnitSite, unit_score


@unit_score
class Wanda(UnitScore):
    """``sum_i |W_ij| |z_j|`` over the columns j of the unit."""

    name = "wanda"
    title = "Wanda"
    source = "Sun et al., Wanda, ICLR 2024, summed over columns as in FASP (Hu et al., 2025)"
    cite = "sun2024wanda"

    def score(self, site: UnitSite) -> np.ndarray:
        """The absolute weights of every column, times the norm of what it reads."""
        norms = widen(site.moment).diagonal().clamp_min(0.0).sqrt()
        return site.summed(widen(site.weight, norms.device).abs().sum(dim=0) * norms)
