"""The top cut: the last blocks go, all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicing.depth.layout import Layout
from slicing.depth.memory import Looked
from slicing.steps.base import step
from slicing.steps.removal import Removal, without_span

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class LastBlocks(Removal):
    """Remove the last blocks."""

    name = "last-blocks"
    title = "Last blocks (top cut)"
    source = "Yuan et al., Why Lift so Heavy?, IJCNN 2025"
    cite = "yuan2025lift"
    known_issue = "Published for fine-tuned classifiers; without that, language modelling collapses."

    def looked(self, view: ModelView) -> Looked:
        """Nothing."""
        return Looked()

    def layout(self, view: ModelView, count: int) -> Layout:
        """The head then reads what it never read: its loss is the logit lens's."""
        return without_span(view, view.block_count - count, count)
