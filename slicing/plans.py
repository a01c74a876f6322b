"""The user's choices about how much to cut where, and the schedules they lead to.

Knows nothing about torch: a plan answers while a slider moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from analysis.device import is_cuda
from analysis.errors import PlanError, unknown_name
from analysis.shape import ModelShape
from analysis.values import Value
from slicing.allocation import MAX_FRACTION, Allocation, Constant, Fractions, find_allocation
from slicing.budget import Budget
from slicing.schedule import EmbeddingForm, SlicingSchedule, without_middle


def read_earlier_slicing(data: Any) -> Any:
    """Read what slicescope 0.1 wrote of a plan, where a field has another name now."""
    plain = without_middle(data, "middle")
    if isinstance(plain, dict) and "span" in plain:
        plain = {**plain, "blocks_per_basis": plain["span"]}
        del plain["span"]
    return plain


ROUNDING, ROUNDING_ON_CUDA = 8, 64
"""Multiples that widths are rounded to where none is chosen. Products on a GPU work in tiles of 64."""


def usual_rounding(device: str) -> int:
    """Tell the rounding of a plan for a device, by its name, where none was chosen."""
    return ROUNDING_ON_CUDA if is_cuda(device) else ROUNDING


def take_settings(kind: type[Slicing], data: Any) -> Any:
    """Read the settings of an allocation that stand beside the fields of a plan, as ``base`` may.

    Raises ``PlanError`` for a name that is neither.
    """
    if not isinstance(data, dict) or all(name in kind.model_fields for name in data):
        return data
    allocation = data.get("allocation", kind.model_fields["allocation"].default)
    known = find_allocation(allocation).model_fields
    others = {name: value for name, value in data.items() if name not in kind.model_fields}
    for name in others:
        if name not in known:
            what = f"field of a plan with the allocation '{allocation}'"
            raise PlanError(unknown_name(what, name, (*kind.model_fields, *known)))
    plain = {name: value for name, value in data.items() if name not in others}
    return {**plain, "settings": {**(data.get("settings") or {}), **others}}


class Slicing(Value):
    """Say how to slice, whatever the amount, as a plan and a step of slicing both do."""

    # NaN is let through to the checks of the allocation, which explain it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    allocation: str = "dynamic"
    """A name in ``ALLOCATIONS``."""
    settings: dict[str, float | tuple[float, ...]] = Field(default_factory=dict)
    """The allocation's own fields that differ from their defaults: for ``dynamic`` the base SB, for
    ``manual`` a share for every block."""
    score: str = "lr"
    """A name in ``SCORES``."""
    first_token: bool = False
    """Whether the first token of each window counts in the score."""
    max_fraction: float = MAX_FRACTION
    """No block loses more than this."""
    rounding: int = ROUNDING
    """Widths are multiples of this."""
    embedding: Literal["auto", "shared", "untied"] = "auto"
    """``auto`` is ``shared`` where the head is the embedding table, else ``untied``."""
    blocks_per_basis: int = 0
    """So many blocks in a row share one basis, without shortcut matrices between; 0: none, as published.
    Constant slicing, which plans are measured by, never shares."""

    @model_validator(mode="after")
    def _check_slicing(self) -> Self:
        rule = self.rule()
        said = {name: getattr(rule, name) for name in self.settings}
        usual = {name: field.get_default() for name, field in type(rule).model_fields.items()}
        kept = {name: value for name, value in said.items() if value != usual[name]}
        object.__setattr__(self, "settings", kept)
        if not 0.0 < self.max_fraction < 1.0:
            raise PlanError(f"The largest fraction must lie between 0 and 1, but is {self.max_fraction:g}.")
        if self.rounding < 1:
            raise PlanError(f"The rounding must be at least 1, but is {self.rounding}.")
        if self.blocks_per_basis < 0:
            raise PlanError(
                f"A basis is shared by 0 or more blocks, but {self.blocks_per_basis} were asked for."
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The version of the allocation, which the step only names, is part of the key too."""
        version = find_allocation(self.allocation).version
        return {**super().identity(), **({"allocation version": version} if version != 1 else {})}

    @property
    def base(self) -> float:
        """SB: the share that every block loses at least."""
        return getattr(self.rule(), "base", 0.0)

    @property
    def published_constant(self) -> bool:
        """Whether it is constant slicing as published, which others are measured by."""
        return self.allocation == "constant" and self.blocks_per_basis == 0

    def rule(self) -> Allocation:
        """The allocation with its settings."""
        kind = find_allocation(self.allocation)
        try:
            return kind.model_validate(self.settings)
        except ValidationError:
            fields = ", ".join(kind.model_fields) or "none"
            raise PlanError(
                f"The allocation '{self.allocation}' does not take the settings {self.settings}; "
                f"its settings are: {fields}."
            ) from None

    def form(self, shape: ModelShape) -> EmbeddingForm:
        """The embedding form for this model."""
        if self.embedding == "auto":
            return "shared" if shape.tied else "untied"
        return self.embedding


class Plan(Slicing):
    """Say how to slice, and how much. Checked when it is made: ``PlanError``.

    The settings of the allocation may be given by their names. SP and SB as in Dumitru et al. (arXiv
    2411.03513, equation 3).

    >>> import slicing
    >>> slicing.Plan(target=0.25, base=0.2) == slicing.Plan(target=0.25, settings={"base": 0.2})
    True
    >>> slicing.Plan(allocation="constant").target
    0.25
    """

    target: float = 0.25
    """SP: the mean slice fraction over blocks."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, data: Any) -> Any:
        return take_settings(cls, read_earlier_slicing(data))

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        self.rule().check(self.target)
        return self

    def check_fits(self, shape: ModelShape) -> None:
        """Raise ``PlanError`` when a model of this shape cannot be cut like this."""
        self.constant(shape)

    def fractions(self, redundancy: Sequence[float]) -> Fractions:
        """What each block loses, before rounding, (L,)."""
        return self.rule()(redundancy, self.target, self.max_fraction)

    def schedule(self, redundancy: Sequence[float], shape: ModelShape) -> SlicingSchedule:
        """The planned schedule. ``redundancy`` (L,): higher means more redundant."""
        return self._rounded(self.fractions(redundancy), shape, self.blocks_per_basis)

    def constant(self, shape: ModelShape) -> SlicingSchedule:
        """Constant slicing at the same target, rounding and embedding form."""
        alike = (1.0,) * shape.block_count
        return self._rounded(Constant()(alike, self.target, self.max_fraction), shape)

    def with_fewer(self, share: float, redundancy: Sequence[float], shape: ModelShape) -> Self:
        """Give this plan the target at which ``share`` of the parameters goes.

        That is to the nearest whole block, as ``Budget`` counts it, so that it is the size that other methods
        come to. ``redundancy`` (L,): higher means more redundant. Raises ``PlanError`` when the share is not
        between 0 and 1, or when no target of this plan comes near.
        """
        size = Budget(measure="parameters", amount=share).parameters(shape)
        assert size is not None
        return self._near(size, redundancy, shape)[0]

    def at_parameters(
        self, parameters: int, redundancy: Sequence[float], shape: ModelShape
    ) -> SlicingSchedule:
        """The schedule of this plan, at whatever target, whose size comes nearest to ``parameters``.

        Raises ``PlanError`` when no target of this plan comes near.
        """
        return self._near(parameters, redundancy, shape)[1]

    def _near(
        self, parameters: int, redundancy: Sequence[float], shape: ModelShape
    ) -> tuple[Self, SlicingSchedule]:
        """Find the target at which this plan's size comes nearest to ``parameters``, and its schedule.

        By bisection on the target. Raises ``PlanError`` when no target of this plan comes within 0.1 %, or
        within what rounding one block's width up and another's down can explain.
        """
        step = 2 * self.rounding * shape.parameters // (shape.block_count * shape.hidden_size)
        near_enough = max(parameters // 1000, step)
        low, high = self.base, 0.95
        best: tuple[Self, SlicingSchedule] | None = None
        nearest = 0
        for _ in range(30):
            middle = (low + high) / 2
            try:
                plan = self.model_copy(update={"target": middle})
                found = plan.schedule(redundancy, shape)
            except PlanError:  # more than its bounds allow
                high = middle
                continue
            size = found.shape_after(shape).parameters
            if best is None or abs(size - parameters) < abs(nearest - parameters):
                best, nearest = (plan, found), size
            low, high = (middle, high) if size > parameters else (low, middle)
        if best is None or abs(nearest - parameters) > near_enough:
            near = "none at all" if best is None else f"{nearest:,}"
            raise PlanError(
                f"The allocation '{self.allocation}' reaches no size near {parameters:,} parameters "
                f"(nearest: {near}): choose another target or base, or raise the largest fraction."
            )
        return best

    def _rounded(self, fractions: Fractions, shape: ModelShape, span: int = 0) -> SlicingSchedule:
        schedule = SlicingSchedule.from_fractions(
            fractions.values, shape.hidden_size, self.rounding, self.form(shape), span
        )
        schedule.check_fits(shape)
        return schedule
