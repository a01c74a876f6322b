"""DOTResize, for the channels of MLPs: all of them are merged into a few, by optimal transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from analysis.device import HOST
from analysis.late import torch
from analysis.numbers import Seed
from analysis.read_units import read_units
from analysis.sublayers import Sublayer
from slicing.inner.cut import BranchCuts, UnitCut
from slicing.inner.reads import writer_reads
from slicing.inner.select import best, branches_of, sites
from slicing.inner.widths import InnerWidths
from slicing.memory import Holds
from slicing.steps.base import step
from slicing.steps.inner import Inner, InnerPlan, at_size, widths_of_shares
from slicing.transport import as_mixes, sinkhorn

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.view import ModelView


@step
class Dotresize(Inner):
    """Merge all channels of an MLP into those of the largest activations, every block by the same share.

    A plan of entropic optimal transport says how: the cost between two channels is the L1 distance of what
    they are on some tokens, and every channel has as much to give as every other. What reads a channel moves
    with its mass. What makes a channel becomes the mean of all that came to it.
    """

    name = "dotresize"
    title = "Merged channels (DOTResize)"
    source = "Verma et al., DOTResize, 2507.04517, 2025"
    cite = "verma2025dotresize"
    known_issue = (
        "Published for the width of the residual stream; here channels of MLPs are merged by the rows that "
        "make them, in front of the activation and, where there is a gate, in both halves, so that not even "
        "channels in proportion to one another merge without loss."
    )
    kinds = ("channels",)
    holds = Holds(mixes=2, moments=False, transport=6)

    restore: bool = Field(default=False, title="Least-squares restoration")
    """Fit every output projection that lost inputs to what the dense one writes. The method does not."""
    temperature: float = Field(default=0.1, gt=0.0, title="Temperature of the transport")
    """Relative to the mean cost; the higher, the more channels each one is spread over."""
    tokens: int = Field(default=512, ge=1, title="Tokens that channels are compared on")
    seed: Seed = Field(default=0, ge=0, title="Seed of the draw of tokens")

    def held(self) -> Holds:
        """What it compares channels on, too."""
        return self.holds.model_copy(update={"compared": self.tokens})

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """The share of every block decides how many stay; which, and how the others join, is read off."""
        shape = view.shape

        def widths(share: float) -> InnerWidths:
            return widths_of_shares(shape, [share] * shape.block_count, self.kinds_cut(shape))

        found = at_size(widths, shape, size, self.name)
        return InnerPlan(found, self.cuts(view, found))

    def cuts(self, view: ModelView, widths: InnerWidths) -> list[list[BranchCuts]]:
        """The cuts to these widths, by what is read on the view's windows."""
        units, branches = read_units(view.model), branches_of(view.model)
        cuts: list[list[BranchCuts]] = [[() for _ in row] for row in units]

        def look(place: int, row: int, sublayer: Sublayer, reads: list[Tensor]) -> None:
            count = widths.blocks[place][row].kept.get("channels")
            if count is None:
                return
            for index, writer, _ in sites(units[place], branches, row, sublayer, self.kinds):
                norms = reads[writer].square().sum(dim=0)
                kept = best(norms.cpu().numpy(), count)
                cuts[place][index] = (merging(reads[writer], kept, self.temperature),)

        writer_reads(view.model, view.windows, self.tokens, look, view.progress, self.seed)
        return cuts


def merging(reads: Tensor, kept: np.ndarray, temperature: float) -> UnitCut:
    """Merge all channels, which are ``reads`` (tokens, n) on text, into those that are ``kept``."""
    every = reads.T.contiguous()
    cost = torch.cdist(every, every[torch.as_tensor(kept, device=every.device)], p=1.0) / len(reads)
    relative = cost / cost.mean().clamp_min(torch.finfo(cost.dtype).tiny)
    rows, columns = as_mixes(sinkhorn(relative, temperature))
    return UnitCut("channels", kept, rows.to(HOST), columns.to(HOST))
