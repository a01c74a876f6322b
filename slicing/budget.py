"""How much smaller a model is to become, and in what that is measured.

Knows nothing about torch, or about what makes a model smaller.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from analysis.errors import PlanError, unknown_name
from analysis.numbers import as_briefly, read_number
from analysis.shape import ModelShape
from analysis.values import Value
from slicing.allocation import check_fraction

Measure = Literal["mean_slice", "like_constant", "parameters", "blocks", "size"]
"""``mean_slice``: the mean slice fraction over blocks, SP (the published protocol). ``like_constant``: as
many parameters as constant slicing at that SP leaves. ``parameters``: the share of the parameters that goes,
to the nearest whole block, which is what removal can reach; exactly that share where it is nearest to no
block or to all of them. ``blocks``: so many blocks go. ``size``: exactly so many parameters stay."""
MEASURES: tuple[Measure, ...] = ("mean_slice", "like_constant", "parameters", "blocks", "size")


class Budget(Value):
    """Say how much smaller a model is to become. Checked when it is made: ``PlanError``."""

    measure: Measure = "mean_slice"
    amount: float = 0.25

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.measure in ("mean_slice", "like_constant"):
            check_fraction("target (SP)", self.amount)
        elif self.measure == "parameters" and not 0.0 < self.amount < 1.0:
            raise PlanError(
                f"The share of the parameters that goes must lie between 0 and 1; got {self.amount:g}."
            )
        elif self.measure in ("blocks", "size") and (self.amount < 1 or not self.amount.is_integer()):
            what = "blocks that go" if self.measure == "blocks" else "parameters that stay"
            raise PlanError(f"The number of {what} must be a whole number from 1 on; got {self.amount:g}.")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``measure=amount``, such as ``parameters=0.2`` (``PlanError``)."""
        measure, equals, amount = text.partition("=")
        name = measure.strip().replace("-", "_")
        if name not in MEASURES:
            raise PlanError(unknown_name("budget", name, MEASURES))
        number = read_number(amount)
        if not equals or number is None:
            raise PlanError(f"The budget '{text}' needs a number, as in '{name}=0.2'.")
        return cls(measure=name, amount=number)

    @property
    def line(self) -> str:
        """The text that ``parse`` reads."""
        return f"{self.measure}={as_briefly(self.amount)}"

    @property
    def title(self) -> str:
        """The budget in words."""
        percent = f"{100 * self.amount:g}\N{NO-BREAK SPACE}%"
        return {
            "mean_slice": f"mean slice (SP) {percent}",
            "like_constant": f"as many parameters as constant slicing at SP {percent}",
            "parameters": f"{percent} fewer parameters",
            "blocks": f"{self.amount:.0f} blocks fewer",
            "size": f"{self.amount:,.0f} parameters",
        }[self.measure]

    @property
    def target(self) -> float | None:
        """SP, where the budget names one."""
        return self.amount if self.measure in ("mean_slice", "like_constant") else None

    def parameters(self, shape: ModelShape) -> int | None:
        """How many parameters stay, where the budget alone says it (``PlanError`` for more than blocks hold).

        A share is that of the nearest number of whole blocks, so that methods of all kinds come to one size.
        Where that is no block, or all, it is the share itself, which methods that count no blocks can reach.
        """
        if self.measure == "size":
            return int(self.amount)
        if self.measure == "blocks":
            return _without(shape, int(self.amount))
        if self.measure != "parameters":
            return None
        each, gone = _mean_block(shape), self.amount * shape.parameters
        if not 1 <= round(gone / each) < shape.block_count and gone < each * shape.block_count:
            return round(shape.parameters - gone)
        return whole_blocks(shape, self.amount)[1]


def whole_blocks(shape: ModelShape, fewer: float) -> tuple[int, int]:
    """Convert a share of the parameters to the nearest number of whole blocks, and to the parameters that a
    model without so many has.

    Blocks are taken to be alike; ``PlanError`` where that is no block, or all.
    """
    each = _mean_block(shape)
    count = round(fewer * shape.parameters / each)
    if not 1 <= count < shape.block_count:
        raise PlanError(
            f"{fewer:.0%} of the {shape.parameters:,} parameters is {count} of the {shape.block_count} "
            f"blocks: choose a share from {each / shape.parameters:.1%} to "
            f"{(shape.block_count - 1) * each / shape.parameters:.0%}."
        )
    return count, _without(shape, count)


def _mean_block(shape: ModelShape) -> float:
    return sum(shape.block_parameters(block) for block in range(shape.block_count)) / shape.block_count


def _without(shape: ModelShape, count: int) -> int:
    """Parameters of a model without so many blocks, taken to be alike."""
    return round(shape.parameters - count * _mean_block(shape))
