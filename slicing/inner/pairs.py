"""What the queries and keys of an attention make of each rotary pair, on text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import blocks, core_of
from analysis.device import HOST, widen
from analysis.late import torch
from analysis.read_units import read_units
from analysis.units import Units
from slicing.inner.select import branches_of

if TYPE_CHECKING:
    from torch import Tensor

Energies = dict[str, "Tensor"]
"""By the name of a weight that queries or keys come from: the sum over tokens of the square of every output,
(F,) fp64."""


@contextmanager
def pair_energies(model: Any) -> Iterator[dict[tuple[int, int], Energies]]:
    """Add up, inside the ``with``, the squares of what the projections to queries and keys give.

    By block and branch, of those branches that have rotary pairs. Positions turn a pair, and its norm stays.
    """
    found: dict[tuple[int, int], Energies] = {}
    handles = []
    try:
        for place, (block, row) in enumerate(zip(blocks(model), read_units(model), strict=True)):
            for index, ((_, branch), units) in enumerate(zip(branches_of(model), row, strict=True)):
                for own in units.of("rotary_pairs"):
                    sums: Energies = {}
                    found[place, index] = sums
                    for name in _weights(own):
                        projection = core_of(block, branch).get_submodule(name.removesuffix(".weight"))
                        handles.append(projection.register_forward_hook(_adding(sums, name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _adding(sums: Energies, name: str) -> Callable[[Any, Any, Tensor], None]:
    def add(_: Any, __: Any, output: Tensor) -> None:
        squares = output.detach().to(torch.promote_types(output.dtype, torch.float32)).square()
        total = widen(squares.flatten(0, -2).sum(dim=0), HOST)
        sums[name] = sums[name] + total if name in sums else total

    return add


def _weights(units: Units) -> list[str]:
    """The names of the weights that queries and keys come from: two, or one that has both."""
    return [name for name in units.rows if name.endswith(".weight")]


def pair_scores(units: Units, energies: Energies) -> np.ndarray:
    """What every rotary pair adds to the attention scores at most, (pairs,): the product of two norms.

    ``sqrt(sum_h E|q_h|²) sqrt(E|k|²)``, with ``q_h`` the pair of a query head of the group and ``k`` that of
    its key: the score of the CR decomposition (Drineas, Kannan & Mahoney, 2006), as in MoDeGPT.
    """
    each = np.hstack([energies[name].numpy()[units.rows[name]] for name in _weights(units)])
    queries, key = each[:, :-2], each[:, -2:]  # a group has one key, whose two coordinates come last
    return np.sqrt(queries.sum(axis=1) * key.sum(axis=1))
