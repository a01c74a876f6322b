"""Blocks drawn by chance: what a method must beat to have found anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from analysis.numbers import Seed
from slicing.depth.layout import Layout
from slicing.depth.memory import Looked
from slicing.steps.base import step
from slicing.steps.removal import Removal

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class RandomBlocks(Removal):
    """Remove any blocks, each as likely as the others."""

    name = "random-blocks"
    title = "Random blocks"
    source = "a random baseline"
    variants = ("draw=0", "draw=1", "draw=2")

    draw: Seed = Field(default=0, ge=0, title="Draw")

    @property
    def control(self) -> bool:
        """It is there to be beaten."""
        return True

    @property
    def by_chance(self) -> bool:
        """Nothing else decides."""
        return True

    def looked(self, view: ModelView) -> Looked:
        """Nothing."""
        return Looked()

    def layout(self, view: ModelView, count: int) -> Layout:
        """The same draw takes the same blocks."""
        chosen = np.random.default_rng(self.draw).choice(view.block_count, size=count, replace=False)
        return Layout.without(view.block_count, {int(place) for place in chosen})
