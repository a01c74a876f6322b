"""Blocks drawn by chance: what a method must beat to have found anything."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from analysis.numbers import Seed
from slicing.depth.layout import Layout
from slicing.depth.methods import RemovalMethod, method
from slicing.depth.survey import Survey


@method
class Random(RemovalMethod):
    """Any blocks, each as likely as the others."""

    name = "random"
    title = "Random blocks"
    source = "control"
    control = True
    variants = ("draw=0", "draw=1", "draw=2")

    draw: Seed = Field(default=0, ge=0, title="Draw")

    def layout(self, survey: Survey, count: int) -> Layout:
        """The same draw takes the same blocks."""
        chosen = np.random.default_rng(self.draw).choice(survey.blocks, size=count, replace=False)
        return Layout.without(survey.blocks, {int(place) for place in chosen})
