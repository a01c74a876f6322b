"""From redundancy to slice fractions: how much to cut where, at a given mean.

An allocation is a frozen value; calling it with a redundancy vector and a target gives one fraction per
block. Its fields draw the controls in the app and go into the run. Knows nothing about torch or models.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import numpy as np
from pydantic import Field

from analysis.errors import PlanError
from analysis.numbers import Seed
from analysis.values import Value
from slicing.registry import Registry

MAX_FRACTION = 0.9
"""The largest share of the width that is cut from any block unless the user says otherwise."""


class Fractions(Value):
    """Slice fractions of all blocks, with what bounded them."""

    values: tuple[float, ...]
    capped: tuple[bool, ...]
    """Whether the upper bound holds this block back."""

    @property
    def mean(self) -> float:
        """The mean slice fraction."""
        return float(np.mean(self.values))


class Allocation(Value):
    """A rule that gives each block its slice fraction. Subclasses are listed in ``ALLOCATIONS``."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    uses_scores: ClassVar[bool] = True
    """Whether the redundancy vector decides, or only how long it is."""
    control: ClassVar[bool] = False
    """Whether it is there to be beaten: what gains no more than this has found nothing."""
    made: ClassVar[bool] = False
    """Whether its settings are measured or searched for, on a model, rather than chosen."""
    cite: ClassVar[str] = ""
    """A key of ``app.citations.ENTRIES``, or a BibTeX entry of its own."""

    @classmethod
    def is_share(cls, name: str) -> bool:
        """Tell whether a setting is a share of the width, in percent, not a number with its own bounds."""
        field = cls.model_fields[name]
        return field.annotation is float and not any(
            hasattr(bound, which) for bound in field.metadata for which in ("ge", "gt")
        )

    @classmethod
    def abbreviation(cls, name: str) -> str:
        """``SB`` of ``Slice base (SB)``; a setting without an abbreviation has its title, within a line."""
        full = cls.model_fields[name].title or name
        return full.rpartition("(")[2].rstrip(")") if "(" in full else full.lower()

    def check(self, target: float) -> None:
        """Raise ``PlanError`` when the settings make no sense at this target, whatever the scores."""
        check_fraction("target (SP)", target)

    @abstractmethod
    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """The floor every block gets and the weights (L,) by which the rest is shared out."""

    @property
    def uniform(self) -> bool:
        """Whether all blocks lose the same, whatever the scores."""
        if self.made:
            return False
        count = len(getattr(self, "shares", ())) or 2
        _, weights = self.raw(np.linspace(0.0, 1.0, count))
        return bool(np.ptp(weights) == 0.0)

    def share(self, redundancy: np.ndarray, target: float, ceiling: float) -> Fractions:
        """Fractions whose mean is ``target``, none above ``ceiling``, of what was checked."""
        return _share_out(*self.raw(redundancy), target, ceiling)

    def __call__(
        self, redundancy: Sequence[float], target: float, max_fraction: float = MAX_FRACTION
    ) -> Fractions:
        """Fractions whose mean is ``target``, none above ``max_fraction``.

        ``redundancy`` (L,): larger means more redundant, hence cut more. Raises ``PlanError`` when the
        numbers make no sense or the bound makes the target unreachable.
        """
        scores = np.asarray(redundancy, dtype=np.float64)
        if scores.ndim != 1 or not scores.size:
            raise PlanError("An allocation needs one redundancy value per block, but got none.")
        if not np.isfinite(scores).all():
            raise PlanError(
                f"Block {int(np.argmin(np.isfinite(scores)))} has a redundancy that is not a number; "
                "profile the model again, in a wider dtype if it overflowed."
            )
        self.check(target)
        if not 0.0 < max_fraction < 1.0:
            raise PlanError(f"The largest fraction must lie between 0 and 1, but is {max_fraction:g}.")
        return self.share(scores, target, max_fraction)


def check_fraction(what: str, value: float) -> None:
    """Raise ``PlanError`` unless ``value`` is a slice fraction in [0, 1)."""
    if not 0.0 <= value < 1.0:  # false for NaN too
        raise PlanError(
            f"The {what} must be a fraction of the width from 0 up to, but not including, 1; got {value:g}."
        )


AllocationType = TypeVar("AllocationType", bound=Allocation)
ALLOCATIONS: Registry[type[Allocation]] = Registry("allocation")
find_allocation = ALLOCATIONS.find


def allocation(cls: type[AllocationType]) -> type[AllocationType]:
    """Register an allocation: it then appears in the app, the command line and the tests."""
    ALLOCATIONS.put(cls.name, cls)
    return cls


@allocation
class Constant(Allocation):
    """The same fraction everywhere: SliceGPT (Ashkboos et al., 2401.15024)."""

    name = "constant"
    title = "Constant (SliceGPT)"
    source = "Ashkboos et al., SliceGPT, ICLR 2024"
    uses_scores = False

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """No floor, equal weights."""
        return 0.0, np.ones_like(redundancy)


@allocation
class Dynamic(Allocation):
    """The paper's rule: FS_l = SB + (SP - SB) r_l / mean(r), with r the redundancy scaled to [0, 1].

    SP is the target, SB the base. Equal scores give constant slicing, and so does SB = SP. The published
    rule has no upper bound; here what a bound takes from one block goes to the others in proportion to r,
    so that the mean stays exact.
    """

    name = "dynamic"
    title = "Dynamic (LR rule)"
    source = "Dumitru et al., Change Is the Only Constant, Findings of EMNLP 2024"
    cite = "dumitru2024change"

    base: float = Field(default=0.1, title="Slice base (SB)", allow_inf_nan=True)
    """SB: the fraction that every block loses."""

    def check(self, target: float) -> None:
        """The base, too, is a fraction, and may not exceed the target."""
        super().check(target)
        check_fraction("base (SB)", self.base)
        if self.base > target:
            raise PlanError(
                f"The base (SB) is {self.base:g}, but may not exceed the target (SP) of {target:g}: "
                "lower the base or raise the target."
            )

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """The base for all; the rest in proportion to the scaled redundancy."""
        return self.base, _unit(redundancy)


@allocation
class Manual(Allocation):
    """What a person asks for, block by block, scaled so that the mean is the target."""

    name = "manual"
    title = "Manual"
    source = "your own"
    uses_scores = False

    shares: tuple[float, ...] = Field(default=(), title="Share of every block")
    """One per block; only their proportions count. None at all are alike."""

    def check(self, target: float) -> None:
        """Every share is a fraction, and a target above zero needs one."""
        super().check(target)
        for block, share in enumerate(self.shares):
            check_fraction(f"share of block {block}", share)
        if target > 0 and self.shares and not any(self.shares):
            raise PlanError(
                f"All shares are 0, which no scaling brings to a target of {target:g}: give a block a share."
            )

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """No floor; the shares are the weights, whatever the scores."""
        if not self.shares:
            return 0.0, np.ones_like(redundancy)
        if len(self.shares) != redundancy.size:
            raise PlanError(
                f"{len(self.shares)} shares were given, but the model has {redundancy.size} blocks: give one "
                "for each."
            )
        return 0.0, np.asarray(self.shares)


@allocation
class Softmax(Allocation):
    """Fractions in proportion to ``exp(redundancy / T)``: MoDeGPT (Lin et al., 2408.09632, equations 10, 11).

    The optimum of the total redundancy that is cut, with an entropy that keeps the cut spread out; a higher
    temperature T spreads it more. Published for block influence, T = 0.015, on widths inside of modules.
    """

    name = "softmax"
    title = "Softmax (MoDeGPT)"
    source = "Lin et al., MoDeGPT, ICLR 2025"
    cite = "lin2025modegpt"

    temperature: float = Field(default=0.05, gt=0.0, title="Temperature")

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """No floor, exponential weights."""
        return 0.0, np.exp((redundancy - redundancy.max()) / self.temperature)


@allocation
class Band(Allocation):
    """Fractions in a band around the target: ``eta (1 - s + 2 s r)``, r the redundancy scaled to [0, 1].

    AlphaPruning's mapping (Lu et al., 2410.10912, section 4) with s = 0.3 by default.
    """

    name = "band"
    title = "Band (AlphaPruning)"
    source = "Lu et al., AlphaPruning, NeurIPS 2024"
    cite = "lu2024alphapruning"

    spread: float = Field(default=0.3, ge=0.0, le=1.0, title="Half width of the band")

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """No floor; weights between 1 - s and 1 + s."""
        return 0.0, 1.0 - self.spread + 2.0 * self.spread * _unit(redundancy)


@allocation
class Rising(Allocation):
    """An arithmetic progression over depth: ATP (Huang et al., 2502.14770, equation 9), whatever the scores.

    ``target (1 + slope (2 l / (L - 1) - 1))``. In ATP's letters beta = 2 target slope / (L - 1), so that
    slope = 1, where the first block loses nothing, is the steepest that is legal below a target of one half.
    """

    name = "rising"
    title = "Rising with depth (ATP)"
    source = "Huang et al., Determining Layer-wise Sparsity, ICML 2025"
    cite = "huang2025determining"
    uses_scores = False

    slope: float = Field(default=0.5, ge=0.0, le=1.0, title="Slope")
    _direction: ClassVar[float] = 1.0

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """No floor; weights on a line."""
        return 0.0, 1.0 + self._direction * self.slope * np.linspace(-1.0, 1.0, redundancy.size)


@allocation
class Falling(Rising):
    """The mirror image of the rising progression: a control."""

    name = "falling"
    title = "Falling with depth"
    source = "a control"
    cite = ""
    control = True

    _direction: ClassVar[float] = -1.0


@allocation
class Inverted(Dynamic):
    """The paper's rule with the scores turned round, so that what it would spare is cut: a control."""

    name = "inverted"
    title = "Inverted LR rule"
    source = "a control"
    cite = ""
    control = True

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """As the paper's rule, of the opposite."""
        return super().raw(-redundancy)


@allocation
class Random(Allocation):
    """The paper's rule with base 0 on scores that are drawn at random: the control of controls."""

    name = "random"
    title = "Random"
    source = "a control"
    control = True
    uses_scores = False

    draw: Seed = Field(default=0, ge=0, title="Draw")

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """No floor; uniform weights."""
        return 0.0, np.random.default_rng(self.draw).uniform(size=redundancy.size)


@allocation
class WaterFilling(Allocation):
    """The least total damage by curves that were measured for each block alone, as if damages added up.

    Every curve runs through (0, 0) and the points (``at``, its row of ``damage``), straight between them
    and beyond, after its lower convex hull; the cut goes where the next piece hurts least. That damages do
    not add up is what the contest shows about it. The bench measures the curves of the plan's score.
    """

    name = "water-filling"
    title = "Water-filling"
    source = "the textbook's, on measured curves"
    made = True

    at: tuple[float, ...] = Field(default=(), title="Fractions measured")
    """(K,), rising."""
    damage: tuple[float, ...] = Field(default=(), title="Damage at each")
    """(L x K,), block by block."""

    def check(self, target: float) -> None:
        """The fractions rise, and every block has a value for each."""
        super().check(target)
        for fraction in self.at:
            check_fraction("fraction of a curve", fraction)
        rising = all(low < high for low, high in zip((0.0, *self.at), self.at, strict=False))
        if not rising or bool(self.at) != bool(self.damage):
            raise PlanError(
                "The curves of water-filling need fractions that rise from above 0, with a damage at each, "
                f"but got the fractions {list(self.at)}."
            )

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """Not a matter of a floor and weights: see ``share``."""
        raise AssertionError("share does not ask for it")

    def share(self, redundancy: np.ndarray, target: float, ceiling: float) -> Fractions:
        """Piece by piece of all curves, the one that hurts least first."""
        if not self.at:
            raise PlanError(
                "Water-filling has no curves yet: compare it or let it run in a contest, which measures them."
            )
        if len(self.damage) != redundancy.size * len(self.at):
            raise PlanError(
                f"The curves hold {len(self.damage)} damages, but {redundancy.size} blocks at "
                f"{len(self.at)} fractions need {redundancy.size * len(self.at)}: measure them again."
            )
        rows = np.asarray(self.damage).reshape(redundancy.size, -1)
        pieces = [
            (slope, block, length)
            for block, row in enumerate(rows)
            for slope, length in _convex_pieces(self.at, row, ceiling)
        ]
        values = np.zeros(redundancy.size)
        left = target * redundancy.size
        for _, block, length in sorted(pieces):
            step = min(length, left)
            values[block] += step
            left -= step
        _require_mean(values, target, ceiling)
        return Fractions(values=tuple(values.tolist()), capped=tuple((values > ceiling - 1e-9).tolist()))


@allocation
class Searched(Manual):
    """Shares that a search found, by the measured loss of previews under a budget of parameters.

    The bench searches where there are none (``slicing.search``), on calibration windows of the search's own.
    """

    name = "searched"
    title = "Searched"
    source = "slicescope: coordinate search with previews"
    made = True

    rounds: int = Field(default=2, ge=1, title="Rounds of the search")
    """Each asks for the loss once per block and a few times more."""
    draw: Seed = Field(default=0, ge=0, title="Seed of its calibration")

    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """The shares that were found."""
        if not self.shares:
            raise PlanError(
                "Nothing has been searched yet: compare this allocation or let it run in a contest, which "
                "searches first."
            )
        return super().raw(redundancy)


def _convex_pieces(at: Sequence[float], row: np.ndarray, ceiling: float) -> list[tuple[float, float]]:
    """(slope, length) of the pieces of a curve's lower convex hull from 0 to ``ceiling``."""
    hull: list[tuple[float, float]] = [(0.0, 0.0)]
    for x, y in zip(at, row.tolist(), strict=True):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-1][0]) >= (y - hull[-1][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    pieces = [((y1 - y0) / (x1 - x0), x0, x1) for (x0, y0), (x1, y1) in itertools.pairwise(hull)]
    pieces[-1] = (*pieces[-1][:2], 1.0)  # its last piece goes on
    return [(slope, min(x1, ceiling) - x0) for slope, x0, x1 in pieces if x0 < ceiling]


def _unit(values: np.ndarray) -> np.ndarray:
    """Scaled to [0, 1]; all 1 where the spread is within rounding, which says nothing about the blocks."""
    spread = np.ptp(values)
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return np.ones_like(values)
    return (values - values.min()) / spread


_FAINT = 1e-280
"""Weights below this are scaled first: what is shared out is divided by their sum, which would overflow."""


def _share_out(floor: float, weights: np.ndarray, target: float, ceiling: float) -> Fractions:
    """``min(floor + c * weights, ceiling)`` with the c that makes the mean the target.

    Giving what a capped block cannot take to the others in proportion to their weights, again and again
    (water-filling), ends in this form, so the capped set is grown until it no longer changes.
    """
    total = target * weights.size
    capped = np.full(weights.size, floor > ceiling)
    while not capped.all():
        free = ~capped
        missing = total - ceiling * capped.sum() - floor * free.sum()
        if 0.0 < (largest := weights[free].max()) < _FAINT:
            weights = np.where(free, weights, 0.0) / largest
        share = missing / weights[free].sum() if weights[free].any() else 0.0
        values = np.where(capped, ceiling, floor + share * weights)
        over = free & (values > ceiling)
        if not over.any():
            break
        capped |= over
    else:
        values = np.full(weights.size, ceiling)
    _require_mean(values, target, ceiling)
    return Fractions(values=tuple(values.tolist()), capped=tuple(capped.tolist()))


def _require_mean(values: np.ndarray, target: float, ceiling: float) -> None:
    if abs(values.mean() - target) > 1e-9:
        largest = math.floor(values.mean() * 1000 + 1e-6) / 1000  # rounded down, so that it can be asked for
        raise PlanError(
            f"A mean slice of {100 * target:g}% cannot be reached when no block may lose more than "
            f"{100 * ceiling:g}% (largest reachable here: {largest:.1%}): raise the largest fraction or the "
            "base, or lower the target."
        )
