"""One budget over everything inside the blocks: channels, heads, value ranks and whole sub-layers, whichever
is predicted to cost least per parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from analysis.device import widen
from analysis.read_units import read_units
from analysis.shape import SublayerShape
from analysis.sublayers import Sublayer, out_in
from analysis.units import Units
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.cut import BranchCuts, UnitCut, cut_model
from slicing.inner.moments import writer_moments
from slicing.inner.obs import Order, Ranks, order_of_removal, root, value_ranks
from slicing.inner.select import branches_of, sites, view_curvature
from slicing.inner.share_out import Option, share_out
from slicing.inner.widths import InnerWidths, SublayerWidths, parameters_saved
from slicing.memory import Holds
from slicing.steps.base import step
from slicing.steps.inner import Inner, InnerPlan
from slicing.steps.removal import SEARCH_WINDOWS

if TYPE_CHECKING:
    from slicing.view import ModelView

GRAIN = 192
"""Channels go in so many equal parts."""
RANKS = 16
"""Value ranks that are tried, in equal distances."""


@dataclass(frozen=True)
class Worth:
    """What is known of one branch: in which order its units go, and at what predicted cost."""

    channels: Order | None = None
    groups: Order | None = None
    ranks: tuple[Ranks, ...] = ()
    """Of every group, where its values have coordinates that can go."""
    whole: float = 0.0
    """Predicted cost of the whole branch, nats per token."""


@dataclass(frozen=True)
class _Chosen(Option):
    widths: SublayerWidths


@step
class Mixed(Inner):
    """Take out whichever unit is predicted to cost least per parameter, of all kinds and all blocks.

    Predicted: optimal brain surgery with the loss's own curvature, from one backward pass. Each branch has a
    curve of cost over parameters saved; the segment of least slope on its lower convex hull goes next. The
    prediction fails for the first blocks, whose error grows on the way; there it is scaled to what is
    measured.
    """

    name = "mixed"
    title = "One budget over channels, heads and sub-layers"
    source = "slicescope, 2026; after Kurtic et al., ZipLM, NeurIPS 2023"
    cite = "kurtic2023ziplm"
    known_issue = (
        "Costs are predicted one branch at a time, and add up only while little goes: several whole blocks "
        "together cost more than their sum, so remove those by another step in front."
    )
    kinds = ("channels", "kv_groups", "value_pairs")
    holds = Holds(goes_back=True, curvature=True, ranks=True)

    measured: int = Field(default=3, ge=0, title="Blocks measured")
    """Of so many first blocks every sub-layer's cost is measured: what is predicted is too low there."""
    windows: int = Field(default=SEARCH_WINDOWS, ge=1, title="Windows to measure on")
    """Of the calibration windows, so many measure the first blocks."""

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """Predict, measure where that fails, share the budget out, and name the units."""
        shape, branches = view.shape, branches_of(view.model)
        worth = view.once("worth", lambda: _worth(view))
        scale = view.once(("measured", self.measured, self.windows), lambda: self._scale(view, worth))
        parts: list[list[_Chosen]] = []
        places: list[tuple[int, int]] = []
        for block, row in enumerate(shape.blocks):
            for index, (at, _) in enumerate(branches):
                alone = sum(other == at for other, _ in branches) == 1
                known, times = worth[block, index], scale.get((block, index), 1.0)
                parts.append(options(row[at], shape.hidden_size, known, times, self.uniform, alone))
                places.append((block, at))
        if self.uniform:
            parts, places = _together(parts, places, shape.block_count, len(branches))
        chosen = share_out(parts, shape.parameters - size)
        found: dict[tuple[int, int], SublayerWidths] = {}
        for (block, at), option in zip(places, chosen, strict=True):
            blocks = range(shape.block_count) if self.uniform else (block,)
            for each in blocks:
                there = found.get((each, at), SublayerWidths())
                found[each, at] = SublayerWidths(
                    kept={**there.kept, **option.widths.kept}, gone=option.widths.gone
                )
        widths = InnerWidths(
            blocks=tuple(
                tuple(found.get((block, at), SublayerWidths()) for at in range(len(row)))
                for block, row in enumerate(shape.blocks)
            )
        )
        return InnerPlan(widths, _cuts(view.model, widths, worth))

    def _scale(self, view: ModelView, worth: dict[tuple[int, int], Worth]) -> dict[tuple[int, int], float]:
        """By block and branch: how many times what is predicted a branch costs, measured without it."""
        found = {}
        windows = view.windows[: self.windows]
        dense = view.mean_loss(view.model, windows)
        branches = branches_of(view.model)
        first = range(min(self.measured, view.block_count))
        some = [(block, index) for block in first for index in range(len(branches))]
        for done, (block, index) in enumerate(some, start=1):
            cuts: list[list[BranchCuts]] = [[()] * len(branches) for _ in range(view.block_count)]
            cuts[block][index] = None
            model = reduce_blocks(view.model, Layout.whole(view.block_count), check=False)
            cut_model(model, cuts)
            rise = view.mean_loss(model, windows) - dense
            found[block, index] = max(1.0, rise / max(worth[block, index].whole, 1e-9))
            view.progress("Measuring the first blocks", done, len(some))
        return found


def _worth(view: ModelView) -> dict[tuple[int, int], Worth]:
    """The order and the predicted cost of all units, by block and branch, in two passes over the windows."""
    units, branches = read_units(view.model), branches_of(view.model)
    curved = view_curvature(view)
    found: dict[tuple[int, int], Worth] = {}

    def look(place: int, row: int, sublayer: Sublayer, moments: list[Tensor]) -> None:
        curvature = root(curved.moments[place][row])
        for index, writer, own in sites(units[place], branches, row, sublayer, ("channels", "kv_groups")):
            weight = out_in(sublayer.writers[writer])
            moment = moments[writer]
            scaled = curvature.to(moment.device) @ widen(weight, moment.device)
            (columns,) = own.columns.values()
            order = order_of_removal(scaled, moment, columns)
            whole = float(((scaled @ moment) * scaled).sum() / 2)
            if own.kind == "channels":
                found[place, index] = Worth(channels=order, whole=whole)
                continue
            pairs = units[place][index].of("value_pairs")
            ranks = tuple(
                value_ranks(scaled, moment, _heads_of(pairs[0], group, columns[group]))
                for group in range(pairs[0].parts if pairs else 0)
            )
            found[place, index] = Worth(groups=order, ranks=ranks, whole=whole)

    writer_moments(view.model, view.windows, look, view.progress)
    for place in range(view.block_count):
        for index in range(len(branches)):
            found.setdefault((place, index), Worth())
    return found


def _heads_of(pairs: Units, group: int, columns: np.ndarray) -> np.ndarray:
    """The columns of every query head of a group, (heads, size)."""
    (places,) = pairs.columns.values()
    size = pairs.count // pairs.parts
    return places[group * size : (group + 1) * size].T


def options(
    shape: SublayerShape, hidden_size: int, worth: Worth, scale: float, uniform: bool, alone: bool
) -> list[_Chosen]:
    """Every way to make one branch smaller, with what it saves and what it is predicted to cost.

    A branch with routed experts never goes as a whole: what it costs without them would be predicted.
    """

    def option(cost: float, **said: Any) -> _Chosen:
        widths = SublayerWidths(**said)
        return _Chosen(parameters_saved(shape, widths, hidden_size), scale * cost, widths)

    found = [option(0.0)]
    if worth.channels:
        count = len(worth.channels.units)
        grain = max(1, count // GRAIN)
        found += [
            option(worth.channels.costs[gone - 1], kept={"channels": count - gone})
            for gone in range(grain, count, grain)
        ]
    if worth.groups:
        count = len(worth.groups.units)
        for left in range(count, 0, -1):
            base = worth.groups.costs[count - left - 1] if left < count else 0.0
            stay = sorted(worth.groups.units[count - left :].tolist())
            some: dict[str, int] = {"kv_groups": left} if left < count else {}
            if some:
                found.append(option(base, kept=some))
            if worth.ranks and not uniform:
                size = len(worth.ranks[0].costs) - 1
                for rank in range(max(1, size // RANKS), size, max(1, size // RANKS)):
                    cost = base + sum(float(worth.ranks[group].costs[rank]) for group in stay)
                    found.append(option(cost, kept={**some, "value_pairs": rank}))
    routed = any(each.kind == "experts" for each in shape.units)
    if alone and not routed and not uniform and (worth.channels or worth.groups):
        found.append(option(worth.whole, gone=True))
    return found


def _together(
    parts: Sequence[Sequence[_Chosen]], places: Sequence[tuple[int, int]], blocks: int, branches: int
) -> tuple[list[list[_Chosen]], list[tuple[int, int]]]:
    """The same options in every block: costs and savings of all blocks together."""
    joined = []
    for index in range(branches):
        same = [parts[block * branches + index] for block in range(blocks)]
        joined.append(
            [
                _Chosen(sum(each.saved for each in row), sum(each.cost for each in row), row[0].widths)
                for row in zip(*same, strict=True)
            ]
        )
    return joined, [places[index] for index in range(branches)]


def _cuts(model: Any, widths: InnerWidths, worth: dict[tuple[int, int], Worth]) -> list[list[BranchCuts]]:
    """The units that stay, by the orders in which they go, and the coordinates of values of lower rank."""
    cuts: list[list[BranchCuts]] = []
    for block, rows in enumerate(widths.blocks):
        own: list[BranchCuts] = []
        for index, (row, _) in enumerate(branches_of(model)):
            kept, known = rows[row].kept, worth[block, index]
            if rows[row].gone:
                own.append(None)
                continue
            cut: list[UnitCut] = []
            if known.channels and "channels" in kept:
                cut.append(UnitCut("channels", _last(known.channels, kept["channels"])))
            if known.groups:
                stay = _last(known.groups, kept.get("kv_groups", len(known.groups.units)))
                if "kv_groups" in kept:
                    cut.append(UnitCut("kv_groups", stay))
                if "value_pairs" in kept:
                    cut.append(_of_rank([known.ranks[group] for group in stay], kept["value_pairs"]))
            own.append(cut)
        cuts.append(own)
    return cuts


def _last(order: Order, count: int) -> np.ndarray:
    return np.sort(order.units[len(order.units) - count :])


def _of_rank(groups: list[Ranks], rank: int) -> UnitCut:
    """The cut of the values of these groups to their best ``rank`` coordinates each."""
    size = len(groups[0].rows)
    kept = np.concatenate([np.arange(rank) + place * size for place in range(len(groups))])
    rows = torch.block_diag(*(each.rows[:, :rank] for each in groups))
    columns = torch.block_diag(*(each.columns[:, :rank] for each in groups))
    return UnitCut("value_pairs", kept, rows, columns)
