"""ShortGPT: the blocks that change the stream least go, wherever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slicing.depth.layout import Layout
from slicing.steps.base import step
from slicing.steps.removal import Removal

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class ShortGPT(Removal):
    """Remove the blocks of lowest block influence ``1 - E[cos(h_l, h_l+1)]`` (equation 1)."""

    name = "shortgpt"
    title = "Lowest block influence (ShortGPT)"
    source = "Men et al., ShortGPT, Findings of ACL 2025"
    cite = "men2025shortgpt"
    known_issue = (
        "A token mean cannot see a block that changes one token alone, such as the one that writes the "
        "massive activation."
    )

    def layout(self, view: ModelView, count: int) -> Layout:
        """By the scores of the dense model, all at once."""
        redundancy = view.profile.redundancy("block-influence", False)
        least = np.argsort(-np.asarray(redundancy), kind="stable")[:count]
        return Layout.without(view.block_count, {int(place) for place in least})
