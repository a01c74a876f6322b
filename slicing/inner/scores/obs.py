"""The place of a unit in the order of optimal brain surgery, with errors weighted by curvature."""

from __future__ import annotations

import numpy as np

from analysis.errors import PlanError
from slicing.inner.obs import order_of_removal, root
from slicing.inner.scores.base import UnitScore, UnitSite, unit_score


@unit_score
class BrainSurgery(UnitScore):
    """The place, from 0 on, at which a greedy order takes the unit out: see ``slicing.inner.obs``.

    Always the cheapest unit goes, its part in what is written falls to the others, and the costs are those
    of the units that are left. Places of different sub-layers say nothing about one another.
    """

    name = "obs"
    title = "Optimal brain surgery with curvature"
    source = "Kurtic et al., ZipLM, NeurIPS 2023, with the curvature of the loss"
    cite = "kurtic2023ziplm"
    relative = True
    asks = frozenset({"curvature"})

    def score(self, site: UnitSite) -> np.ndarray:
        """The unit that goes first has 0."""
        if site.curvature is None:
            raise PlanError("The score 'obs' needs the curvature of the loss: measure it first.")
        scaled = root(site.curvature.to(site.moment.device))  # it rests on the host
        order = order_of_removal(scaled @ site.weight.to(scaled), site.moment, site.columns.cpu().numpy())
        places = np.empty(len(order.units))
        places[order.units] = np.arange(len(order.units))
        return places
