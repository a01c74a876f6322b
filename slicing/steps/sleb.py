"""SLEB: one block after the other goes, always the one whose loss is missed least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slicing.depth.layout import Layout
from slicing.steps.base import step
from slicing.steps.removal import Removal

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class Sleb(Removal):
    """Remove, at every step, the block without which the loss of the model that is left rises least."""

    tries = True
    name = "sleb"
    title = "Greedy by loss (SLEB)"
    source = "Song et al., SLEB, ICML 2024"
    cite = "song2024sleb"
    known_issue = "A greedy choice never comes back to a block, and the loss is that of the calibration text."

    def layout(self, view: ModelView, count: int) -> Layout:
        """Each step answers for all its candidates with one pass to every block and one from it."""
        layout = Layout.whole(view.block_count)
        for _ in range(count):
            least = int(np.argmin(view.losses_without(layout, self.windows)))
            gone = {*layout.removed, layout.tops[least]}
            layout = Layout.without(view.block_count, gone)
        return layout
