"""From redundancy to slice fractions: how much to cut where, at a given mean.

An allocation is a frozen value; calling it with a redundancy vector and a target gives one fraction per
block. Its fields draw the controls in the app and go into the run. Knows nothing about torch or models.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from analysis.errors import PlanError, unknown_name
from analysis.values import Value

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

    def check(self, target: float) -> None:
        """Raise ``PlanError`` when the settings make no sense at this target, whatever the scores."""
        check_fraction("target (SP)", target)

    @abstractmethod
    def raw(self, redundancy: np.ndarray) -> tuple[float, np.ndarray]:
        """The floor every block gets and the weights (L,) by which the rest is shared out."""

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
        floor, weights = self.raw(scores)
        return _share_out(floor, weights, target, max_fraction)


def check_fraction(what: str, value: float) -> None:
    """Raise ``PlanError`` unless ``value`` is a slice fraction in [0, 1)."""
    if not 0.0 <= value < 1.0:  # false for NaN too
        raise PlanError(
            f"The {what} must be a fraction of the width from 0 up to, but not including, 1; got {value:g}."
        )


ALLOCATIONS: dict[str, type[Allocation]] = {}


def allocation(cls: type[Allocation]) -> type[Allocation]:
    """Register an allocation: it then appears in the app, the command line and the tests."""
    if cls.name in ALLOCATIONS:
        raise ValueError(f"The allocation '{cls.name}' is registered twice.")
    ALLOCATIONS[cls.name] = cls
    return cls


def find_allocation(name: str) -> type[Allocation]:
    """The registered allocation of this name, or a ``PlanError`` that suggests the nearest."""
    if name not in ALLOCATIONS:
        raise PlanError(unknown_name("allocation", name, ALLOCATIONS))
    return ALLOCATIONS[name]


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
        spread = np.ptp(redundancy)
        # A spread within rounding of the values themselves says nothing about the blocks.
        if spread <= 1e-12 * max(1.0, float(np.abs(redundancy).max())):
            return self.base, np.ones_like(redundancy)
        return self.base, (redundancy - redundancy.min()) / spread


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
        share = missing / weights[free].sum() if weights[free].any() else 0.0
        values = np.where(capped, ceiling, floor + share * weights)
        over = free & (values > ceiling)
        if not over.any():
            break
        capped |= over
    else:
        values = np.full(weights.size, ceiling)
    if abs(values.mean() - target) > 1e-9:
        largest = math.floor(values.mean() * 1000 + 1e-6) / 1000  # rounded down, so that it can be asked for
        raise PlanError(
            f"A mean slice of {100 * target:g}% cannot be reached when no block may lose more than "
            f"{100 * ceiling:g}% (largest reachable here: {largest:.1%}): raise the largest fraction or the "
            "base, or lower the target."
        )
    return Fractions(values=tuple(values.tolist()), capped=tuple(capped.tolist()))
