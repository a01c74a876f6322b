"""FASP: linked columns of the two halves of a sub-layer go together, and the second half is restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicing.inner.select import best_units, unit_scores
from slicing.inner.widths import InnerWidths
from slicing.steps.base import step
from slicing.steps.inner import InnerPlan, Selective, at_size, widths_of_shares

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class Fasp(Selective):
    """Take columns of least Wanda metric out of down and output projections, with the rows that feed them.

    Queries and keys stay as they are; every block loses the same share.
    """

    name = "fasp"
    title = "Linked columns (FASP)"
    source = "Hu et al., FASP, 2501.09412, 2025"
    cite = "hu2025fasp"
    known_issue = (
        "No code was published, and its model at 10 % predicts its own calibration text better than the "
        "dense one: judge it on another text."
    )
    kinds = ("channels", "value_pairs")

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """Rank the columns once; the share of every block decides how many go."""
        shape = view.shape

        def widths(share: float) -> InnerWidths:
            return widths_of_shares(shape, [share] * shape.block_count, self.kinds_cut(shape))

        found = at_size(widths, shape, size, self.name)
        return InnerPlan(
            found, best_units(view.model, found, unit_scores(view, "wanda", self.kinds_cut(shape)))
        )
