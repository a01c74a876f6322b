"""LLM-Streamline: one span of blocks goes, the one of largest cosine between its two ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slicing.depth.layout import Layout
from slicing.steps.base import step
from slicing.steps.removal import Removal, without_span

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class LLMStreamline(Removal):
    """Remove the span ``l .. l+n-1`` of largest mean cosine.

    Over a sample of 512 tokens of every batch without first ones, which is close to the published mean over
    all tokens.
    """

    name = "llm-streamline"
    title = "Span of largest cosine (LLM-Streamline)"
    source = "Chen et al., LLM-Streamline, ICLR 2025"
    cite = "chen2025streamlining"
    known_issue = (
        "Published together with a trained block in the place of the span; its code compares the last span's "
        "end after the final norm, here it is before."
    )

    def layout(self, view: ModelView, count: int) -> Layout:
        """The first of the best spans."""
        cosines = np.diagonal(view.spans(self.windows)["similarity"], count)
        return without_span(view, int(np.argmax(cosines)), count)
