"""The Unreasonable Ineffectiveness: one span of blocks goes, the one over which the stream turns least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slicing.depth.layout import Layout
from slicing.steps.base import step
from slicing.steps.removal import Removal, without_span

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class Gromov(Removal):
    """Remove the span ``l .. l+n-1`` of least angular distance at each window's last token (equation 7)."""

    name = "gromov"
    title = "Span of least angle (Unreasonable Ineffectiveness)"
    source = "Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, ICLR 2025"
    cite = "gromov2025unreasonable"
    known_issue = (
        "Published together with fine-tuning, which is not done here; it looks at one token of each text."
    )

    def layout(self, view: ModelView, count: int) -> Layout:
        """The first of the best spans."""
        angles = np.diagonal(view.spans(self.windows)["angular"], count)
        return without_span(view, int(np.argmin(angles)), count)
