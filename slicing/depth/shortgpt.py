"""ShortGPT: the blocks that change the stream least go, wherever they are."""

from __future__ import annotations

import numpy as np

from slicing.depth.layout import Layout
from slicing.depth.methods import RemovalMethod, method
from slicing.depth.survey import Survey


@method
class ShortGPT(RemovalMethod):
    """The blocks of lowest block influence ``1 - E[cos(h_l, h_l+1)]`` (equation 1)."""

    name = "shortgpt"
    title = "Lowest block influence (ShortGPT)"
    source = "Men et al., ShortGPT, Findings of ACL 2025"
    fault = (
        "A token mean cannot see a block that changes one token alone, such as the one that writes the "
        "massive activation."
    )

    def layout(self, survey: Survey, count: int) -> Layout:
        """By the scores of the dense model, all at once."""
        redundancy = survey.profile.redundancy("block-influence", False)
        least = np.argsort(-np.asarray(redundancy), kind="stable")[:count]
        return Layout.without(survey.blocks, {int(place) for place in least})
