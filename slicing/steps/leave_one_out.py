"""Leave-one-out loss: the blocks that are missed least one by one go, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slicing.depth.layout import Layout
from slicing.steps.base import step
from slicing.steps.removal import Removal

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class LeaveOneOut(Removal):
    """Remove the blocks of lowest leave-one-out loss in the dense model."""

    tries = True
    name = "leave-one-out"
    title = "Lowest leave-one-out loss"
    source = "Rethinking Layer Relevance Beyond Cosine Similarity, ICLR 2026"
    cite = "rethinking2026relevance"
    known_issue = "Blocks that stand in for one another are missed little one by one, and much together."

    def layout(self, view: ModelView, count: int) -> Layout:
        """The first step of the greedy search, taken for all."""
        losses = view.losses_without(Layout.whole(view.block_count), self.windows)
        least = np.argsort(losses, kind="stable")[:count]
        return Layout.without(view.block_count, {int(place) for place in least})
