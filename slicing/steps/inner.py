"""What the methods that cut inside blocks have in common: one decides which units stay, an operator cuts, and
what is left is fitted anew.

No method itself.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from analysis.batches import tokens_at_a_time
from analysis.device import PeakMemory, batch_tokens, out_of_memory_told, synchronise
from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import check_windows, perplexity
from analysis.needs import MemoryNeed, refuse_unless_it_fits
from analysis.shape import ModelShape
from analysis.units import Kind
from slicing.budget import Budget
from slicing.calibration import Fit
from slicing.dense_states import dense_states
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.cut import BranchCuts, copy_sharing, cut_model
from slicing.inner.fit import fit_inside
from slicing.inner.plain import as_plain
from slicing.inner.sink import lost_sink
from slicing.inner.widths import FORMS, InnerWidths, SublayerWidths, parameters_held, units_of
from slicing.memory import Holds, inner_need
from slicing.repair import Repair, SublayerRepair, held_out
from slicing.steps.base import Cost, Made, Mending, Step

if TYPE_CHECKING:
    from slicing.plans import Slicing
    from slicing.view import ModelView


SHORT = 512
"""Tokens of a window that is called short."""


@dataclass(frozen=True)
class InnerPlan:
    """What is decided: how much stays inside every block, and which units that are."""

    widths: InnerWidths
    """Of the blocks that are left."""
    cuts: Sequence[Sequence[BranchCuts]]
    """By block and branch, in the order of the anatomy."""


class Inner(Step):
    """Cut inside the blocks, which units the method decides, and fit what is left."""

    axis = "inner"
    repairs = ("writers", "projections")
    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Kinds of units that it takes out."""
    optional: ClassVar[tuple[Kind, ...]] = ()
    """Of these kinds, those that it leaves alone in a family that has none."""
    fine: ClassVar[bool] = True
    """Whether it comes as near to a size as single units allow, and not as whole sub-layers do."""
    trains: ClassVar[bool] = False
    """Whether it searches or trains, which takes far longer than looking at the dense model."""
    holds: ClassVar[Holds] = Holds()
    """What it keeps in memory of all blocks."""

    restore: bool = Field(default=True, title="Least-squares restoration")
    """Fit every output projection that lost inputs to what the dense one writes, on the dense model's stream,
    by ridge regression."""
    uniform: bool = Field(default=False, title="Equal widths")
    """Keep equally many units in every block, so that the result is an ordinary checkpoint that every tool
    opens."""

    @model_validator(mode="after")
    def _check_inner(self) -> Self:
        if self.share != 1.0:
            raise PlanError(
                f"'{self.name}' is the last step that makes a model smaller: leave out its share."
            )
        return self

    def kinds_cut(self, shape: ModelShape) -> tuple[Kind, ...]:
        """The kinds that it takes out of a model of this shape with these settings: an ordinary checkpoint
        can say few of them.
        """
        plain: tuple[Kind, ...] = ("channels", "kv_groups")
        return tuple(each for each in self.kinds if not self.uniform or each in plain)

    @property
    def quick(self) -> bool:
        """Whether it neither searches nor trains, and fits nothing block by block."""
        return not self.trains and self.repair == "none"

    @property
    def opens_everywhere(self) -> bool:
        """Where the widths are equal in all blocks."""
        return self.uniform

    def for_every_tool(self) -> Self | None:
        """With equal widths."""
        return self.read({**dict(self), "uniform": True})

    # What each method says

    @abstractmethod
    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """Decide which units of the view's model stay, so that it has about ``size`` parameters."""

    # What it does

    def check_budget(self, budget: Budget) -> None:
        """The budget names a number of parameters, or constant slicing that does."""
        if budget.measure == "mean_slice":
            raise PlanError(
                f"'{self.name}' cuts inside blocks, which the budget '{budget.line}' does not count: choose "
                "a share of the parameters, such as 'parameters=0.2', or 'like_constant=0.25'."
            )

    def in_form(self, form: Slicing, one_shot: bool | None, windows: int | None) -> Self:
        """It has no such settings."""
        return self

    def fits(self) -> set[Fit]:
        """Output projections, where they are fitted."""
        return {"writers"} if self.restore or self.repair != "none" else set()

    def size(self, shape: ModelShape, budget: Budget) -> int:
        """How many parameters stay, of a model of this shape."""
        size = budget.parameters(shape)
        if size is None:  # as many as constant slicing leaves
            from slicing.plans import Plan

            assert budget.target is not None
            size = Plan(target=budget.target).constant(shape).shape_after(shape).parameters
        return size

    def check_shape(self, shape: ModelShape, budget: Budget, windows: int) -> None:
        """A model of this shape has such units, and windows are held out."""
        self.check_budget(budget)
        super().check_shape(shape, budget, windows)
        for kind in self.kinds_cut(shape):
            have = any(each.kind == kind for row in shape.blocks for sub in row for each in sub.units)
            if not have and kind not in self.optional:
                raise UnsupportedError(
                    f"'{self.name}' takes out {kind.replace('_', ' ')}, and no block of a model of type "
                    f"'{shape.architecture}' has any{_but_of_experts(shape, kind)}: choose another method."
                )
        if self.fits():
            held_out(windows)

    def warnings(self, shape: ModelShape) -> tuple[str, ...]:
        """What goes is taken from less than one may think, where routed experts stay whole."""
        held = parameters_held(shape, "expert_channels")
        if not held or not self.kinds or "expert_channels" in self.kinds_cut(shape):
            return ()
        return (
            f"'{self.name}' takes nothing out of routed experts, which hold {held / shape.parameters:.0%} of "
            "the parameters: all that goes is taken from the rest, which loses a larger share.",
        )

    def check(self, view: ModelView, budget: Budget) -> None:
        """What its shape tells, of the open model."""
        self.check_shape(view.shape, budget, len(view.windows))

    def held(self) -> Holds:
        """What it keeps in memory with these settings."""
        return self.holds

    def refuse_unless_it_fits(self, view: ModelView, budget: Budget) -> None:
        """Raise ``OutOfMemoryError`` where scores, fits and the cut model do not fit."""
        model, windows = view.model, view.windows
        size, length = self.size(view.shape, budget), windows.shape[1]
        on_host = model.device.type != "cpu"  # where what is measured lies then

        def need(batch: int, window: int, **less: bool) -> MemoryNeed:
            found = inner_need(
                view.shape,
                size,
                windows.numel(),
                batch,
                window,
                model.dtype.itemsize,
                self.held(),
                kinds=self.kinds_cut(view.shape),
                **{"restore": self.restore, "repair": self.repair != "none", **less},
            )
            return found.model_copy(update={"measured": 0}) if on_host else found

        batch = tokens_at_a_time(windows, model.device)
        shorter = min(batch, batch_tokens(model.device))
        levers = {"use shorter windows": need(shorter, min(length, SHORT))}
        if self.repair != "none":
            levers["leave out the repair"] = need(batch, length, repair=False)
        if self.restore or self.repair != "none":
            levers["restore nothing (restore=false, and no repair)"] = need(
                batch, length, restore=False, repair=False
            )
        refuse_unless_it_fits("Cutting inside the blocks", model, need(batch, length), levers)

    def memory_need(
        self, shape: ModelShape, budget: Budget, tokens: int, batch: int, itemsize: int
    ) -> MemoryNeed | None:
        """The same from the shape alone, where a window is taken to be as long as a batch."""
        size, repair = self.size(shape, budget), self.repair != "none"
        kinds = self.kinds_cut(shape)
        return inner_need(
            shape, size, tokens, batch, batch, itemsize, self.held(), self.restore, repair, kinds
        )

    def preview(self) -> Self:
        """Not repaired; what is left is restored, which costs two passes."""
        return type(self)(**{**dict(self), "repair": "none"})

    @property
    def mending(self) -> Mending | None:
        """Give the repair, which goes on from what is cut and restored.

        ``None`` for equal widths: their model is that of another tool, in which nothing is fitted.
        """
        apart = self.repair != "none" and not self.uniform
        return Mending(self.preview(), self._mend) if apart else None

    def cost(self, tokens: int, window_length: int) -> Cost:
        """One pass to look, two to restore, five to fit block by block."""
        passes = {"none": 0.0, "writers": 5.0, "projections": 7.0}[self.repair]
        restoring = (("Restoring", 3.0 * tokens),) if self.restore else ()
        repairing = (("Repairing", passes * tokens),) if passes else ()
        return (("Looking inside the blocks", 2.0 * tokens), *restoring, *repairing)

    def decide(self, view: ModelView, budget: Budget, made: Made) -> InnerPlan:
        """The units that stay of what the steps before have left."""
        size = self.size(view.shape, budget)
        if made.layout is None:
            return self.plan(view, size)
        # What is left comes again at another size, and in a search for a share.
        left = view.once(("left", made.layout), lambda: view.of(made.model))
        return view.once((self.preview(), made.layout, size), lambda: self.plan(left, size))

    def apply(self, view: ModelView, plan: InnerPlan, made: Made) -> Made:
        """Cut the units, restore, and repair; the repair is kept where it loses less on held-out windows."""
        found = self._cut(view, plan, made)
        if self.repair != "none":
            found = self._repaired(view, found)
        return self._finished(view, found)

    def _mend(self, view: ModelView, made: Made) -> Made:
        """Repair what is cut and restored."""
        return self._finished(view, self._repaired(view, made))

    def _cut(self, view: ModelView, plan: InnerPlan, made: Made) -> Made:
        """Cut the units and restore."""
        model, windows = view.model, view.windows
        with self._measured(view, made) as measured:
            cut = reduce_blocks(model, made.layout or Layout.whole(view.block_count), check=False)
            cut_model(cut, plan.cuts)
            if self.uniform:
                as_plain(copy_sharing(cut))  # which refuses before the fits what no configuration can say
            if self.fits():
                check_windows(model, windows)
            made = replace(made, model=cut, inner=plan.widths)
            if self.restore:
                self._fitted(view, made, ("local",), "Restoring")
        return measured(made)

    def _repaired(self, view: ModelView, made: Made) -> Made:
        """Fit a second model beside the one that is cut, and give the one that loses less."""
        with self._measured(view, made) as measured:
            fits = ("writers",) if self.repair == "writers" else ("readers", "writers")
            repaired = replace(made, model=copy_sharing(made.model))
            rows = self._fitted(view, repaired, fits, "Repairing")
            held = view.windows[-held_out(len(view.windows)) :]
            model, told = _better(made.model, repaired.model, rows, held)
        return measured(replace(made, model=model, repair=told))

    def _finished(self, view: ModelView, made: Made) -> Made:
        """Look whether the attention sink is still there; equal widths become an ordinary checkpoint."""
        with self._measured(view, made) as measured:
            cut = as_plain(made.model) if self.uniform else made.model
            layout = made.layout or Layout.whole(view.block_count)
            sink = lost_sink(view.model, cut, layout, view.windows)
            synchronise(view.model.device)
        return measured(replace(made, model=cut, sink=sink))

    def _fitted(
        self, view: ModelView, made: Made, fits: tuple[str, ...], phase: str
    ) -> tuple[SublayerRepair, ...]:
        """Fit the model that is cut, in place."""
        assert made.inner is not None
        widths = made.inner
        return fit_inside(
            view.model,
            made.model,
            made.layout or Layout.whole(view.block_count),
            view.windows,
            held_out(len(view.windows)),
            fits,
            lambda place, row: not widths.blocks[place][row].whole,
            lambda done, total: view.progress(phase, done, total),
            kept=dense_states(view),
        )

    @contextmanager
    def _measured(self, view: ModelView, before: Made) -> Iterator[Callable[[Made], Made]]:
        """Yield what adds the time and the memory of this part to those of what was there ``before``."""
        _claimed(view)  # what a trial that was stopped has left
        start, device = time.perf_counter(), view.model.device
        with PeakMemory(device) as peak, out_of_memory_told("cutting inside the blocks", device):
            yield lambda made: replace(
                made,
                seconds=before.seconds + time.perf_counter() - start + _claimed(view),
                peak_memory=max(before.peak_memory, peak.bytes),
            )


def _claimed(view: ModelView) -> float:
    """Give the seconds by which fits would have taken longer, had none come before."""
    kept = dense_states(view)
    return kept.claim() if kept else 0.0


class Selective(Inner):
    """One that cuts units that the forms of other tools cannot say, and leaves these alone if asked."""

    export: Literal["any", "gguf", "deci"] = Field(default="any", title="For export to")
    """Cut only what this form can say, so that 'slicescope export' writes it: gguf, for llama.cpp, has
    channels and heads in every block; deci, for vLLM, has channels. Both can lack whole sub-layers, deci all
    but the first attention."""

    def kinds_cut(self, shape: ModelShape) -> tuple[Kind, ...]:
        """Of the kinds that are left, those that the form has."""
        return tuple(each for each in super().kinds_cut(shape) if each in FORMS[self.export].kinds_in(shape))

    def identity(self) -> dict[str, Any]:
        """The version of the form, which the step only names, is part of the key too."""
        version = FORMS[self.export].version
        return {**super().identity(), **({"form version": version} if version != 1 else {})}


def _better(
    cut: object, repaired: object, rows: tuple[SublayerRepair, ...], held: object
) -> tuple[object, Repair]:
    """The model that loses less on the windows held out."""
    other, loss = (float(np.mean(perplexity(each, held).nll)) for each in (cut, repaired))  # type: ignore[arg-type]
    told = Repair(sublayers=rows, windows=len(held), unrepaired=other, repaired=loss)  # type: ignore[arg-type]
    return (repaired if told.kept else cut), told


# For methods that cut by shares of the units of every block


def widths_of_shares(shape: ModelShape, shares: Sequence[float], kinds: Sequence[Kind]) -> InnerWidths:
    """The widths of a model whose blocks lose these shares (L,) of their units; one of each kind stays."""
    blocks = []
    for share, row in zip(shares, shape.blocks, strict=True):
        found = []
        for sublayer in row:
            kept: dict[Kind, int] = {}
            there: list[Kind] = [each for each in kinds if any(unit.kind == each for unit in sublayer.units)]
            for kind in there:
                units = units_of(sublayer, kind)
                each = units.count // units.parts
                if (left := max(1, round(each * (1.0 - share)))) < each:
                    kept[kind] = left
            found.append(SublayerWidths(kept=kept))
        blocks.append(tuple(found))
    return InnerWidths(blocks=tuple(blocks))


def at_size(widths: Callable[[float], InnerWidths], shape: ModelShape, size: int, name: str) -> InnerWidths:
    """The widths, at whatever target, whose model comes nearest to ``size`` parameters.

    By bisection on the target, in which ``widths`` grows smaller. Raises ``PlanError`` where even the
    smallest model it gives is larger than that by more than 1 %.
    """
    low, high = 0.0, 0.98
    best: InnerWidths | None = None
    nearest = 0
    for _ in range(40):
        middle = (low + high) / 2
        try:
            found = widths(middle)
        except PlanError:  # more than its bounds allow
            high = middle
            continue
        parameters = found.shape_after(shape).parameters
        if best is None or abs(parameters - size) < abs(nearest - size):
            best, nearest = found, parameters
        low, high = (middle, high) if parameters > size else (low, middle)
    if best is None or abs(nearest - size) > 0.01 * size:
        held = parameters_held(shape, "expert_channels")
        experts = f", with {held:,} in routed experts that stay whole" if held else ""
        raise PlanError(
            f"'{name}' reaches no size near {size:,} parameters (nearest: {nearest:,}{experts}): choose a "
            "larger model, or a method that takes out whole blocks too."
        )
    return best


def _but_of_experts(shape: ModelShape, kind: Kind) -> str:
    """What is to be added where a model has no units of a kind but those of its routed experts."""
    experts = kind == "channels" and parameters_held(shape, "expert_channels")
    return " but those of routed experts, which no method scores" if experts else ""
