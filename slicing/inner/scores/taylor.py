"""The first order of what the loss changes by when the weights of a unit become zero, as LLM-Pruner does."""

from __future__ import annotations

import numpy as np

from analysis.errors import PlanError
from slicing.inner.scores.base import UnitScore, UnitSite, unit_score
from slicing.inner.taylor import of_units


@unit_score
class Taylor(UnitScore):
    """``sum |g w|`` over all weights that go with the unit, with the labels of the text: see ``taylor``."""

    name = "taylor"
    title = "First-order Taylor, by weight"
    source = "Ma et al., LLM-Pruner, NeurIPS 2023, equation 6"
    cite = "ma2023llmpruner"
    asks = frozenset({"gradients"})

    def score(self, site: UnitSite) -> np.ndarray:
        """Every weight counts by itself."""
        if site.salience is None:
            raise PlanError("The score 'taylor' needs the gradients of the weights: measure them first.")
        return of_units(site.units, site.salience)
