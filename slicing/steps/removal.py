"""What the methods that remove whole blocks have in common: one decides which go, an operator takes them out.

No method itself.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from analysis.batches import tokens_at_a_time
from analysis.device import PeakMemory, synchronise
from analysis.errors import PlanError
from analysis.profile import states_compared
from slicing.budget import Budget, whole_blocks
from slicing.calibration import Fit
from slicing.dense_states import dense_states
from slicing.depth.layout import Layout
from slicing.depth.memory import Looked, refuse_unless_removal_fits
from slicing.depth.reduce import reduce_model
from slicing.repair import held_out
from slicing.repairs import REPAIRS, find_repair
from slicing.steps.base import SHARES, Cost, Made, Step

if TYPE_CHECKING:
    from analysis.shape import ModelShape
    from slicing.plans import Slicing
    from slicing.view import ModelView

SEARCH_WINDOWS = 4
"""Of the calibration windows, so many are what methods measure losses and likeness on."""


class Removal(Step):
    """Take whole blocks out, which ones the method decides, and repair what is left."""

    axis = "blocks"
    repairs = REPAIRS  # also those that are registered later
    tries: ClassVar[bool] = False
    """Whether it runs smaller models to choose, which takes far longer than looking at the dense one."""

    windows: int = Field(default=SEARCH_WINDOWS, ge=1, title="Windows to decide on")
    """Of the calibration windows, so many decide which blocks go."""

    @model_validator(mode="after")
    def _check_removal(self) -> Self:
        if self.slices and self.repair != "none":
            raise PlanError(
                "Where the rest is sliced, its repair serves the cuts as well: give 'repair=writers' to "
                f"'slice' instead of 'repair={self.repair}' to '{self.name}'."
            )
        return self

    @property
    def slices(self) -> bool:
        """Whether anything is left to the next step."""
        return self.share != 1.0

    @property
    def quick(self) -> bool:
        """Whether it tries no smaller models, searches no share and trains no blocks."""
        trained = self.repair != "none" and find_repair(self.repair).trains
        return not self.tries and self.share != "search" and not trained

    @property
    def opens_everywhere(self) -> bool:
        """Where no matrix stands in the place of blocks."""
        return self.repair == "none" or find_repair(self.repair).plain

    def full_forms(self) -> tuple[Self, ...]:
        """By the strength of the repairs."""
        ways = sorted(self.repairs, key=lambda name: -find_repair(name).strength)
        return (*(self.read({**dict(self), "repair": name}) for name in ways), self)

    @abstractmethod
    def layout(self, view: ModelView, count: int) -> Layout:
        """The model without ``count`` of its blocks, 1 <= count < L."""

    def most(self, blocks: int) -> int:
        """How many of so many blocks can go at most."""
        return blocks - 1

    def refuse_unless_so_many_can_go(self, blocks: int, count: int) -> None:
        """Raise ``PlanError`` where it cannot take away ``count`` of so many ``blocks``."""
        most = self.most(blocks)
        if not 0 <= count <= most:
            raise PlanError(
                f"The method '{self.name}' can take away from 0 to {most} of the {blocks} blocks, but "
                f"{count} are to go: choose a number between, or another method."
            )

    def without(self, view: ModelView, count: int) -> Layout:
        """The layout with ``count`` blocks fewer (``PlanError`` unless so many can go)."""
        self.refuse_unless_so_many_can_go(view.block_count, count)
        return self.layout(view, count) if count else Layout.whole(view.block_count)

    def whole_blocks(self, count: int) -> int:
        """How many of ``count`` blocks' worth of parameters go in whole blocks, by the share.

        Where something is left to slicing, at least one block's worth is (``PlanError`` where none can be).
        A share that is searched for counts as the largest.
        """
        share = max(SHARES) if isinstance(self.share, str) else self.share
        if share == 1.0:
            return count
        if count < 2:
            raise PlanError(
                "Where some goes in whole blocks and the rest by slicing, two blocks' worth of parameters or "
                "more must go, and here it is one: choose a larger size, or leave out the share."
            )
        return min(max(1, round(share * count)), count - 1)

    def check_budget(self, budget: Budget) -> None:
        """The budget counts whole blocks."""
        if budget.measure not in ("blocks", "parameters"):
            raise PlanError(
                f"'{self.name}' removes whole blocks, which the budget '{budget.line}' does not count: "
                "choose a share of the parameters, such as 'parameters=0.2', or a number of blocks, such as "
                "'blocks=4'."
            )

    def in_form(self, form: Slicing, one_shot: bool | None, windows: int | None) -> Self:
        """So many windows to decide on."""
        return self if windows is None else type(self)(**{**dict(self), "windows": windows})

    # What it does

    def fits(self) -> set[Fit]:
        """Name the things that the repair fits to the calibration text; blocks are trained."""
        return set() if self.repair == "none" else {*find_repair(self.repair).fits}

    def check_shape(self, shape: ModelShape, budget: Budget, windows: int) -> None:
        """So many blocks can go too."""
        self.refuse_unless_so_many_can_go(shape.block_count, self.count_of(shape, budget))
        super().check_shape(shape, budget, windows)

    def check(self, view: ModelView, budget: Budget) -> None:
        """So many blocks can go, and the repair has work and windows held out."""
        self.refuse_unless_so_many_can_go(view.block_count, self.count(view, budget))
        if self.repair != "none":
            held_out(len(view.windows))
            find_repair(self.repair).check(view.model)

    def refuse_unless_it_fits(self, view: ModelView, budget: Budget) -> None:
        """Raise ``OutOfMemoryError`` where taking so many blocks out and repairing does not fit."""
        some = self.likely(view.block_count, self.count(view, budget))
        refuse_unless_removal_fits(view.model, some, view.windows, self.repair, self.looked(view))

    def likely(self, blocks: int, count: int) -> Layout:
        """A layout with ``count`` of so many ``blocks`` fewer, before it is known which, that takes the most
        memory.
        """
        return Layout.without(blocks, range(1, count + 1))

    def looked(self, view: ModelView) -> Looked:
        """What passes to choose blocks: all windows where it reads the layer profile, which is the default.

        Where smaller models are tried, a few windows pass, and what enters every block is kept.
        """
        if self.tries:
            some = view.windows[: self.windows]
            return Looked(tokens_at_a_time(some, view.model.device), view.block_count + 1)
        return Looked(tokens_at_a_time(view.profile_windows, view.model.device), states_compared(view.model))

    def count(self, view: ModelView, budget: Budget) -> int:
        """How many blocks go within a budget (``PlanError`` for one that counts no blocks)."""
        self.check_budget(budget)
        if budget.measure == "blocks":  # of any model, also of one without a shape
            return self.whole_blocks(int(budget.amount))
        return self.whole_blocks(whole_blocks(view.shape, budget.amount)[0])

    def count_of(self, shape: ModelShape, budget: Budget) -> int:
        """The same of a model of this shape."""
        by_number = budget.measure == "blocks"
        return self.whole_blocks(int(budget.amount) if by_number else whole_blocks(shape, budget.amount)[0])

    def cost(self, tokens: int, window_length: int) -> Cost:
        """Many passes where smaller models are tried, and those of the repair."""
        tried = 20.0 * self.windows * window_length if self.tries else 0.0
        repairing = (("Repairing", 2.0 * tokens),) if self.repair != "none" else ()
        return (("Trying", tried), *repairing)

    def decide(self, view: ModelView, budget: Budget, made: Made) -> Layout:
        """The blocks that stay."""
        return self.without(view, self.count(view, budget))

    def apply(self, view: ModelView, plan: Layout, made: Made) -> Made:
        """Take the other blocks out and repair, with what that took."""
        kept = dense_states(view) if made.model is view.model else None
        if kept:
            kept.claim()  # what a trial that was stopped has left
        start = time.perf_counter()
        with PeakMemory(view.model.device) as peak:
            found = reduce_model(
                made.model, plan, view.windows, self.repair, view.progress, "Repairing", kept=kept
            )
            synchronise(view.model.device)
        return Made(
            model=found.model,
            layout=plan,
            repair=found.repair,
            seconds=made.seconds + time.perf_counter() - start + (kept.claim() if kept else 0.0),
            peak_memory=max(made.peak_memory, peak.bytes),
        )


def without_span(view: ModelView, first: int, count: int) -> Layout:
    """All blocks but ``count`` from ``first`` on."""
    return Layout.without(view.block_count, range(first, first + count))
