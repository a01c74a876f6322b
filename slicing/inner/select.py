"""Scores of all units of a model, and the cuts that keep the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import anatomy_of, blocks
from analysis.curvature import Curvature, curvature
from analysis.errors import UnsupportedError
from analysis.families import Branch
from analysis.read_units import read_units
from analysis.sublayers import Sublayer, linear_maps, out_in, weights_at
from analysis.units import Kind, Units
from slicing.inner.cut import BranchCuts, UnitCut
from slicing.inner.moments import Asked, view_moments
from slicing.inner.scores import UnitSite, find_unit_score
from slicing.inner.slopes import Slopes, writer_slopes
from slicing.inner.taylor import Salience, weight_salience
from slicing.inner.widths import InnerWidths

if TYPE_CHECKING:
    from torch import Tensor

Scores = dict[tuple[int, int, Kind], np.ndarray]
"""By block, branch and kind: (units,), higher means worth more."""
CURVED = 8
"""Of the calibration windows, so many tell the curvature of the loss."""


def branches_of(model: Any) -> list[tuple[int, Branch]]:
    """The branches of a block in the order of the anatomy, each with the row of its sub-layer."""
    rows = anatomy_of(model.config).sublayers
    return [(row, branch) for row, branches in enumerate(rows) for branch in branches]


def view_curvature(view: Asked, changes: bool = False) -> Curvature:
    """The curvature of the view's model on the first ``CURVED`` windows, measured once.

    ``changes``: with what the branches make of it, token by token.
    """

    def measure() -> Curvature:
        return curvature(view.model, view.windows[:CURVED], 0, view.progress, changes)

    return view.once("curvature and changes" if changes else "curvature", measure)


def view_slopes(view: Asked) -> Slopes:
    """How steep the loss is in a factor on every column that writes, on the same windows, measured once."""
    return view.once("slopes", lambda: writer_slopes(view.model, view.windows[:CURVED], 0, view.progress))


def view_salience(view: Asked) -> dict[tuple[int, int], Salience]:
    """What the weights of every branch count for to first order, on the same windows, measured once."""
    return view.once(
        "salience", lambda: weight_salience(view.model, view.windows[:CURVED], progress=view.progress)
    )


def unit_scores(view: Asked, name: str, kinds: Sequence[Kind], relative: bool | None = None) -> Scores:
    """The score of this name of all units of these kinds, measured once, in one pass over the windows.

    ``relative``: whether what is read counts relative to the stream; by default as the score has it.
    """
    relative = find_unit_score(name).relative if relative is None else relative
    key = "unit scores", name, tuple(kinds), relative
    return view.once(key, lambda: _measured(view, name, kinds, relative))


def block_worth(view: Asked, name: str) -> np.ndarray:
    """What a column of every block's writers is worth on average, by a score of units, (L,).

    What is read counts relative to the stream, whose size differs from block to block. Raises
    ``UnsupportedError`` where a block has neither channels nor coordinates of values that can go.
    """
    kinds: tuple[Kind, ...] = ("channels", "value_pairs")
    found = unit_scores(view, name, kinds, relative=True)
    columns = {
        (place, index, kind): sum(each.size for each in units.columns.values())
        for place, block in enumerate(read_units(view.model))
        for index, branch in enumerate(block)
        for kind in kinds
        for units in branch.of(kind)[:1]
    }
    worth = []
    for place in range(len(blocks(view.model))):
        own = {key: scores for key, scores in found.items() if key[0] == place}
        if not own:
            raise UnsupportedError(
                f"Block {place} of a model of type '{view.model.config.model_type}' has no channels and no "
                f"values that can go, so that '{name}' tells nothing of it: choose another score."
            )
        worth.append(sum(float(each.sum()) for each in own.values()) / sum(columns[key] for key in own))
    return np.asarray(worth)


def _measured(view: Asked, name: str, kinds: Sequence[Kind], relative: bool) -> Scores:
    score, model, found = find_unit_score(name), view.model, {}
    units, branches = read_units(model), branches_of(model)
    curved = view_curvature(view) if "curvature" in score.asks else None
    slopes = view_slopes(view) if "slopes" in score.asks else None
    salience = view_salience(view) if "gradients" in score.asks else None

    def look(place: int, row: int, sublayer: Sublayer, moments: list[Tensor]) -> None:
        for index, writer, own in sites(units[place], branches, row, sublayer, kinds):
            site = UnitSite(
                own,
                out_in(sublayer.writers[writer]),
                moments[writer],
                None if curved is None else curved.moments[place][row],
                None if slopes is None else slopes[place][row][writer],
                None if salience is None else salience[place, index],
                (place, index),
            )
            found[place, index, own.kind] = score.score(site)

    view_moments(view, look, relative)
    return found


def sites(
    units: Sequence[Any],
    branches: Sequence[tuple[int, Branch]],
    row: int,
    sublayer: Sublayer,
    kinds: Sequence[Kind],
) -> Iterator[tuple[int, int, Units]]:
    """The units of ``kinds`` in one sub-layer: (branch of the block, place among its writers, units)."""
    pairs = zip(sublayer.cores, sublayer.branches, strict=True)
    names = [n for core, branch in pairs for n in branch.writers for _ in linear_maps(core, (n,))]
    for index, (own_row, branch) in enumerate(branches):
        if own_row != row:
            continue
        for kind in kinds:
            for each in units[index].of(kind)[:1]:
                (name,) = each.columns
                writer = name.removesuffix(".weight")
                places = [at for at, known in enumerate(names) if known == writer and known in branch.writers]
                if not places:
                    raise UnsupportedError(
                        f"'{name}' is a stack of experts, whose {kind.replace('_', ' ')} slicescope does not "
                        "score yet: choose a method that removes blocks or slices."
                    )
                yield index, places[0], each


def only_writers(branches: Sequence[tuple[int, Branch]], row: int, sublayer: Sublayer) -> dict[int, int]:
    """The place of a branch's writer among those of its sub-layer, by branch, where it has one alone.

    A branch that also writes by a stack of experts, or by a second map, is left out.
    """
    found: dict[int, int] = {}
    start = 0
    own = [index for index, (own_row, _) in enumerate(branches) if own_row == row]
    for index, core, branch in zip(own, sublayer.cores, sublayer.branches, strict=True):
        maps = len(list(linear_maps(core, branch.writers)))
        if maps == len(list(weights_at(core, branch.writers))) == 1:
            found[index] = start
        start += maps
    return found


def best_units(model: Any, widths: InnerWidths, scores: Scores) -> list[list[BranchCuts]]:
    """The cuts to ``widths`` that keep the units of the highest scores, in every part equally many."""
    units, branches = read_units(model), branches_of(model)
    cuts: list[list[BranchCuts]] = []
    for place, block in enumerate(widths.blocks):
        own: list[BranchCuts] = []
        for index, (row, _) in enumerate(branches):
            if block[row].gone:
                own.append(None)
                continue
            kinds: list[Kind] = [kind for kind in block[row].kept if units[place][index].of(kind)]
            own.append(
                [
                    UnitCut(kind, best(scores[place, index, kind], block[row].kept[kind], found.parts))
                    for kind in kinds
                    for found in units[place][index].of(kind)[:1]
                ]
            )
        cuts.append(own)
    return cuts


def best(scores: np.ndarray, count: int, parts: int = 1) -> np.ndarray:
    """The places of the ``count`` highest scores of every part, in order; of equals the first stay."""
    by_part = scores.reshape(parts, -1)
    order = np.argsort(-by_part, axis=1, kind="stable")[:, :count]
    starts = np.arange(parts)[:, None] * by_part.shape[1]
    return np.sort((order + starts).ravel())
