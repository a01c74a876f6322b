"""How large what a unit hands to its writer is, as 2SSP does."""

from __future__ import annotations

import numpy as np

from analysis.device import widen
from slicing.inner.scores.base import UnitScore, UnitSite, unit_score


@unit_score
class Activation(UnitScore):
    """``sqrt(sum_j mean_t z_tj²)`` over the columns j of the unit: the RMS over tokens of what is read of it.

    2SSP takes the mean over texts of the norm over their tokens. The RMS weighs all tokens alike, and ranks
    the same where texts are alike.
    """

    name = "activation"
    title = "Activation norm"
    source = "Sandri et al., 2SSP, TMLR 2025, section 3.1"
    cite = "sandri2025twossp"

    def score(self, site: UnitSite) -> np.ndarray:
        """The root of the mean squares, summed over the columns of a unit."""
        return np.sqrt(site.summed(widen(site.moment).diagonal().clamp_min(0.0)))
