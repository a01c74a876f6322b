"""Slicing: the residual stream loses directions, in each block as many as an allocation says (SliceGPT with
a width per block; Ashkboos et al., 2401.15024; Dumitru et al., 2411.03513).
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from analysis.bases import BasesCollector, refuse_unless_bases_fit
from analysis.device import PeakMemory, synchronise
from analysis.errors import PlanError, unknown_name
from analysis.needs import MemoryNeed, refuse_unless_it_fits
from analysis.numbers import Seed
from analysis.scores import find_score
from slicing.allocation import check_fraction, find_allocation
from slicing.basis import find_basis
from slicing.basis.dense import bases_for
from slicing.budget import Budget
from slicing.calibration import Fit
from slicing.dense_states import dense_states
from slicing.depth.layout import Layout
from slicing.memory import preview_need, slicing_need
from slicing.plain import blank_plain, second_table, width_step
from slicing.plans import Plan, Slicing
from slicing.repairs.writers import followed
from slicing.schedule import SlicingSchedule, constant_at_parameters, plain_at, plain_at_parameters
from slicing.slicer import recut, refuse_unless_slicing_fits, slice_model
from slicing.steps.base import Cost, Made, Step, step

if TYPE_CHECKING:
    from analysis.shape import ModelShape
    from slicing.view import ModelView


@step
class Slice(Slicing, Step):
    """Rotate the residual stream and cut its last directions."""

    # NaN is let through to the checks of the allocation, which explain it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    name = "slice"
    title = "Slicing"
    source = "Ashkboos et al., SliceGPT, ICLR 2024"
    cite = "ashkboos2024slicegpt"
    axis = "stream"
    positional = ("allocation", "score")
    repairs = ("writers",)
    variants = (
        "constant",
        "dynamic, base=0",
        "dynamic, base=0, blocks_per_basis=3",
        "constant, plain=true",
    )

    one_shot: bool = Field(default=False, title="One-shot bases")
    """Find all bases in one pass over the dense model, which is quicker and costs some perplexity, instead of
    each on the part that is sliced already, as published."""
    plain: bool = Field(default=False, title="Plain model in one basis")
    """Cut all blocks and the head in one basis, found on the dense model: what comes out is a checkpoint of
    the dense model's own class with a smaller hidden size, which every tool opens. All blocks lose the same,
    and a model whose head is its embedding table gets a second table."""
    basis: str = Field(default="pca", title="Directions by")
    """The rule that chooses the directions that are kept: a name in ``slicing.basis.BASES``."""
    basis_draw: Seed = Field(default=0, ge=0, title="Number of the basis's draw")
    """The number that random directions are drawn by."""

    @model_validator(mode="before")
    @classmethod
    def _read_plain(cls, data: Any) -> Any:
        return _with_allocation(data)

    @model_validator(mode="after")
    def _check_slice(self) -> Self:
        if not find_basis(self.basis).drawn:
            object.__setattr__(self, "basis_draw", 0)
        if self.plain:
            self._check_plain()
        if self.repair != "none" and self.one_shot:
            raise PlanError("Repair follows sequential slicing: leave out 'one_shot', or the repair.")
        if self.share != 1.0:
            raise PlanError("Slicing is the last step that makes a model smaller: leave out its share.")
        if not self.rule().uses_scores:  # whichever was named decides nothing
            object.__setattr__(self, "score", type(self).model_fields["score"].get_default())
        check_fraction("base (SB)", self.base)  # one above the target is constant slicing, and never planned
        return self

    def _check_plain(self) -> None:
        """One basis for all blocks leaves no choice of where bases are found, or which width is whose."""
        if not self.rule().uniform:
            raise PlanError(
                f"One basis for all blocks has one width, and '{self.allocation}' gives each block its own: "
                "choose 'constant', or leave out 'plain'."
            )
        if self.blocks_per_basis:
            raise PlanError("All blocks of a plain model share one basis: leave out 'blocks_per_basis'.")
        if self.embedding == "shared":
            raise PlanError(
                "A plain model has a table for the embedding and one for the head: leave out "
                "'embedding=shared', or 'plain'."
            )
        object.__setattr__(self, "embedding", "auto")
        object.__setattr__(self, "one_shot", False)  # there is one way only

    def identity(self) -> dict[str, Any]:
        """The version of the basis, which the step only names, is part of the key too."""
        version = find_basis(self.basis).version
        return {**super().identity(), **({"basis version": version} if version != 1 else {})}

    # What it says of itself

    @property
    def short(self) -> str:
        """The name of its allocation; constant slicing with shared bases is not the published one."""
        name = "plain" if self.plain else self.allocation
        if self.allocation == "constant" and self.blocks_per_basis:
            name = f"constant+span={self.blocks_per_basis}"
        return name if self.basis == type(self).model_fields["basis"].default else f"{name}+{self.basis}"

    @property
    def short_title(self) -> str:
        """That of its allocation, and of its basis where it is not the usual one."""
        title = "One basis, plain model" if self.plain else self.rule().title
        return f"{title}, {_lower(self._unusual_basis)}" if self._unusual_basis else title

    @property
    def _unusual_basis(self) -> str:
        """The title of the basis, where it is not the usual one."""
        usual = type(self).model_fields["basis"].default
        return "" if self.basis == usual else find_basis(self.basis).title

    @property
    def heading(self) -> str:
        """The allocation and what is unusual about it."""
        rule = self.rule()
        said = [f"Slicing, {_lower(rule.title)}"]
        if rule.uses_scores and self.score != "lr":
            said.append(f"by {_lower(find_score(self.score).title)}")
        for name, field in type(rule).model_fields.items():
            value = getattr(rule, name)
            if isinstance(value, float | int) and (name == "base" or value != field.get_default()):
                told = f"{100 * value:g}\N{NO-BREAK SPACE}%" if rule.is_share(name) else f"{value:g}"
                said.append(f"{rule.abbreviation(name)} {told}")
        if self.plain:
            said.append("one basis for all blocks")
        if self.blocks_per_basis:
            said.append(f"{self.blocks_per_basis} blocks per basis")
        if self._unusual_basis:
            said.append(_lower(self._unusual_basis))
        if self.basis_draw:
            said.append(f"draw {self.basis_draw} of the basis")
        if self.one_shot:
            said.append("one-shot bases")
        if self.repair != "none":
            said.append("repaired")
        return ", ".join(said)

    @property
    def control(self) -> bool:
        """Whether its allocation, or its basis, is there to be beaten."""
        return find_allocation(self.allocation).control or find_basis(self.basis).control

    @property
    def by_chance(self) -> bool:
        """Whether the shares, or the directions, are drawn at random."""
        return self.allocation == "random" or find_basis(self.basis).drawn

    @property
    def quick(self) -> bool:
        """Whether its allocation is neither measured nor searched for, and its score takes one pass."""
        rule = self.rule()
        scored = find_score(self.score).quick or not rule.uses_scores
        return not rule.made and scored and find_basis(self.basis).quick

    @property
    def opens_everywhere(self) -> bool:
        """Where one basis is that of all blocks."""
        return self.plain

    def for_every_tool(self) -> Self | None:
        """In one basis, where all blocks lose the same."""
        kept = {"allocation", "settings", "rounding", "max_fraction", "basis", "basis_draw", "repair"}
        fields = {name: value for name, value in dict(self).items() if name in kept}
        return self.read({**fields, "plain": True}) if self.rule().uniform else None

    @property
    def cites(self) -> tuple[str, ...]:
        """SliceGPT, the allocation, the score that decides, and the basis."""
        rule = self.rule()
        score = find_score(self.score).cite if rule.uses_scores else ""
        found = (self.cite, rule.cite, score, find_basis(self.basis).cite)
        return tuple(dict.fromkeys(each for each in found if each))

    @property
    def issue(self) -> str:
        """What is known against its basis."""
        return find_basis(self.basis).known_issue

    def said(self) -> dict[str, Any]:
        """The allocation always, then the score and the allocation's own settings."""
        found = super().said()
        found.pop("allocation", None)
        score = found.pop("score", None)
        settings = found.pop("settings", {})
        named = {"score": score} if score else {}
        return {"allocation": self.allocation, **named, **settings, **found}

    @classmethod
    def settings_known(cls) -> tuple[str, ...]:
        """Its fields; those of the allocation depend on which it is."""
        return tuple(name for name in super().settings_known() if name != "settings")

    @classmethod
    def from_said(cls, said: dict[str, Any]) -> Self:
        """Settings that are the allocation's own go to it."""
        said = _with_allocation(said)
        kind = find_allocation(said.get("allocation", cls.model_fields["allocation"].default))
        known = cls.settings_known()
        own = {name: value for name, value in said.items() if name in kind.model_fields}
        rest = {name: value for name, value in said.items() if name not in own}
        if unknown := next((name for name in rest if name not in known), None):
            what = f"setting of 'slice({kind.name})'"
            raise PlanError(unknown_name(what, unknown, (*known, *kind.model_fields)))
        if "score" in rest:
            find_score(rest["score"])
        for name, value in own.items():
            if not isinstance(value, float | int | tuple) or isinstance(value, bool):
                raise PlanError(
                    f"The setting '{name}' of '{kind.name}' must be a finite number; got '{value}'."
                )
        return cls.read({**rest, "settings": own})

    def plan_at(self, budget: Budget) -> Plan:
        """The plan at the target that the budget names, or else at one that the base allows."""
        fields = {name: getattr(self, name) for name in Slicing.model_fields}
        target = budget.target
        if target is None:  # then the size decides on the target
            target = max(Plan.model_fields["target"].default, self.base)
        return Plan(**fields, target=target)

    def is_constant_at(self, budget: Budget) -> bool:
        """Whether the base reaches the target, so that all blocks lose the same."""
        return (
            self.allocation != "constant" and budget.target is not None and 1 > self.base >= budget.target > 0
        )

    def check_budget(self, budget: Budget) -> None:
        """The plan makes sense, and shares are searched only at a size that names a target."""
        if budget.target is None and self.allocation == "searched":
            raise PlanError(
                "A search looks for shares at the size that a target (SP) leaves, so 'slice(searched)' needs "
                f"the budget 'mean_slice' or 'like_constant', and not '{budget.line}': choose another."
            )
        if not self.is_constant_at(budget):
            self.plan_at(budget)

    def in_form(self, form: Slicing, one_shot: bool | None, windows: int | None) -> Self:
        """With the rounding, the largest fraction and the embedding of a form."""
        shared = ("rounding", "max_fraction") if self.plain else ("rounding", "max_fraction", "embedding")
        alike = {name: getattr(form, name) for name in shared}
        own = self.one_shot if one_shot is None else one_shot
        return type(self)(**{**dict(self), **alike, "one_shot": own})

    # What it does

    def fits(self) -> set[Fit]:
        """Bases always, and output projections where they are repaired."""
        return {"bases", "writers"} if self.repair != "none" else {"bases"}

    def check_shape(self, shape: ModelShape, budget: Budget, windows: int) -> None:
        """The plan fits a model of this shape too."""
        self.plan_at(budget).check_fits(shape)
        super().check_shape(shape, budget, windows)

    def check(self, view: ModelView, budget: Budget) -> None:
        """The plan fits the model, its score is known, and what is repaired has windows held out."""
        plan = self.plan_at(budget)
        find_score(plan.score)
        self.check_shape(view.shape, budget, len(view.windows))
        view.check_curves(plan)
        if self.plain:
            blank_plain(view.model, self._in_one_basis(view, budget).widths[0])

    def warnings(self, shape: ModelShape) -> tuple[str, ...]:
        """A second table, where a plain model takes one."""
        return second_table(shape) if self.plain else ()

    def refuse_unless_it_fits(self, view: ModelView, budget: Budget) -> None:
        """Constant slicing stands for the plan, which is not known yet."""
        constant, model = self.plan_at(budget).constant(view.shape), view.model
        if self.plain:
            constant = self._in_one_basis(view, budget)
        if not self.one_shot:
            refuse_unless_slicing_fits(model, constant, view.windows, self.repair != "none")
            return
        if self._unusual_basis:  # which looks at all sites before it chooses
            BasesCollector(model).refuse_unless_they_fit(view.windows)
        else:
            refuse_unless_bases_fit(model, view.windows)
        refuse_unless_it_fits("Previewing", model, preview_need(view.shape, constant, model.dtype.itemsize))

    def memory_need(
        self, shape: ModelShape, budget: Budget, tokens: int, batch: int, itemsize: int
    ) -> MemoryNeed | None:
        """That of constant slicing, which stands for the plan."""
        constant = self.plan_at(budget).constant(shape)
        if self.plain:
            constant = plain_schedule(shape, self.plan_at(budget), budget, 1)
        if self.one_shot:
            return preview_need(shape, constant, itemsize)
        return slicing_need(shape, constant, tokens, batch, itemsize, self.repair != "none")

    def search_key(self, budget: Budget) -> str | None:
        """That of the plan whose shares are searched."""
        searched = self.allocation == "searched" and "shares" not in self.settings
        return self.plan_at(budget).key if searched else None

    def preview(self) -> Self:
        """By one-shot bases, and not repaired."""
        return type(self)(**{**dict(self), "one_shot": True, "repair": "none"})

    def cost(self, tokens: int, window_length: int) -> Cost:
        """Two passes, or nine with repair; by one-shot bases the products with the weights alone."""
        if self.one_shot:
            return (("Finding bases", 1.2 * tokens), ("Slicing", 500.0))
        return (("Slicing", (9.0 if self.repair != "none" else 2.0) * tokens),)

    def decide(self, view: ModelView, budget: Budget, made: Made) -> SlicingSchedule:
        """The widths of the stream, for what ``made`` leaves of the model."""
        if self.plain:
            return self._in_one_basis(view, budget, made.layout)
        plan = view.resolved(self.plan_at(budget))
        return widths(plan, budget, view, made.layout)

    def _in_one_basis(self, view: ModelView, budget: Budget, layout: Layout | None = None) -> SlicingSchedule:
        """The schedule of a plain model, for the blocks that ``layout`` leaves."""
        step = view.once("width step", lambda: width_step(view.model))
        shape = _shape_of(view.shape, layout) if layout else view.shape
        return plain_schedule(shape, self.plan_at(budget), budget, step, view.shape)

    def apply(self, view: ModelView, plan: SlicingSchedule, made: Made) -> Made:
        """Slice to these widths, with what that took."""
        bases, basis, draw = None, find_basis(self.basis), self.basis_draw
        if self.one_shot and self._unusual_basis:
            bases = bases_for(made.model, plan, view.windows, basis, draw, view.progress)
        elif self.one_shot:
            bases = view.bases if made.layout is None else view.bases_of(made.model)
        dense = made.model if made.layout is None else view.model  # which repair aims at
        kept = dense_states(view) if self.repair != "none" and dense is view.model else None
        if kept:
            kept.claim()  # what a trial that was stopped has left
        start = time.perf_counter()
        with PeakMemory(view.model.device) as peak:
            if bases is not None:
                sliced = recut(made.model, plan, bases, self.basis, view.progress)
            else:
                sliced = slice_model(
                    made.model,
                    plan,
                    view.windows,
                    view.progress,
                    "Slicing",
                    repair=self.repair != "none",
                    followed=None if made.layout is None else followed(view.model, made.layout),
                    basis=basis,
                    draw=draw,
                    kept=kept,
                )
            synchronise(view.model.device)
        return Made(
            model=sliced.model,
            layout=made.layout,
            sliced=sliced,
            repair=sliced.repair,
            seconds=made.seconds + time.perf_counter() - start + (kept.claim() if kept else 0.0),
            peak_memory=max(made.peak_memory, peak.bytes),
        )


def widths(plan: Plan, budget: Budget, view: ModelView, layout: Layout | None = None) -> SlicingSchedule:
    """The schedule of a resolved plan within a budget, for the blocks that ``layout`` leaves."""
    shape, redundancy = view.shape, view.redundancy(plan)
    size = budget.parameters(shape)
    if layout:
        plan = _of_layout(plan, layout)
        redundancy = tuple(redundancy[top] for top in layout.tops)
        shape = _shape_of(shape, layout)
    if size is not None:
        if plan.published_constant:
            return constant_at_parameters(shape, size, plan.rounding, plan.form(shape))
        return plan.at_parameters(size, redundancy, shape)
    if budget.measure == "like_constant" and not plan.published_constant:
        return plan.at_parameters(plan.constant(shape).shape_after(shape).parameters, redundancy, shape)
    return plan.schedule(redundancy, shape)


def plain_schedule(
    shape: ModelShape, plan: Plan, budget: Budget, step: int, dense: ModelShape | None = None
) -> SlicingSchedule:
    """The schedule of a plain model within a budget, whose width is a multiple of the rounding and of
    ``step``.

    ``dense`` is the shape of the whole model, where ``shape`` is that of what is left of it.
    """
    multiple, whole = math.lcm(plan.rounding, step), dense or shape
    size = budget.parameters(whole)
    if budget.measure == "like_constant":
        size = plan.constant(shape).shape_after(shape).parameters
    if size is not None:
        return plain_at_parameters(shape, size, multiple)
    plan.check_fits(shape)
    return plain_at(shape, plan.target, multiple)


def _shape_of(shape: ModelShape, layout: Layout) -> ModelShape:
    """The shape with the blocks alone that ``layout`` leaves."""
    return shape.model_copy(update={"blocks": tuple(shape.blocks[top] for top in layout.tops)})


def _with_allocation(data: Any) -> Any:
    """What makes a plain model and names no allocation is constant, the only one that can be meant."""
    if isinstance(data, dict) and data.get("plain") is True and "allocation" not in data:
        return {**data, "allocation": "constant"}
    return data


def _of_layout(plan: Plan, layout: Layout) -> Plan:
    """The plan with what its settings say of every block for those alone that ``layout`` leaves."""
    settings = dict(plan.settings)
    for name in ("shares", "damage"):
        values = settings.get(name)
        if isinstance(values, tuple):
            rows = np.reshape(values, (layout.blocks, -1))
            settings[name] = tuple(rows[list(layout.tops)].ravel().tolist())
    return plan.model_copy(update={"settings": settings})


def _lower(title: str) -> str:
    """A title within a sentence: abbreviations stay as they are."""
    return title if title[:2].isupper() else title[0].lower() + title[1:]
