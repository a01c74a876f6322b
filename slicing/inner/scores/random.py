"""Units by chance: what a score must beat to have found anything."""

from __future__ import annotations

import numpy as np

from slicing.inner.scores.base import UnitScore, UnitSite, unit_score


@unit_score
class Random(UnitScore):
    """A number drawn for every unit, always the same for the same place in the model."""

    name = "random"
    title = "Random units"
    source = "a random baseline"
    cite = ""

    def score(self, site: UnitSite) -> np.ndarray:
        """Drawn by the place of the units alone."""
        return np.random.default_rng([*site.place, *site.units.kind.encode()]).random(site.units.count)
