"""The simple rule of The Unreasonable Ineffectiveness: the blocks just below the last one go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicing.depth.layout import Layout
from slicing.depth.memory import Looked
from slicing.steps.base import step
from slicing.steps.removal import Removal, without_span

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class GromovSimple(Removal):
    """Remove the blocks just below the last one."""

    name = "gromov-simple"
    title = "Blocks below the last (Unreasonable Ineffectiveness, simple rule)"
    source = "Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, ICLR 2025 (simple rule)"
    cite = "gromov2025unreasonable"

    def looked(self, view: ModelView) -> Looked:
        """Nothing."""
        return Looked()

    def layout(self, view: ModelView, count: int) -> Layout:
        """The last block stays."""
        return without_span(view, view.block_count - 1 - count, count)
