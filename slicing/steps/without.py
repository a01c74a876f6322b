"""What the methods that take whole sub-layers out have in common: they try models without each.

No method itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from analysis.errors import PlanError, UnsupportedError
from analysis.shape import ModelShape
from slicing.budget import Budget
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.inner.without import Place
from slicing.memory import Holds
from slicing.steps.base import Cost
from slicing.steps.inner import Inner
from slicing.steps.removal import SEARCH_WINDOWS

if TYPE_CHECKING:
    from slicing.plans import Slicing


class WithoutSublayers(Inner):
    """Take whole sub-layers out, the ones that the loss misses least, and what else the method decides."""

    trains = True
    holds = Holds(moments=False)

    restore: bool = Field(default=False, title="Least-squares restoration")
    """Fit every output projection that lost inputs to what the dense one writes. The paper does not."""
    windows: int = Field(default=SEARCH_WINDOWS, ge=1, title="Windows to decide on")
    """Of the calibration windows, so many decide which sub-layers go."""

    @model_validator(mode="after")
    def _check_without(self) -> Self:
        if self.uniform:
            raise PlanError(
                f"'{self.name}' takes whole sub-layers out, which no ordinary checkpoint can say: leave out "
                "'uniform'."
            )
        return self

    def for_every_tool(self) -> None:
        """No ordinary checkpoint lacks whole sub-layers."""
        return

    def in_form(self, form: Slicing, one_shot: bool | None, windows: int | None) -> Self:
        """So many windows to decide on."""
        return self if windows is None else type(self)(**{**dict(self), "windows": windows})

    def held(self) -> Holds:
        """The windows on which it tries models, too."""
        return self.holds.model_copy(update={"tries": self.windows})

    def check_shape(self, shape: ModelShape, budget: Budget, windows: int) -> None:
        """Attention and MLP can go one by one, and the size can be reached."""
        super().check_shape(shape, budget, windows)
        refuse_unless_apart(self.name, shape)
        self.check_size(shape, self.size(shape, budget))

    def check_size(self, shape: ModelShape, size: int) -> None:
        """Raise ``PlanError`` where a model of this shape cannot be made so small."""

    def cost(self, tokens: int, window_length: int) -> Cost:
        """Twice as many passes as for whole blocks."""
        return (("Trying", 40.0 * self.windows * window_length), *super().cost(tokens, window_length))


def refuse_unless_apart(name: str, shape: ModelShape) -> None:
    """Raise ``UnsupportedError`` for blocks whose attention and MLP are one sub-layer."""
    if any(len(block) < 2 for block in shape.blocks):
        raise UnsupportedError(
            f"'{name}' takes attention and MLP out one by one, and in a model of type '{shape.architecture}' "
            "they are one sub-layer: choose a method that removes blocks."
        )


def without(widths: InnerWidths, gone: Sequence[Place]) -> InnerWidths:
    """The widths without these sub-layers."""
    return InnerWidths(
        blocks=tuple(
            tuple(
                SublayerWidths(gone=True) if (place, row) in gone else each for row, each in enumerate(block)
            )
            for place, block in enumerate(widths.blocks)
        )
    )
