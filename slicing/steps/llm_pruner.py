"""LLM-Pruner: channels and heads go by what the gradient says that their weights are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from analysis.errors import PlanError
from analysis.read_units import read_units
from analysis.shape import ModelShape
from analysis.units import Kind
from slicing.budget import Budget
from slicing.inner.select import CURVED, Scores, best_units
from slicing.inner.taylor import Form, of_units, weight_salience
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.memory import Holds
from slicing.steps.base import Cost, step
from slicing.steps.inner import InnerPlan, Selective, at_size, widths_of_shares

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.view import ModelView

SHALLOW = 12
"""Of a model with so many blocks or fewer, less is spared."""
SAMPLES, SAMPLE_TOKENS = 10, 64
"""The published calibration."""


@step
class LlmPruner(Selective):
    """Take the channels, and the heads of keys and values with their queries, whose weights are worth least.

    A weight is worth ``|g w|``, with g the gradient of the loss of the text: the first order of what the loss
    changes by without it (equations 3 to 6). Every block but the spared ones loses the same share. Heads are
    few, so their number is rounded to that share, and the channels make up for the rest of the size.
    """

    name = "llm-pruner"
    title = "Coupled groups by Taylor expansion (LLM-Pruner)"
    source = "Ma et al., LLM-Pruner, NeurIPS 2023"
    cite = "ma2023llmpruner"
    known_issue = (
        "Its published calibration, ten samples of 64 tokens, gives other results from run to run, and its "
        "published results are those after fine-tuning, which is not done here."
    )
    kinds = ("channels", "kv_groups")
    holds = Holds(unequal=True, goes_back=True, weights=1, moments=False)
    variants = ("", "restore=true")

    restore: bool = Field(default=False, title="Least-squares restoration")
    """Fit every output projection that lost inputs to what the dense one writes. The paper does not."""
    form: Form = Field(default="element-1", title="Form of the expansion")
    """element-1: |g w| of every weight, as the released code. element-2: with half the diagonal of the Fisher
    information too. vector: |sum g w| of each weight matrix."""
    windows: int = Field(default=CURVED, ge=1, title="Windows to decide on")
    """Of the calibration windows, so many tell the gradient."""
    published_calibration: bool = Field(default=False, title="Ten samples of 64 tokens")
    """Take the gradient on the first 64 tokens of ten windows, as published."""
    spare_first: int = Field(default=4, ge=0, title="Blocks in front that stay whole")
    """Of a model with at most 12 blocks, at most a quarter of them."""
    spare_last: int = Field(default=2, ge=0, title="Blocks at the end that stay whole")
    """Of a model with at most 12 blocks, at most a sixth of them."""

    @model_validator(mode="after")
    def _check_spared(self) -> Self:
        if self.uniform and (self.spare_first or self.spare_last):
            raise PlanError(
                f"Widths are not equal where '{self.name}' spares blocks: give 'spare_first=0' and "
                "'spare_last=0' too, or leave out 'uniform'."
            )
        return self

    def for_every_tool(self) -> Self | None:
        """With equal widths in all blocks, none of which is spared."""
        return self.read({**dict(self), "uniform": True, "spare_first": 0, "spare_last": 0})

    def held(self) -> Holds:
        """The second order takes one more copy of the weights."""
        return self.holds.model_copy(update={"weights": 2 if self.form == "element-2" else 1})

    def check_shape(self, shape: ModelShape, budget: Budget, windows: int) -> None:
        """The blocks that are not spared can lose so much."""
        super().check_shape(shape, budget, windows)
        self.widths(shape, self.size(shape, budget))

    def cost(self, tokens: int, window_length: int) -> Cost:
        """Forward and back, and once more for the gradients of the weights."""
        looked = SAMPLES * SAMPLE_TOKENS if self.published_calibration else self.windows * window_length
        _, *fitting = super().cost(tokens, window_length)
        return (("Going back through the blocks", 7.0 * looked), *fitting)

    def pruned(self, blocks: int) -> range:
        """The blocks that are not spared, of so many (``PlanError`` where there are none)."""
        first, last = self.spare_first, self.spare_last
        if blocks <= SHALLOW:
            first, last = min(first, blocks // 4), min(last, blocks // 6)
        if first + last >= blocks:
            raise PlanError(
                f"'{self.name}' spares {first} blocks in front and {last} at the end, and the model has "
                f"{blocks}: spare fewer."
            )
        return range(first, blocks - last)

    def widths(self, shape: ModelShape, size: int) -> InnerWidths:
        """Equal shares of the blocks that are not spared (``PlanError`` where no share is enough)."""
        pruned = self.pruned(shape.block_count)

        def shares(share: float) -> list[float]:
            return [share if place in pruned else 0.0 for place in range(shape.block_count)]

        share = (shape.parameters - size) / max(
            1, sum(_in_units(shape, place, self.kinds_cut(shape)) for place in pruned)
        )
        some: tuple[Kind, ...] = tuple(each for each in self.kinds_cut(shape) if each == "kv_groups")
        heads = widths_of_shares(shape, shares(min(share, 1.0)), some)
        return at_size(
            lambda rest: _both(heads, widths_of_shares(shape, shares(rest), ("channels",))),
            shape,
            size,
            self.name,
        )

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """Measure the gradient once for all sizes; the units of least worth go, block by block."""
        found = self.widths(view.shape, size)
        return InnerPlan(found, best_units(view.model, found, self.worth(view)))

    def worth(self, view: ModelView) -> Scores:
        """What every unit is worth."""
        texts = self.texts(view.windows)

        def measure() -> Scores:
            salience = weight_salience(view.model, texts, self.form, view.progress)
            return {
                (place, index, kind): of_units(units, salience[place, index])
                for place, block in enumerate(read_units(view.model))
                for index, branch in enumerate(block)
                for kind in self.kinds
                for units in branch.of(kind)[:1]
            }

        return view.once(("taylor", self.form, tuple(texts.shape)), measure)

    def texts(self, windows: Tensor) -> Tensor:
        """The tokens that the gradient is taken on, (n, T), of the calibration ``windows``."""
        if self.published_calibration:
            return windows[:SAMPLES, :SAMPLE_TOKENS]
        return windows[: self.windows]


def _in_units(shape: ModelShape, place: int, kinds: tuple[str, ...]) -> int:
    """Parameters of a block that go with units of these kinds."""
    width = shape.hidden_size
    return sum(
        each.count * ((each.reader_rows + each.writer_columns) * width + each.inner)
        for sublayer in shape.blocks[place]
        for each in sublayer.units
        if each.kind in kinds
    )


def _both(first: InnerWidths, second: InnerWidths) -> InnerWidths:
    """The widths of two plans for different kinds of units."""
    return InnerWidths(
        blocks=tuple(
            tuple(SublayerWidths(kept={**one.kept, **two.kept}) for one, two in zip(*pair, strict=True))
            for pair in zip(first.blocks, second.blocks, strict=True)
        )
    )
