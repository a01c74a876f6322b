"""Whole sub-layers by loss: at every step the attention or the MLP goes that is missed least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from analysis.errors import PlanError
from analysis.shape import ModelShape
from slicing.inner.widths import InnerWidths
from slicing.inner.without import Place, cuts_without, least_missed
from slicing.steps.base import step
from slicing.steps.inner import InnerPlan
from slicing.steps.without import WithoutSublayers, refuse_unless_apart, without

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class Sublayers(WithoutSublayers):
    """Remove, at every step, the attention or MLP without which the loss rises least.

    Stops at the number whose size is nearest to the one asked for.
    """

    name = "sublayers"
    title = "Sub-layers by loss (BlockPruner)"
    source = "Zhong et al., BlockPruner, Findings of ACL 2025"
    cite = "zhong2025blockpruner"
    known_issue = (
        "A greedy choice never comes back to a sub-layer, and an MLP counts for no more than an attention, "
        "which is smaller."
    )
    fine = False

    @model_validator(mode="after")
    def _check_sublayers(self) -> Self:
        if self.restore:
            raise PlanError(
                f"'{self.name}' takes whole sub-layers out, of which nothing is left to restore: leave out "
                "'restore', or give it a repair."
            )
        return self

    def check_size(self, shape: ModelShape, size: int) -> None:
        """Without any sub-layer the model must be small enough."""
        every = [(place, row) for place, block in enumerate(shape.blocks) for row in range(len(block))]
        least = _parameters(shape, every)
        if size < least:
            raise PlanError(
                f"'{self.name}' leaves {least:,} parameters even where every sub-layer goes, and {size:,} "
                "were asked for: choose a larger size."
            )

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """Each step tries all that are left, on the model that the steps before have left."""
        shape = view.shape
        refuse_unless_apart(self.name, shape)
        self.check_size(shape, size)
        left = [(place, row) for place, block in enumerate(shape.blocks) for row in range(len(block))]
        gone: list[Place] = []
        while _parameters(shape, gone) > size:
            gone.append(_next(view, gone, [each for each in left if each not in gone], self.windows))
        nearest = min(gone[:-1], gone, key=lambda some: abs(_parameters(shape, some) - size))
        return InnerPlan(without(InnerWidths.whole(shape), nearest), cuts_without(view.model, nearest))


def _next(view: ModelView, gone: list[Place], left: list[Place], windows: int) -> Place:
    """The sub-layer that goes after these, found once for all sizes."""
    key = "sub-layer missed least", tuple(gone), windows
    return view.once(key, lambda: least_missed(view, cuts_without(view.model, gone), left, windows))


def _parameters(shape: ModelShape, gone: list[Place]) -> int:
    return without(InnerWidths.whole(shape), gone).shape_after(shape).parameters
