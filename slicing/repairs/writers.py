"""Writers fitted anew after a cut: the last one in front of it, or every one from there on.

Slicing at full width, where nothing turns, is the tool: see ``slicing.repair``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

from analysis.anatomy import anatomy_of, blocks, core_of, why_not_sliceable
from analysis.errors import UnsupportedError
from analysis.late import no_grad, torch, transformers
from analysis.needs import MemoryNeed
from analysis.read_shape import read_shape
from slicing.assembly import spread_like
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.guard import refuse_unless_invariant
from slicing.late import modeling_sliced
from slicing.memory import slicing_need
from slicing.repairs.base import CutRepair, Cuts, Repaired, repair
from slicing.schedule import SlicingSchedule
from slicing.slicer import Followed, slice_once

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class _Writers(CutRepair):
    """What the two have in common."""

    fits = frozenset({"writers"})

    def why_not(self, model: PreTrainedModel) -> str:
        """Refuse families whose writers are not known."""
        reason = why_not_sliceable(model.config)
        return f"Writers cannot be fitted: {reason} Choose the repair 'linear' instead." if reason else ""

    def need(self, unrepaired: MemoryNeed, model: Any, layout: Layout, tokens: int, batch: int) -> MemoryNeed:
        """Tell the need of slicing with repair, which makes two models, less one of them."""
        if why_not_sliceable(model.config):
            return unrepaired
        shape = read_shape(model)
        shape = shape.model_copy(update={"blocks": tuple(shape.blocks[top] for top in layout.tops)})
        uncut = SlicingSchedule.uncut(shape, shape.block_count)
        fitting = slicing_need(shape, uncut, tokens, batch, model.dtype.itemsize, repair=True)
        one = fitting.sliced // 2  # at the peak, that of the fits, one of the two is there
        made = unrepaired.sliced + one
        working = fitting.working + one
        return fitting.model_copy(update={"dense": unrepaired.dense, "sliced": made, "working": working})

    @abstractmethod
    def which(self, layout: Layout, rows: int) -> Callable[[int], bool]:
        """Say which sub-layers are fitted, by their places; every block has ``rows`` of them."""

    @no_grad
    def close(self, cuts: Cuts) -> Repaired:
        """A plain model with other weights in the writers."""
        self.check(cuts.dense)
        refuse_unless_invariant(cuts.dense)
        shape = read_shape(cuts.reduced)
        fitted = self.which(cuts.layout, len(anatomy_of(cuts.dense.config).sublayers))
        _refuse_experts(cuts.reduced, fitted)
        sliced = slice_once(
            cuts.reduced,
            SlicingSchedule.uncut(shape, shape.block_count),
            cuts.windows,
            cuts.budget,
            lambda done: cuts.tell(done, len(shape.sublayers)),
            cuts.held,
            followed(cuts.dense, cuts.layout),
            fitted,
            kept=cuts.kept,
        )
        closed = reduce_blocks(cuts.dense, cuts.layout, check=False, spread=False)
        _adopt_writers(closed, sliced.model, fitted)
        spread_like(cuts.dense, closed)
        assert sliced.repair is not None
        return closed, sliced.repair.sublayers


@repair
class LastWriter(_Writers):
    """The last writer of the block in front of every cut, and of every merged block."""

    name = "last-writer"
    title = "the last output projection before each cut fitted"

    def which(self, layout: Layout, rows: int) -> Callable[[int], bool]:
        """The last sub-layers of the blocks at seams."""
        lasts = {rows * (place + 1) - 1 for place in layout.seams}
        return lambda place: place in lasts


@repair
class AllWriters(_Writers):
    """That writer and every one after it, one after the other.

    Each makes up for what the ones before could not.
    """

    name = "writers"
    strength = 2
    title = "all output projections from the first cut on fitted"

    def has_work(self, layout: Layout) -> bool:
        """Also behind a cut at the very start, by the writers after it."""
        return bool(layout.seams or layout.cuts)

    def which(self, layout: Layout, rows: int) -> Callable[[int], bool]:
        """The sub-layers from the last one in front of the first cut on."""
        # In front of a cut the stream is still the dense one; a merged block's first writer reads another.
        merged = {rows * place for place, group in enumerate(layout.groups) if len(group) > 1}
        first = min({max(0, rows * (cut.after + 1) - 1) for cut in layout.cuts} | merged)
        return lambda place: place >= first


def followed(model: PreTrainedModel, layout: Layout) -> Followed:
    """The dense model, for repair of one that was made of it by ``layout``."""
    rows = len(anatomy_of(model.config).sublayers)
    ends: list[int] = []
    for top, first in zip(layout.tops, layout.following, strict=True):
        ends += [rows * top + row + 1 for row in range(rows - 1)]
        ends.append(rows * first)  # over the cut, where there is one
    return Followed(model, tuple(ends))


def _refuse_experts(model: PreTrainedModel, fitted: Callable[[int], bool]) -> None:
    rows = anatomy_of(model.config).sublayers
    for place, (block, branches) in enumerate(product(blocks(model), rows)):
        for branch in branches:
            for name, holder, _ in modeling_sliced.parameters_named(core_of(block, branch), branch.writers):
                if fitted(place) and not isinstance(
                    holder, torch.nn.Linear | transformers.pytorch_utils.Conv1D
                ):
                    raise UnsupportedError(
                        f"Writers cannot be fitted: '{name}' is one for every expert, not a plain linear "
                        "map. Choose the repair 'linear' instead."
                    )


def _adopt_writers(reduced: PreTrainedModel, sliced: PreTrainedModel, fitted: Callable[[int], bool]) -> None:
    """Give the plain model the writers of the one that was sliced at full width."""
    anatomy = anatomy_of(reduced.config)
    place = 0
    for plain, block in zip(blocks(reduced), blocks(sliced), strict=True):
        for branches, sublayer in zip(anatomy.sublayers, block.sublayers, strict=True):  # type: ignore[arg-type]
            for branch, core in zip(branches, sublayer.cores, strict=True):
                there = modeling_sliced.parameters_named(core_of(plain, branch), branch.writers)
                found = modeling_sliced.parameters_named(core, branch.writers)
                for (_, holder, attribute), (_, new, _) in zip(there, found, strict=True):
                    if not fitted(place):
                        continue
                    weight: Tensor = getattr(new, attribute) / anatomy.branch_scale
                    _put(
                        holder,
                        attribute,
                        weight.T if isinstance(holder, transformers.pytorch_utils.Conv1D) else weight,
                    )
                    bias: Tensor | None = getattr(new, "bias", None)
                    if bias is not None:
                        _put(holder, "bias", bias / anatomy.branch_scale)
            place += 1


def _put(holder: Any, attribute: str, tensor: Tensor) -> None:
    like = getattr(holder, attribute)
    setattr(
        holder,
        attribute,
        torch.nn.Parameter(tensor.to(like.device, like.dtype).contiguous(), requires_grad=False),
    )
