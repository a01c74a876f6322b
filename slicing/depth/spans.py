"""One span of neighbouring blocks goes: the one over which the stream turns least."""

from __future__ import annotations

import numpy as np

from slicing.depth.layout import Layout
from slicing.depth.methods import RemovalMethod, method
from slicing.depth.survey import Survey


@method
class Angular(RemovalMethod):
    """The span ``l .. l+n-1`` of least angular distance at the last token of each window (equation 7)."""

    name = "angular"
    title = "Span of least angle (Unreasonable Ineffectiveness)"
    source = "Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, ICLR 2025"
    fault = "Published together with fine-tuning, which is not done here; it looks at one token of each text."

    def layout(self, survey: Survey, count: int) -> Layout:
        """The first of the best spans."""
        return without_span(survey, int(np.argmin(np.diagonal(survey.spans["angular"], count))), count)


@method
class Streamline(RemovalMethod):
    """The span ``l .. l+n-1`` of largest mean cosine.

    Over a sample of 512 tokens of every batch without first ones, which is close to the published mean over
    all tokens.
    """

    name = "streamline"
    title = "Span of largest cosine (LLM-Streamline)"
    source = "Chen et al., LLM-Streamline, ICLR 2025"
    fault = (
        "Published together with a trained block in the place of the span; its code compares the last span's "
        "end after the final norm, here it is before."
    )

    def layout(self, survey: Survey, count: int) -> Layout:
        """The first of the best spans."""
        return without_span(survey, int(np.argmax(np.diagonal(survey.spans["similarity"], count))), count)


@method
class Top(RemovalMethod):
    """The last blocks, all of them."""

    name = "top"
    title = "Last blocks (top cut)"
    source = "Yuan et al., Why Lift so Heavy?, IJCNN 2025"
    fault = "Published for fine-tuned classifiers; without that, language modelling collapses."

    def layout(self, survey: Survey, count: int) -> Layout:
        """The head then reads what it never read: its loss is the logit lens's."""
        return without_span(survey, survey.blocks - count, count)


@method
class BelowLast(RemovalMethod):
    """The blocks just below the last one."""

    name = "below-last"
    title = "Blocks below the last"
    source = "Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, ICLR 2025 (simple rule)"

    def layout(self, survey: Survey, count: int) -> Layout:
        """The last block stays."""
        return without_span(survey, survey.blocks - 1 - count, count)


def without_span(survey: Survey, first: int, count: int) -> Layout:
    """All blocks but ``count`` from ``first`` on."""
    return Layout.without(survey.blocks, range(first, first + count))
