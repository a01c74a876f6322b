"""All input and output projections from the first cut on, fitted anew on the stream that is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.anatomy import why_not_sliceable
from analysis.late import no_grad
from analysis.needs import MemoryNeed
from analysis.read_shape import read_shape
from slicing.assembly import spread_like
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.fit import fit_inside
from slicing.memory import projections_bytes
from slicing.repairs.base import CutRepair, Cuts, Repaired, repair

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@repair
class Projections(CutRepair):
    """Block by block, first what the input projections of a sub-layer are given, then what it writes.

    Input projections take a matrix (D, D) that leads from the cut model's normed stream to the dense one's:
    no parameter more. Output projections aim at the dense stream behind the sub-layer. With a mixture of
    experts one matrix serves all that its experts write. See ``slicing.inner.fit``.
    """

    name = "projections"
    title = "all projections fitted"
    fits = frozenset({"writers", "matrix"})
    strength = 3

    def why_not(self, model: PreTrainedModel) -> str:
        """Refuse families whose projections are not known."""
        reason = why_not_sliceable(model.config)
        return f"Projections cannot be fitted: {reason} Choose the repair 'linear' instead." if reason else ""

    def need(self, unrepaired: MemoryNeed, model: Any, layout: Layout, tokens: int, batch: int) -> MemoryNeed:
        """Add the weights that become others, one fit at a time, and two streams."""
        if why_not_sliceable(model.config):
            return unrepaired
        shape, size = read_shape(model), model.dtype.itemsize
        blocks = sum(shape.block_parameters(top) for top in layout.tops)
        return unrepaired.model_copy(
            update={
                "sliced": unrepaired.sliced + blocks * size,
                "working": max(unrepaired.working, projections_bytes(shape, batch, size, True)),
                "activations": 2 * tokens * shape.hidden_size * size,
            }
        )

    def has_work(self, layout: Layout) -> bool:
        """Wherever anything is gone or merged."""
        return bool(layout.seams or layout.cuts)

    @no_grad
    def close(self, cuts: Cuts) -> Repaired:
        """A plain model with other weights in its projections."""
        self.check(cuts.dense)
        closed = reduce_blocks(cuts.dense, cuts.layout, check=False, spread=False)
        spread_like(cuts.dense, closed)
        told = fit_inside(
            cuts.dense,
            closed,
            cuts.layout,
            cuts.windows,
            cuts.held,
            ("readers", "writers"),
            lambda place, row: False,
            cuts.tell,
            cuts.budget,
            cuts.kept,
        )
        return closed, told
