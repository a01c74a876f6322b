"""Writer repair: what a sub-layer writes, and its shortcut, fitted anew so that the sliced stream follows the
dense one.

Slicing turns writers into the new basis as they are, whatever error they inherit. Here the writers of a
sub-layer and its shortcut, together, become the ridge regression from what they read to the dense stream in
the kept basis. The shapes stay, nothing is trained, and one Gram matrix per sub-layer is all it takes. Knows
nothing about how bases are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from analysis.bases import Covariance
from analysis.device import widen
from analysis.errors import PlanError, UnsupportedError
from analysis.families import Branch
from analysis.late import nn, no_grad, torch
from analysis.products import pays, summed
from analysis.shape import ModelShape
from analysis.values import Value
from slicing.late import modeling_sliced

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.modeling_sliced import SlicedSublayer

RIDGES = (0.1, 0.3, 1.0, 3.0)
"""Strengths that are tried, relative to each feature's own energy; the held-out tokens choose."""
TRIED_FIRST, FEW = 1.0, 4
"""The strength from which the best one is looked for, and so many that all are tried. On the demo model half
of the fits end there."""
HELD_OUT = 8
"""One window of so many is held out of the fits."""


class SublayerRepair(Value):
    """How far one sub-layer misses the dense stream, as a share of its energy, on held-out tokens."""

    ridge: float | None
    """The strength that did best, 0 where it was trained instead, or ``None`` where nothing was gained."""
    before: float
    after: float


class Repair(Value):
    """What repair did, and whether it was kept: judged by the loss on the held-out windows."""

    sublayers: tuple[SublayerRepair, ...]
    windows: int
    """Held out of the fits, of the calibration windows."""
    unrepaired: float
    """Loss of the model sliced without repair on the held-out windows, nats per token."""
    repaired: float

    @property
    def kept(self) -> bool:
        """Tell whether the repaired model is the one that was kept; where it is not better, it is not."""
        return self.repaired < self.unrepaired


def held_out(windows: int) -> int:
    """Count the calibration windows that are held out (``PlanError`` below two windows)."""
    if windows < 2:
        raise PlanError(
            "Repair holds a window out to judge itself by, but there is only one calibration window: "
            "use 2 or more."
        )
    return max(1, windows // HELD_OUT)


def features(shape: ModelShape) -> int:
    """Count the features of a token in the largest fit: stream, inputs of the writers, and a bias."""
    return shape.hidden_size + max(each.writer_columns + (each.writer_bias > 0) for each in shape.sublayers)


class RidgeFit:
    """A linear map from features (F,) of a token to its target (D,), by the normal equations.

    Each token is weighted by the inverse RMS of its target: the massive first token would otherwise own the
    fit. Some tokens do not join the fit and choose the strength of the ridge.
    """

    def __init__(self, width: int, ridges: tuple[float, ...] = (), turned: bool = False) -> None:
        """``width``: D, of the target; ``ridges``: the strengths that may be taken, ascending, by default
        ``RIDGES``; ``turned``: whether ``solve`` will take the target in a basis.
        """
        self.width, self.ridges, self.turned = width, ridges or RIDGES, turned
        self.fitted: Covariance | None = None
        self.judged: Covariance | None = None

    def add(self, features: Tensor, target: Tensor, held: int, like: Tensor | None = None) -> None:
        """Add a batch, (B, T, F) and (B, T, D); the last ``held`` of its windows do not join the fit.

        Tokens are weighted by ``like`` (B, T, D) instead of the target, where that is only a part of it.
        """
        rows = torch.cat([features, target.to(features)], dim=-1)
        rows = rows * token_weights(target if like is None else like).to(features)
        split = len(rows) - held
        if self.fitted is None or self.judged is None:
            # Of the target only the energy is needed, of those that judge and in the basis.
            self.fitted = Covariance(rows.shape[-1], rows.device, self.width)
            self.judged = Covariance(rows.shape[-1], rows.device, 0 if self.turned else self.width)
        for total, part in ((self.fitted, rows[:split]), (self.judged, rows[split:])):
            if len(part):
                total.add(part)

    def solve(
        self, there: Tensor, basis: Tensor | None = None, free: slice = slice(None)
    ) -> tuple[Tensor, SublayerRepair]:
        """Fit the map (F, W), fp64, from the one that is ``there``, whose rows outside ``free`` stay.

        The target is taken in ``basis`` (D, W), where there is one. Among the ridges, all of which pull
        towards what is there, the one with the least error on the held-out tokens is taken, and none where
        that is not less than without. ``lowest`` looks for it. Errors are compared in fp32, and the map is
        then solved in fp64.

        A wide fit is solved in fp32 on a GPU. Every feature is divided by the root of what a ridge of 1 adds
        to its energy, so that a ridge is the same number for all of them, and keeps rounding small.
        """
        assert basis is None or self.turned, "moments of the target were not summed up"
        total, other = self.fitted, self.judged
        assert total is not None
        assert other is not None
        self.fitted = self.judged = None  # each is as large as all that follows, and is freed once it is read
        device, features = total.device, len(total.upper) - self.width
        dtype = torch.float32 if pays(device, features) else torch.float64
        moment = total.moment()
        del total
        root = ridge_scale(moment[:features, :features]).sqrt().unsqueeze(1)
        equations = _Equations(moment, basis, root, dtype)
        del moment
        moment = other.moment()
        del other
        judge = _Equations(moment, basis, root, dtype)
        energy = _energy(moment[features:, features:], basis, dtype)
        del moment
        there = root * widen(there, device)
        missing, wrong = equations.missing(there)[free], judge.missing(there)
        # |F maps - Y|² / |Y|², from the products alone.
        before = max(0.0, energy - float((there * (judge.cross + wrong)).sum())) / energy
        wrong, curvature = wrong[free], judge.gram[free, free].to(torch.float32)
        del judge
        gram = equations.gram[free, free]
        del equations
        rough, goal = gram.to(torch.float32), missing.to(torch.float32)

        def error(strength: float) -> float:
            change = _solved(rough, goal, strength)
            curved = summed(curvature, change)
            return max(0.0, before + float((change * (curved - 2 * wrong)).sum()) / energy)

        strength, after = lowest(self.ridges, error, before)
        if after >= before:
            return there / root, SublayerRepair(ridge=None, before=before, after=before)
        there[free] += _solved(gram, missing.to(dtype), strength)
        return there / root, SublayerRepair(ridge=strength, before=before, after=after)


def lowest(strengths: Sequence[float], error: Callable[[float], float], before: float) -> tuple[float, float]:
    """Find the strength of least error, and that error, where the error falls and then rises.

    ``strengths`` ascend. It goes downhill from the one that is nearest to ``TRIED_FIRST``. Where it ends at
    no less than the error ``before`` there was a fit, the curve is too flat to go by, and all are tried; so
    are ``FEW``, since two of 100 curves of tiny models have a hill.
    """
    place = min(range(len(strengths)), key=lambda each: abs(strengths[each] - TRIED_FIRST))
    found = {place: error(strengths[place])}
    for way in (1, -1):
        start = place
        while 0 <= place + way < len(strengths):
            found[place + way] = error(strengths[place + way])
            if found[place + way] >= found[place]:
                break
            place += way
        if place != start:
            break
    if found[place] >= before or len(strengths) <= FEW:
        found |= {each: error(strengths[each]) for each in range(len(strengths)) if each not in found}
    least = min(sorted(found), key=found.__getitem__)
    return strengths[least], found[least]


def _solved(gram: Tensor, missing: Tensor, strength: float) -> Tensor:
    """Solve the equations (F, F) with a ridge for what is ``missing``, (F, W)."""
    factor = gram.clone()
    factor.diagonal().add_(strength)
    return torch.cholesky_solve(missing, torch.linalg.cholesky(factor))


class _Equations:
    """The normal equations of some tokens, with every feature divided by its ``root`` (F, 1)."""

    def __init__(self, moment: Tensor, basis: Tensor | None, root: Tensor, dtype: torch.dtype) -> None:
        """``moment``: that of features and target together, (F + D, F + D), fp64."""
        features = len(root)
        cross = moment[:features, features:] / root
        self.gram = (moment[:features, :features] / root).div_(root.T).to(dtype)
        """FᵀF, (F, F)."""
        self.cross = cross if basis is None else _product(cross, basis, dtype)
        """FᵀY, (F, W), fp64, with Y the target in the basis."""

    def missing(self, maps: Tensor) -> Tensor:
        """Subtract FᵀF ``maps`` (F, W) from FᵀY, fp64: the residual of the equations."""
        return self.cross - summed(self.gram, maps.to(self.gram))


def _energy(own: Tensor, basis: Tensor | None, dtype: torch.dtype) -> float:
    """|Y|², from the moment of the target (D, D)."""
    if basis is None:
        return float(own.trace())
    return float((widen(basis, own.device) * _product(own, basis, dtype)).sum())


def _product(first: Tensor, basis: Tensor, dtype: torch.dtype) -> Tensor:
    return summed(first.to(dtype), widen(basis, first.device).to(dtype))


class WriterFit:
    """The fit of one sub-layer's writers.

    Features of a token are the stream it finds, what its writers read, and 1 where a writer has a bias; the
    target is the dense stream after the sub-layer.
    """

    def __init__(self, sublayer: SlicedSublayer, branches: tuple[Branch, ...], width: int) -> None:
        """``width``: D, of the dense stream."""
        self.sublayer = sublayer
        self.writers = list(_writers(sublayer, branches))
        self.biased = [writer for writer in self.writers if writer.bias is not None]
        self.read: list[Tensor] = []
        self.kept: list[list[Tensor]] = []
        """Holds what they have read of every batch, where it is kept."""
        self.fit = RidgeFit(width, turned=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the writers read inside the ``with``, in their order."""
        self.read = [torch.empty(0)] * len(self.writers)

        def noting(place: int) -> Callable[[Any, tuple[Tensor, ...]], None]:
            def note(_: Any, args: tuple[Tensor, ...]) -> None:
                self.read[place] = args[0]

            return note

        handles = [
            writer.register_forward_pre_hook(noting(place)) for place, writer in enumerate(self.writers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add(
        self, entering: Tensor, target: Tensor, held: int, keep: Callable[[int], bool] = lambda size: False
    ) -> None:
        """Add a batch: the stream found (B, T, W), the dense stream after (B, T, D); the last ``held`` of
        its windows do not join the fit.

        ``keep`` tells whether so many bytes, which the writers have read of it, are kept for ``written``.
        """
        parts = [entering, *(each.to(entering) for each in self.read)]
        if self.biased:
            parts.append(torch.ones_like(entering[..., :1]))
        self.fit.add(torch.cat(parts, dim=-1), target, held)
        self.kept.append(self.read if keep(sum(each.nbytes for each in self.read)) else [])
        self.read = []

    def written(self, index: int) -> Tensor | None:
        """Give what the writers write of a batch now, (B, T, W'), once; ``None`` where it was not kept."""
        read, self.kept[index] = self.kept[index], []
        parts = [writer(each) for writer, each in zip(self.writers, read, strict=False)]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0] if parts else None

    @no_grad
    def apply(self, basis: Tensor) -> SublayerRepair:
        """Write the fit into the sub-layer, which holds what slicing alone gives; ``basis`` is (D, W').

        Without a shortcut the stream passes as it is, and the writers alone are fitted.
        """
        free = slice(0 if self.sublayer.shortcut is not None else self.sublayer.entering, None)
        found, told = self.fit.solve(self._maps(), basis, free)
        if told.ridge is not None:
            self._set(found)
        return told

    def _maps(self) -> Tensor:
        """What takes the features to the stream written, (F, W')."""
        like = self.writers[0].weight
        stream = torch.eye(self.sublayer.entering, dtype=like.dtype, device=like.device)
        parts = [self.sublayer.carried(stream), *(writer.weight.T for writer in self.writers)]
        if self.biased:
            total: Any = sum(writer.bias for writer in self.biased)
            parts.append(total.unsqueeze(0))
        return torch.cat(parts)

    def _set(self, maps: Tensor) -> None:
        maps = maps.to(self.writers[0].weight)
        if self.biased:  # several biases are one: the first takes up the change
            others: Any = sum(writer.bias for writer in self.biased[1:])
            self.biased[0].bias = _parameter(maps[-1] - others)
            maps = maps[:-1]
        shortcut, *weights = maps.split(
            [self.sublayer.entering, *(writer.in_features for writer in self.writers)]
        )
        if self.sublayer.shortcut is not None:
            self.sublayer.shortcut = _parameter(shortcut)
        for writer, weight in zip(self.writers, weights, strict=True):
            writer.weight = _parameter(weight.T)


def token_weights(target: Tensor) -> Tensor:
    """The inverse RMS of every token of ``target`` (B, T, D), as (B, T, 1)."""
    return target.square().mean(dim=-1, keepdim=True).clamp_min(1e-12).rsqrt()


def ridge_scale(gram: Tensor) -> Tensor:
    """Give what a ridge of strength 1 adds for every feature, (F,): its energy, or a little without one."""
    energies = gram.diagonal()
    return energies.clamp_min(1e-9 * float(energies.max()))


def _writers(sublayer: SlicedSublayer, branches: tuple[Branch, ...]) -> Iterator[nn.Linear]:
    for core, branch in zip(sublayer.cores, branches, strict=True):
        for name, holder, _ in modeling_sliced.parameters_named(core, branch.writers):
            if not isinstance(holder, nn.Linear):
                raise UnsupportedError(
                    f"Repair fits writers that are plain linear maps, and '{name}' is one for every expert: "
                    "slice this model without repair."
                )
            yield holder


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)
