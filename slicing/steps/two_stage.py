"""2SSP: channels by what they hand on go first, then whole attentions by loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.errors import PlanError
from analysis.shape import ModelShape
from slicing.inner.select import best_units, unit_scores
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.inner.without import Place, cuts_without, least_missed
from slicing.memory import Holds
from slicing.steps.base import step
from slicing.steps.inner import InnerPlan, at_size, widths_of_shares
from slicing.steps.without import WithoutSublayers, refuse_unless_apart, without

if TYPE_CHECKING:
    from slicing.view import ModelView

ALPHA = 1.5
"""How few attentions go, as the paper has it."""


@step
class TwoStage(WithoutSublayers):
    """Take channels of least activation norm out of every MLP alike, then attentions one by one by loss.

    Of L attentions ``round(L S^((P_mlp / P_attn) / 1.5))`` go, with S the share of the blocks' parameters
    that goes, and P_mlp and P_attn the parameters of MLP and attention in a block (equation 5). Channels make
    up for the rest.
    """

    name = "2ssp"
    title = "Channels, then attentions (2SSP)"
    source = "Sandri et al., 2SSP, TMLR 2025"
    cite = "sandri2025twossp"
    known_issue = "Its released code decides which attentions go by the perplexity of a single text."
    kinds = ("channels",)
    holds = Holds()

    def check_size(self, shape: ModelShape, size: int) -> None:
        """The channels that are left to the first stage are enough."""
        self.stages(shape, size)

    def stages(self, shape: ModelShape, size: int) -> tuple[InnerWidths, int]:
        """The widths after the first stage, and how many attentions go in the second (``PlanError``)."""
        gone = attentions_gone(shape, size)
        places = attentions(shape)
        # Attentions are alike nearly everywhere. Where they are not, some of each are meant.
        some = [places[at] for at in np.linspace(0, len(places) - 1, gone).round().astype(int)]

        def widths(share: float) -> InnerWidths:
            return without(widths_of_shares(shape, [share] * shape.block_count, self.kinds), some)

        found = at_size(widths, shape, size, self.name)
        rows = [tuple(SublayerWidths() if each.gone else each for each in block) for block in found.blocks]
        return InnerWidths(blocks=tuple(rows)), gone

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """The second stage tries attentions on the model that the first one has left."""
        shape = view.shape
        refuse_unless_apart(self.name, shape)
        narrow, count = self.stages(shape, size)
        cuts = best_units(view.model, narrow, unit_scores(view, "activation", self.kinds))
        gone: list[Place] = []
        for _ in range(count):
            left = [each for each in attentions(shape) if each not in gone]
            now = cuts_without(view.model, gone, cuts)
            key = "attention missed least", narrow.key, tuple(gone), self.windows
            gone.append(view.once(key, partial(least_missed, view, now, left, self.windows)))
        return InnerPlan(without(narrow, gone), cuts_without(view.model, gone, cuts))


def attentions(shape: ModelShape) -> list[Place]:
    """The places of all attentions."""
    return [
        (place, row)
        for place, block in enumerate(shape.blocks)
        for row, each in enumerate(block)
        if each.kind == "attention"
    ]


def attentions_gone(shape: ModelShape, size: int) -> int:
    """How many attentions go so that ``size`` parameters stay, by equation 5; never more than that takes."""
    width = shape.hidden_size
    every = [sublayer.parameters(width) for sublayer in shape.sublayers]
    own = [shape.blocks[place][row].parameters(width) for place, row in attentions(shape)]
    if not own:
        raise PlanError("There is no attention to take out: choose another method.")
    share = max(0.0, (shape.parameters - size) / sum(every))
    ratio = (sum(every) - sum(own)) / sum(own)
    wanted = round(len(own) * min(1.0, share) ** (ratio / ALPHA))
    return min(wanted, int((shape.parameters - size) / (sum(own) / len(own))))
