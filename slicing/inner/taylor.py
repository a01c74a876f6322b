"""What the loss changes by when weights become zero, to first or second order, summed over the units they
belong to.

The loss is that of the text itself, in nats per token, whose gradient does not vanish. Gradients of the
weights are taken sub-layer by sub-layer, from the gradient that comes back to its output. Changes no weight.
Knows nothing about who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from analysis.anatomy import blocks
from analysis.curvature import Streams, gradients
from analysis.device import HOST, present, widen
from analysis.errors import ModelError
from analysis.late import nn, torch, transformers
from analysis.precision import in_calibration
from analysis.read_units import read_units
from analysis.sublayers import Sublayer, sublayers
from analysis.units import BranchUnits, Units
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["element-1", "element-2", "vector"]
"""``element-1``: ``|g w|`` of every weight. ``element-2``: ``|g w - h w² / 2|``, with h the diagonal of the
Fisher information, the mean over windows of ``g²``. ``vector``: ``|sum g w|`` of each weight matrix of the
unit."""


@dataclass(frozen=True)
class Salience:
    """What the weights of one branch count for, row by row and column by column, fp64 on the host.

    Signed in the form ``vector``.
    """

    rows: dict[str, Tensor]
    """By the name of a weight, bias or vector: one number for each of its output features."""
    columns: dict[str, Tensor]
    """By the name of a weight: one number for each of its input features."""
    signed: bool = False


def of_units(units: Units, salience: Salience) -> np.ndarray:
    """Sum over all weights that go with each unit, (units,); each matrix by itself in the form ``vector``."""
    total = torch.zeros(units.count, dtype=torch.float64)
    for places_by_name, sums in ((units.rows, salience.rows), (units.columns, salience.columns)):
        for name, places in places_by_name.items():
            if name in sums:  # what no gradient reaches, such as a router's correction, counts for nothing
                own = sums[name][torch.as_tensor(places)].sum(dim=1)
                total += own.abs() if salience.signed else own
    return total.numpy()


class _Weight(NamedTuple):
    """A parameter that goes with units, and where it stands."""

    branch: int
    name: str
    holder: nn.Module
    turned: bool
    """Whether it is stored as (in, out)."""

    @property
    def parameter(self) -> nn.Parameter:
        """As its module has it now: accelerate may bring it and take it away."""
        return getattr(self.holder, self.name.rpartition(".")[2])


def weight_salience(
    model: Any, windows: Tensor, form: Form = "element-1", progress: Progress = no_progress
) -> dict[tuple[int, int], Salience]:
    """Measure what the weights of every branch count for on ``windows`` (N, T), by block and branch.

    Holds one fp32 copy of the blocks' weights on the host meanwhile, two for ``element-2``. Raises
    ``ModelError`` where a gradient is not finite, ``TextError`` for windows that do not fit.
    """
    every = [
        list(_weights(rows, units)) for rows, units in zip(sublayers(model), read_units(model), strict=True)
    ]
    first: dict[tuple[int, int, str], Tensor] = {}
    second: dict[tuple[int, int, str], Tensor] = {}
    predicted = windows.shape[1] - 1

    def visit(block: int, row: int, streams: Streams, gradient: Tensor, context: dict[str, Any]) -> None:
        sublayer, weights = every[block][row]
        found = _of_parameters(sublayer, weights, streams[0], gradient, context)
        for each, its in zip(weights, found, strict=True):
            key = block, each.branch, each.name
            its = its.float().to(HOST) / predicted  # of the mean over the tokens of this window
            first[key] = first.get(key, 0.0) + its / len(windows)
            if form == "element-2":
                second[key] = second.get(key, 0.0) + its.square() / len(windows)

    gradients(model, windows, visit, "text", 0, progress)
    told: dict[tuple[int, int], Salience] = {}
    for block, rows in enumerate(every):
        with present(blocks(model)[block]):
            values = [
                (each, each.parameter.detach().float().to(HOST)) for _, weights in rows for each in weights
            ]
        for each, weight in values:
            key = block, each.branch, each.name
            change = first.pop(key) * weight
            if not change.isfinite().all():
                raise ModelError("A gradient is not finite: open the model in float32.")
            if form == "element-2":
                change = change - second.pop(key) * weight.square() / 2
            own = told.setdefault((block, each.branch), Salience({}, {}, signed=form == "vector"))
            _note(own, each, change if form == "vector" else change.abs())
    return told


def _weights(
    rows: list[Sublayer], units: tuple[BranchUnits, ...]
) -> Iterator[tuple[Sublayer, list[_Weight]]]:
    """Give the parameters of every sub-layer of a block that go with its units."""
    branch = 0
    for sublayer in rows:
        found: list[_Weight] = []
        for root in sublayer.roots:
            names = dict.fromkeys(
                name for each in units[branch].units for name in (*each.rows, *each.columns)
            )
            for name in names:
                path, _, last = name.rpartition(".")
                holder = root.get_submodule(path)
                if isinstance(getattr(holder, last), nn.Parameter):  # a router's correction is none
                    turned = isinstance(holder, transformers.pytorch_utils.Conv1D) and last == "weight"
                    found.append(_Weight(branch, name, holder, turned))
            branch += 1
        yield sublayer, found


def _of_parameters(
    sublayer: Sublayer, weights: list[_Weight], entering: Tensor, gradient: Tensor, context: dict[str, Any]
) -> tuple[Tensor, ...]:
    """The gradients of the parameters, from that at what the sub-layer adds to the stream."""
    parameters = [each.parameter for each in weights]
    if not parameters:
        return ()
    with torch.enable_grad(), _asked_for(parameters):
        with in_calibration(entering):
            added = sublayer.added(entering, context)
        return torch.autograd.grad(
            added, parameters, gradient.to(added.dtype), allow_unused=True, materialize_grads=True
        )


@contextmanager
def _asked_for(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Have gradients of these parameters taken inside the ``with``."""
    before = [each.requires_grad for each in parameters]
    try:
        for each in parameters:
            each.requires_grad_(True)
        yield
    finally:
        for each, asked in zip(parameters, before, strict=True):
            each.requires_grad_(asked)


def _note(salience: Salience, weight: _Weight, change: Tensor) -> None:
    """Sum what every entry of a parameter counts for, over its rows and over its columns."""
    change = widen(change, HOST)
    if weight.turned:
        change = change.T
    elif change.ndim < 2 or (change.ndim == 2 and len(change) == 1):  # a bias, or one number for every head
        change = change.reshape(-1, 1)
    rows, columns = change.sum(-1).flatten(), change.sum(-2).flatten()  # of a stack: expert by expert
    salience.rows[weight.name] = rows
    salience.columns[weight.name] = columns
