"""What the parts inside the blocks are worth, predicted in one pass: optimal brain surgery with the curvature
of the loss; and what whole branches cost when they are left out, measured.

Finds the numbers of ``slicing.inner.costs``, and beside them the order in which units go.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.device import widen
from analysis.read_units import read_units
from analysis.sublayers import Sublayer, out_in
from analysis.units import Units
from slicing.inner.costs import BranchCosts, UnitCosts, UnitCurve
from slicing.inner.moments import view_moments
from slicing.inner.obs import Order, Ranks, order_of_removal, root, value_ranks
from slicing.inner.select import CURVED, branches_of, only_writers, sites, view_curvature
from slicing.inner.without import Place, losses_without

if TYPE_CHECKING:
    from torch import Tensor

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
    whole: float | None = None
    """Predicted cost of the whole branch, nats per token; ``None`` where there is no prediction."""


def unit_worth(view: ModelView, changes: bool = False) -> dict[Place, Worth]:
    """The order and the predicted cost of all units, by block and branch, in two passes over the windows.

    One pass carries the stream forward on all windows, the other gradients back on the first ``CURVED``.
    A whole branch costs ``tr(G W C W') / 2``, with nothing refitted (see ``slicing.inner.obs``); a bias of
    its writer is left out. Asked once of a view. ``changes``: as in ``view_curvature``, whose pass this uses.
    Raises ``UnsupportedError`` for units that have no score.
    """
    return view.once(("worth", changes), lambda: _measured(view, changes))


def _measured(view: ModelView, changes: bool) -> dict[Place, Worth]:
    units, branches = read_units(view.model), branches_of(view.model)
    curved = view_curvature(view, changes)
    found: dict[Place, Worth] = {}

    def look(place: int, row: int, sublayer: Sublayer, moments: list[Tensor]) -> None:
        if not moments:  # all that writes are routed experts, of which nothing is measured here
            return
        curvature = root(curved.moments[place][row].to(moments[0].device))  # it rests on the host
        scaled = [
            curvature.to(moment.device) @ (sublayer.scale * widen(out_in(writer), moment.device))
            for writer, moment in zip(sublayer.writers, moments, strict=True)
        ]
        wholes = {
            index: _quadratic(scaled[writer], moments[writer])
            for index, writer in only_writers(branches, row, sublayer).items()
        }
        for index, whole in wholes.items():
            found[place, index] = Worth(whole=whole)
        for index, writer, own in sites(units[place], branches, row, sublayer, ("channels", "kv_groups")):
            (columns,) = own.columns.values()
            order = order_of_removal(scaled[writer], moments[writer], columns)
            if own.kind == "channels":
                found[place, index] = Worth(channels=order, whole=wholes.get(index))
                continue
            pairs = units[place][index].of("value_pairs")
            ranks = tuple(
                value_ranks(scaled[writer], moments[writer], _heads_of(pairs[0], group, columns[group]))
                for group in range(pairs[0].parts if pairs else 0)
            )
            found[place, index] = Worth(groups=order, ranks=ranks, whole=wholes.get(index))

    view_moments(view, look)
    for place in range(view.block_count):
        for index in range(len(branches)):
            found.setdefault((place, index), Worth())
    return found


def _quadratic(scaled: Tensor, moment: Tensor) -> float:
    """``tr(G W C W') / 2``, with ``scaled`` (D, F) for ``G^1/2 W`` and ``moment`` (F, F) for C."""
    return float(((scaled @ moment) * scaled).sum() / 2)


def _heads_of(pairs: Units, group: int, columns: np.ndarray) -> np.ndarray:
    """The columns of every query head of a group, (heads, size)."""
    (places,) = pairs.columns.values()
    size = pairs.count // pairs.parts
    return places[group * size : (group + 1) * size].T


def branch_losses(view: ModelView, blocks: int, windows: int, phase: str) -> dict[Place, float]:
    """The rise of the loss without each branch of the first so many ``blocks``, nats per token.

    The mean over the first so many ``windows``; asked once of a view.
    """

    def measure() -> dict[Place, float]:
        places = [
            (block, index)
            for block in range(min(blocks, view.block_count))
            for index in range(len(branches_of(view.model)))
        ]
        return losses_without(view, view.model, places, view.windows[:windows], phase) if places else {}

    return view.once(("branches", blocks, windows), measure)


def unit_costs(
    view: ModelView,
    measured_blocks: int = 0,
    measured_windows: int | None = None,
    paired: bool = False,
) -> UnitCosts:
    """What all parts inside the blocks of the view's model are predicted to cost.

    Of the first ``measured_blocks`` blocks, the loss without each whole branch is measured too, on the first
    ``measured_windows`` windows, by default all. ``paired``: whole branches are predicted token by token too.
    Raises ``UnsupportedError`` for a model whose units are not
    known or have no score, ``ModelError`` for losses and gradients that are not finite, ``TextError``,
    ``OutOfMemoryError``.
    """
    start = time.perf_counter()
    worth, branches = unit_worth(view, paired), branches_of(view.model)
    curved = view_curvature(view, paired)
    count, length = view.windows.shape
    windows = min(count, measured_windows or count) if measured_blocks else 0
    rises = branch_losses(view, measured_blocks, windows, "Measuring branches") if windows else {}
    return UnitCosts(
        blocks=tuple(
            tuple(
                _in_numbers(
                    worth[block, index],
                    row=row,
                    kind=branch.kind,
                    measured=rises.get((block, index)),
                    paired=None if curved.changes is None else curved.changes[block][index],
                    massive=curved.massive[block][row],
                )
                for index, (row, branch) in enumerate(branches)
            )
            for block in range(view.block_count)
        ),
        windows=count,
        window_length=length,
        curvature_windows=min(CURVED, count),
        measured_windows=windows,
        seconds=time.perf_counter() - start,
    )


def _in_numbers(worth: Worth, **known: Any) -> BranchCosts:
    """What is known of a branch, without the matrices."""
    channels = groups = None
    if worth.channels:
        grain = max(1, len(worth.channels.units) // GRAIN)
        channels = _curve(len(worth.channels.units), grain, worth.channels.costs)
    if worth.groups:
        groups = _curve(len(worth.groups.units), 1, worth.groups.costs)
    return BranchCosts(
        channels=channels,
        kv_groups=groups,
        order=tuple(worth.groups.units.tolist()) if worth.groups else (),
        value_pairs=tuple(map(_of_ranks, worth.ranks)),
        whole=worth.whole,
        **known,
    )


def _curve(count: int, grain: int, costs: np.ndarray) -> UnitCurve:
    gone = range(grain, count, grain)
    return UnitCurve(count=count, gone=tuple(gone), costs=tuple(float(costs[each - 1]) for each in gone))


def _of_ranks(ranks: Ranks) -> UnitCurve:
    size = len(ranks.costs) - 1
    step = max(1, size // RANKS)
    kept = range(step, size, step)[::-1]
    return UnitCurve(
        count=size,
        gone=tuple(size - rank for rank in kept),
        costs=tuple(float(ranks.costs[rank]) for rank in kept),
    )
