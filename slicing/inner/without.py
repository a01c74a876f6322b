"""Which sub-layer a model misses least: the loss without each, on a few windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import blocks
from analysis.device import on_device, present
from analysis.hooks import entering_states, returns_tuple
from analysis.probes import Replacement, damage
from analysis.sublayers import sublayers
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.cut import BranchCuts, cut_model
from slicing.inner.select import branches_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from slicing.view import ModelView

Place = tuple[int, int]
"""Block and branch. Where every sub-layer is one branch, that is the row of the sub-layer."""


def cuts_without(
    model: Any, gone: Sequence[Place], cuts: Sequence[Sequence[BranchCuts]] | None = None
) -> list[list[BranchCuts]]:
    """The cuts that take these sub-layers out, beside ``cuts`` of the others, by default none."""
    rows = [row for row, _ in branches_of(model)]
    whole: list[BranchCuts] = [() for _ in rows]
    return [
        [None if (block, row) in gone else cut for row, cut in zip(rows, own, strict=True)]
        for block, own in enumerate(cuts or [whole] * len(blocks(model)))
    ]


def least_missed(
    view: ModelView, cuts: Sequence[Sequence[BranchCuts]], among: Sequence[Place], windows: int
) -> Place:
    """The sub-layer ``among`` these without which the loss of the cut model rises least; of equals the first.

    The mean over the first so many ``windows``. What is in front of a sub-layer's block is computed once for
    all. Raises ``ModelError`` where a loss is not finite, ``OutOfMemoryError``.
    """
    model = reduce_blocks(view.model, Layout.whole(view.block_count), check=False)
    cut_model(model, cuts)
    rises = losses_without(view, model, among, view.windows[:windows])
    return min(sorted(among), key=lambda place: rises[place])


def losses_without(
    view: ModelView, model: Any, among: Sequence[Place], windows: Tensor, phase: str | None = None
) -> dict[Place, float]:
    """Rise of the mean loss of ``model`` on ``windows`` (N, T) without each branch, in nats per token.

    ``phase`` is what the progress is called.
    """
    indices = sorted({index for _, index in among})
    names = {str(index): _without(model, index) for index in indices}
    tried = {str(index): [block for block, its in among if its == index] for index in indices}
    phase = phase or f"Trying {len(among)} sub-layers"
    found = damage(model, windows, names, view.progress, phase, view.precision, tried)
    means: dict[str, np.ndarray] = {name: each.mean(axis=0) for name, each in found.items()}
    return {(block, index): float(means[str(index)][block]) for block, index in among}


def _without(model: Any, index: int) -> Replacement:
    """The replacement of a block by itself without one branch."""
    every, rows = sublayers(model), [row for row, _ in branches_of(model)]
    gone, place = rows[index], index - rows.index(rows[index])
    contexts: dict[torch.Size, list[dict[str, Any]]] = {}

    def replaced(block: int, entering: Tensor, tokens: Tensor) -> Tensor:
        if tokens.shape not in contexts:  # positions and masks depend on the batch's shape alone
            contexts[tokens.shape] = entering_states(model, tokens, returns_tuple(model, tokens[:1, :8]))[1]
        with present(blocks(model)[block]) as device:
            states, context = entering.to(device), on_device(contexts[tokens.shape][block], device)
            for row, sublayer in enumerate(every[block]):
                if row != gone or len(sublayer.cores) > 1:
                    states = states + sublayer.added(states, context, [place] if row == gone else ())
        return states

    return replaced
