"""What every part inside the blocks is predicted to cost, in plain numbers, and the widths that follow.

Knows nothing about torch or weights: with the shape of the model it says how much stays where at any size.
Measuring these numbers is ``slicing.inner.worth``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

from pydantic import model_validator

from analysis.errors import PlanError
from analysis.shape import ModelShape, SublayerShape
from analysis.units import Kind
from analysis.values import Value
from slicing.inner.share_out import Option, share_out
from slicing.inner.widths import InnerWidths, SublayerWidths, parameters_saved

Costed = Literal["channels", "kv_groups", "value_pairs"]
COSTED: tuple[Costed, ...] = ("channels", "kv_groups", "value_pairs")
"""Kinds of units whose cost is predicted."""
Prediction = Literal["whole", "paired"]
"""The two predictions of whole branches, by the fields of ``BranchCosts``."""
SCALED_BLOCKS = 3
"""In so many first blocks predictions are too low, so that what is measured there counts."""


class UnitCurve(Value):
    """What the loss is predicted to rise by while the units of one kind go, the cheapest first."""

    count: int
    """How many units there are."""
    gone: tuple[int, ...]
    """(n,) how many of them are gone, growing, from 1 at least to ``count - 1`` at most."""
    costs: tuple[float, ...]
    """(n,) nats per token: the predicted rise of the loss at each of these."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ordered = all(before < after for before, after in pairwise((0, *self.gone, self.count)))
        if len(self.gone) != len(self.costs) or not ordered:
            raise PlanError(
                f"A curve over {self.count} units has a cost for every number that is gone, growing from 1 "
                f"to {self.count - 1}; got {len(self.gone)} numbers and {len(self.costs)} costs."
            )
        return self

    def points(self) -> Iterator[tuple[int, float]]:
        """Give how many are gone and the cost, point by point."""
        return zip(self.gone, self.costs, strict=True)

    def nearest(self, share: float) -> tuple[int, float] | None:
        """How many units are gone at the point nearest to this share of them, and the cost there.

        ``None`` where no unit can go without all of them.
        """
        return min(self.points(), key=lambda point: abs(point[0] - share * self.count), default=None)


class BranchCosts(Value):
    """One attention or MLP of a block."""

    row: int
    """Its sub-layer among those of the block: two branches of one sub-layer run side by side."""
    kind: Literal["attention", "mlp"]
    channels: UnitCurve | None = None
    """Of an MLP that is no mixture of experts, or of the expert that all tokens share."""
    kv_groups: UnitCurve | None = None
    """Heads of keys and values with their query heads; ``None`` where none can go alone."""
    order: tuple[int, ...] = ()
    """These heads by their numbers, in the order in which they go."""
    value_pairs: tuple[UnitCurve, ...] = ()
    """The coordinates of the values, head by head; empty where they cannot go."""
    whole: float | None = None
    """The predicted rise of the loss without all of it, nats per token; ``None`` where a part of it, such as
    a stack of experts, has no prediction."""
    measured: float | None = None
    """The rise of the loss that was measured without all of it, nats per token."""
    paired: float | None = None
    """As ``whole``, but token by token: the gradient at a token and what the branch adds to the same token go
    together. So a token with a large state, as the first one of a window often has, counts for itself alone.
    Stacks of experts and biases count too."""
    massive: float | None = None
    """The share of the loss's curvature behind its sub-layer that massive tokens would have. They are left
    out of it (``analysis.curvature.MASSIVE``)."""

    def curve(self, kind: Costed) -> UnitCurve | None:
        """The curve of one kind of units; of ``value_pairs``, while every head loses equally many."""
        if kind == "channels":
            return self.channels
        if kind == "kv_groups":
            return self.kv_groups
        if kind != "value_pairs" or not self.value_pairs:
            return None
        first = self.value_pairs[0]
        costs = tuple(map(sum, zip(*(each.costs for each in self.value_pairs), strict=True)))
        return UnitCurve(count=first.count, gone=first.gone, costs=costs)

    @property
    def ratio(self) -> float | None:
        """How many times the predicted cost of all of it was measured; ``None`` without one of the two."""
        return self.ratio_to("whole")

    def ratio_to(self, by: Prediction) -> float | None:
        """The same by one of the two predictions."""
        predicted: float | None = getattr(self, by)
        if predicted is None or self.measured is None or predicted <= 0.0:
            return None
        return self.measured / predicted

    @property
    def times_predicted(self) -> float:
        """How many times what is predicted it costs, where that is more; 1 where it was not measured."""
        if self.whole is None or self.measured is None:
            return 1.0
        return max(1.0, self.measured / max(self.whole, 1e-9))

    @model_validator(mode="after")
    def _check(self) -> Self:
        grids = {(each.count, each.gone) for each in self.value_pairs}
        if len(grids) > 1 or (self.value_pairs and len(self.order) != len(self.value_pairs)):
            raise PlanError("Every head needs one curve of its values, and all of them over the same points.")
        return self


class UnitCosts(Value):
    """What all parts inside a model's blocks are predicted to cost: channels, heads, values, sub-layers."""

    blocks: tuple[tuple[BranchCosts, ...], ...]
    """By block, in the order in which the sub-layers are applied."""
    windows: int
    """The second moments of what the sub-layers write were taken on so many windows, in one pass."""
    window_length: int
    curvature_windows: int
    """The curvature of the loss was taken on the first so many of them."""
    measured_windows: int = 0
    """What costs are measured was measured on the first so many of them; 0 where none are."""
    seconds: float
    """Of the prediction, and of what was measured."""

    def compared(self, by: Prediction = "whole") -> tuple[tuple[int, BranchCosts], ...]:
        """The branches that are predicted and measured, each with its block."""
        return tuple(
            (place, branch)
            for place, block in enumerate(self.blocks)
            for branch in block
            if branch.ratio_to(by) is not None
        )

    def check_fits(self, shape: ModelShape) -> None:
        """Raise ``PlanError`` where these are not the costs of a model with such sub-layers."""
        rows = [{branch.row for branch in block} for block in self.blocks]
        if [set(range(len(block))) for block in shape.blocks] != rows:
            raise PlanError(
                f"The costs of units are of a model of {len(self.blocks)} blocks, and this one has "
                f"{shape.block_count}, or other sub-layers: measure them on this model."
            )

    def parts(self, shape: ModelShape, share: float) -> list[PartCost]:
        """What every part of every block costs, where that is predicted; of units a ``share`` goes."""
        every = (
            part_cost(self, shape, block, part, share) for block in range(len(self.blocks)) for part in PARTS
        )
        return [each for each in every if each]

    @property
    def is_measured(self) -> bool:
        """Whether the loss was measured without each whole branch of all blocks."""
        return all(branch.measured is not None for block in self.blocks for branch in block)


@dataclass(frozen=True)
class WidthOption(Option):
    """One way to make a branch smaller, by the widths that it leaves."""

    widths: SublayerWidths


def options(
    shape: SublayerShape,
    hidden_size: int,
    costs: BranchCosts,
    scale: float,
    kinds: Collection[Kind],
    whole: bool,
) -> list[WidthOption]:
    """Every way to make one branch smaller, with what it saves and what it is predicted to cost.

    ``scale`` is multiplied into the costs. ``kinds``: of units that may go. ``whole``: whether all of the
    branch may go, which has its sub-layer to itself then.
    """

    def option(cost: float, **said: Any) -> WidthOption:
        widths = SublayerWidths(**said)
        return WidthOption(parameters_saved(shape, widths, hidden_size), scale * cost, widths)

    found = [option(0.0)]
    if costs.channels:
        count = costs.channels.count
        found += [option(cost, kept={"channels": count - gone}) for gone, cost in costs.channels.points()]
    if costs.kv_groups:
        count = costs.kv_groups.count
        fewer = costs.kv_groups.points() if "kv_groups" in kinds else ()
        for gone, base in ((0, 0.0), *fewer):
            stay = sorted(costs.order[gone:])
            some: dict[str, int] = {"kv_groups": count - gone} if gone else {}
            if some:
                found.append(option(base, kept=some))
            if costs.value_pairs and "value_pairs" in kinds:
                size, lost = costs.value_pairs[0].count, costs.value_pairs[0].gone
                for place in range(len(lost) - 1, -1, -1):
                    cost = base + sum(costs.value_pairs[group].costs[place] for group in stay)
                    found.append(option(cost, kept={**some, "value_pairs": size - lost[place]}))
    if whole and costs.whole is not None and (costs.channels or costs.kv_groups):
        found.append(option(costs.whole, gone=True))
    return found


def widths_at(
    costs: UnitCosts,
    shape: ModelShape,
    size: int,
    uniform: bool = False,
    scaled_blocks: int = SCALED_BLOCKS,
    kinds: Collection[Kind] = COSTED,
    stay: Collection[tuple[int, int]] = (),
) -> InnerWidths:
    """The widths at which a model of this shape has about ``size`` parameters and loses least by prediction.

    Nothing but the numbers is needed. Each branch has a curve of cost over parameters saved, and the segment
    of least slope on its lower convex hull goes next. In the first ``scaled_blocks`` blocks, costs are scaled
    to what was measured without the branch, where it was. ``uniform``: equal widths in all blocks, of what
    an ordinary checkpoint has a size for. ``kinds``: of units that may go beside channels. ``stay``: the
    sub-layers, by block and row, of which something stays. Raises ``PlanError`` where all that can go is too
    little, and for another model's costs.
    """
    costs.check_fits(shape)
    if uniform:
        kinds = [kind for kind in kinds if kind != "value_pairs"]
    parts: list[list[WidthOption]] = []
    places: list[tuple[int, int]] = []
    for block, (row, branches) in enumerate(zip(shape.blocks, costs.blocks, strict=True)):
        for branch in branches:
            alone = sum(other.row == branch.row for other in branches) == 1
            scale = branch.times_predicted if block < scaled_blocks else 1.0
            whole = alone and not uniform and (block, branch.row) not in stay
            parts.append(options(row[branch.row], shape.hidden_size, branch, scale, kinds, whole))
            places.append((block, branch.row))
    if uniform:
        parts, places = _together(parts, places, shape.block_count)
    chosen = share_out(parts, shape.parameters - size)
    found: dict[tuple[int, int], SublayerWidths] = {}
    for (block, at), option in zip(places, chosen, strict=True):
        for each in range(shape.block_count) if uniform else (block,):
            there = found.get((each, at), SublayerWidths())
            found[each, at] = SublayerWidths(
                kept={**there.kept, **option.widths.kept}, gone=option.widths.gone
            )
    return InnerWidths(
        blocks=tuple(
            tuple(found.get((block, at), SublayerWidths()) for at in range(len(row)))
            for block, row in enumerate(shape.blocks)
        )
    )


def predicted_cost(costs: UnitCosts, widths: InnerWidths, scaled_blocks: int = SCALED_BLOCKS) -> float:
    """What the loss is predicted to rise by at these widths, nats per token; ``widths_at`` finds such.

    The costs of all branches are added up. Raises ``PlanError`` for widths that no cost is known of.
    """
    total = 0.0
    for block, (row, branches) in enumerate(zip(widths.blocks, costs.blocks, strict=True)):
        for branch in branches:
            scale = branch.times_predicted if block < scaled_blocks else 1.0
            total += scale * _cost_at(branch, row[branch.row], block)
    return total


def _cost_at(branch: BranchCosts, left: SublayerWidths, block: int) -> float:
    """The predicted cost of what a branch loses, without any scale."""

    def at(curve: UnitCurve | None, kept: int | None) -> float:
        if curve is None or kept in (None, curve.count):
            return 0.0
        found = dict(curve.points()).get(curve.count - kept)
        if found is None:
            raise PlanError(
                f"No cost is known of block {block} with {kept} of {curve.count} units: take widths that "
                "follow from these costs."
            )
        return found

    if left.gone:
        return branch.whole or 0.0
    heads, ranks = left.kept.get("kv_groups"), left.kept.get("value_pairs")
    gone = branch.kv_groups.count - heads if branch.kv_groups and heads else 0
    narrower = sum(at(branch.value_pairs[head], ranks) for head in branch.order[gone:] if branch.value_pairs)
    return at(branch.channels, left.kept.get("channels")) + at(branch.kv_groups, heads) + narrower


def _together(
    parts: Sequence[Sequence[WidthOption]], places: Sequence[tuple[int, int]], blocks: int
) -> tuple[list[list[WidthOption]], list[tuple[int, int]]]:
    """The same options in every block: costs and savings of all blocks together."""
    joined, branches = [], len(places) // blocks
    for index in range(branches):
        same = [parts[block * branches + index] for block in range(blocks)]
        if any([each.widths for each in row] != [each.widths for each in same[0]] for row in same):
            raise PlanError(
                "The blocks of this model differ in how many units they have, so that no widths are equal in "
                "all of them: leave 'uniform' out."
            )
        joined.append(
            [
                WidthOption(sum(each.saved for each in row), sum(each.cost for each in row), row[0].widths)
                for row in zip(*same, strict=True)
            ]
        )
    return joined, [places[index] for index in range(branches)]


# Parts, as people look at them

Part = Literal["attention", "kv_groups", "value_pairs", "mlp", "channels"]
PARTS: tuple[Part, ...] = ("attention", "kv_groups", "value_pairs", "mlp", "channels")
"""What can go of a block: its attention or MLP as a whole, or units of one kind in them."""


class PartCost(NamedTuple):
    """What one part of a block is predicted to cost."""

    block: int
    part: Part
    units: int | None
    """How many units there are; ``None`` for the whole of an attention or MLP."""
    gone: int | None
    """How many of them are gone; ``None`` for the whole."""
    cost: float
    """Nats per token."""
    saved: int
    """Parameters fewer."""

    @property
    def per_million(self) -> float:
        """Nats per token for every million parameters fewer."""
        return self.cost / max(self.saved, 1) * 1e6


def branch_of(costs: UnitCosts, block: int, part: Part) -> BranchCosts | None:
    """The attention or MLP of a block that a part belongs to; ``None`` where it has none."""
    kind = part if part in ("attention", "mlp") else "mlp" if part == "channels" else "attention"
    return next((branch for branch in costs.blocks[block] if branch.kind == kind), None)


def part_cost(costs: UnitCosts, shape: ModelShape, block: int, part: Part, share: float) -> PartCost | None:
    """What a part of a block costs: all of an attention or MLP, or the cheapest ``share`` of its units.

    ``None`` where the block has no such part, or where nothing is predicted of it.
    """
    branch = branch_of(costs, block, part)
    if branch is None:
        return None
    row = shape.blocks[block][branch.row]
    if part == "attention" or part == "mlp":
        saved = _all_of(row, branch, shape.hidden_size, _is_alone(costs, block, branch))
        return None if branch.whole is None else PartCost(block, part, None, None, branch.whole, saved)
    curve = branch.curve(part)
    if curve is None or (found := curve.nearest(share)) is None:
        return None
    gone, cost = found
    saved = parameters_saved(row, SublayerWidths(kept={part: curve.count - gone}), shape.hidden_size)
    return PartCost(block, part, curve.count, gone, cost, saved)


def _is_alone(costs: UnitCosts, block: int, branch: BranchCosts) -> bool:
    return sum(other.row == branch.row for other in costs.blocks[block]) == 1


def _all_of(row: SublayerShape, branch: BranchCosts, hidden_size: int, alone: bool) -> int:
    """The parameters of a branch; beside another one, those of its units."""
    if alone:
        return row.parameters(hidden_size)
    kinds = ("channels",) if branch.kind == "mlp" else ("kv_groups", "value_pairs")
    units = next((each for kind in kinds for each in row.units if each.kind == kind), None)
    if units is None:
        return 0
    return units.count * ((units.reader_rows + units.writer_columns) * hidden_size + units.inner)
