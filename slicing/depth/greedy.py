"""Greedy by loss: one block after the other, always the one whose loss is missed least."""

from __future__ import annotations

import numpy as np

from slicing.depth.layout import Layout
from slicing.depth.methods import RemovalMethod, method
from slicing.depth.survey import Survey


@method
class Greedy(RemovalMethod):
    """At every step the block goes without which the loss of the model that is left rises least (SLEB)."""

    tries = True
    name = "greedy"
    title = "Greedy by loss (SLEB)"
    source = "Song et al., SLEB, ICML 2024"
    fault = "A greedy choice never comes back to a block, and the loss is that of the calibration text."

    def layout(self, survey: Survey, count: int) -> Layout:
        """Each step answers for all its candidates with one pass to every block and one from it."""
        layout = Layout.whole(survey.blocks)
        for _ in range(count):
            least = int(np.argmin(survey.losses_without(layout)))
            gone = {*layout.removed, layout.tops[least]}
            layout = Layout.without(survey.blocks, gone)
        return layout


@method
class OneShot(RemovalMethod):
    """The blocks of lowest leave-one-out loss in the dense model, all at once."""

    tries = True
    name = "leave-one-out"
    title = "Lowest leave-one-out loss"
    source = "Rethinking Layer Relevance Beyond Cosine Similarity, ICLR 2026"
    fault = "Blocks that stand in for one another are missed little one by one, and much together."

    def layout(self, survey: Survey, count: int) -> Layout:
        """The first step of the greedy search, taken for all."""
        losses = survey.losses_without(Layout.whole(survey.blocks))
        least = np.argsort(losses, kind="stable")[:count]
        return Layout.without(survey.blocks, {int(place) for place in least})
