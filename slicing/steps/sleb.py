"""SLEB: one block after the other goes, always the one whose loss is missed least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from slicing.depth.layout import Layout
from slicing.search import least_missed
from slicing.steps.base import Cost, step
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

    only_likely: bool = Field(default=False, title="Only likely blocks")
    """Try a block again only while its rise of the loss, when it was tried last, is less than twice the least
    of now. The choice is that of trying all, unless a rise more than halves meanwhile."""

    def cost(self, tokens: int, window_length: int) -> Cost:
        """Count half as many passes where only likely blocks are tried."""
        (phase, tried), *repairing = super().cost(tokens, window_length)
        return ((phase, tried / 2 if self.only_likely else tried), *repairing)

    def layout(self, view: ModelView, count: int) -> Layout:
        """Each step answers for all its candidates with one pass to every block and one from it."""
        layout = Layout.whole(view.block_count)
        known: dict[int, float] = {}
        for _ in range(count):
            if self.only_likely:
                least, known = self._likely(view, layout, known)
            else:
                least = layout.tops[int(np.argmin(view.losses_without(layout, self.windows)))]
            layout = Layout.without(view.block_count, {*layout.removed, least})
        return layout

    def _likely(
        self, view: ModelView, layout: Layout, before: dict[int, float]
    ) -> tuple[int, dict[int, float]]:
        """Choose the dense block that goes next, and give the rises that are known then."""

        def rises(some: Sequence[int]) -> dict[int, float]:
            places = tuple(sorted(layout.tops.index(block) for block in some))
            every = len(places) == len(layout.tops)  # which other methods may have asked for
            found = view.losses_without(layout, self.windows, None if every else places)
            return {layout.tops[place]: float(found[place]) for place in places}

        return least_missed(layout.tops, rises, before)
