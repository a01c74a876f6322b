"""The Fisher information of a mask on every unit: how much the loss is curved where the unit is scaled."""

from __future__ import annotations

import numpy as np

from analysis.errors import PlanError
from slicing.inner.scores.base import UnitScore, UnitSite, unit_score


@unit_score
class Fisher(UnitScore):
    """``mean_t (z_tj (W' g_t)_j)²``, summed over the columns j of the unit.

    ``g_t`` is the gradient of the summed loss at what the writer W writes at token t, with labels that the
    model draws itself. Then ``z_tj (W' g_t)_j`` is the gradient of a factor, now 1, in front of the column.
    Kwon et al. square the gradient of a whole text; here every token counts by itself, which is the Fisher
    information of the tokens and far less noisy.
    """

    name = "fisher"
    title = "Fisher information of the mask"
    source = "Kwon et al., A Fast Post-Training Pruning Framework for Transformers, NeurIPS 2022, per token"
    cite = "kwon2022fast"
    asks = frozenset({"slopes"})

    def score(self, site: UnitSite) -> np.ndarray:
        """The measured squares, summed over the columns of a unit."""
        if site.slopes is None:
            raise PlanError("The score 'fisher' needs the slopes of the loss: measure them first.")
        return site.summed(site.slopes)
