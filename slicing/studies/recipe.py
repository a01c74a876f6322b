"""A recipe: the steps that make a model smaller, in their order. Without steps it is the dense model."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import SerializeAsAny, field_validator, model_validator

from analysis.errors import PlanError
from analysis.values import Value
from slicing.budget import Budget
from slicing.calibration import Fit
from slicing.plans import Slicing
from slicing.steps.base import Axis, Step, read_step
from slicing.studies.grammar import parse_line, write_line

Kind = Literal["width", "depth", "inner", "both"]
"""What a recipe makes smaller."""
_KINDS: dict[Axis, Kind] = {"stream": "width", "blocks": "depth", "inner": "inner"}


class Recipe(Value):
    """Steps, one after the other; a line and JSON say the same. Checked when it is made: ``PlanError``."""

    steps: tuple[SerializeAsAny[Step], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_line(cls, data: Any) -> Any:
        return {"steps": parse_line(data)} if isinstance(data, str) else data

    @field_validator("steps", mode="before")
    @classmethod
    def _read_steps(cls, data: Any) -> Any:
        return tuple(map(read_step, data)) if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.steps and not self.cutting:
            raise PlanError(
                f"'{self.steps[0].name}' trains what other steps leave: begin with a step that makes the "
                f"model smaller, as in 'sleb | {self.steps[0].name}'."
            )
        if self.steps[: len(self.cutting)] != self.cutting:
            raise PlanError(
                "Steps that train come last: name those that make the model smaller in front of them."
            )
        for each in self.steps:
            if reason := each.why_not_after({before.axis for before in self.cutting}):
                raise PlanError(reason)
        for first, then in zip(self.cutting, self.cutting[1:], strict=False):
            if first.axis != "blocks" or then.axis == "blocks":
                raise PlanError(
                    f"'{then.name}' cannot follow '{first.name}': a recipe removes blocks by one method, or "
                    "slices, or cuts inside blocks, or removes blocks and then does one of the two others."
                )
            if first.share == 1.0:
                raise PlanError(
                    f"'{first.name}' leaves nothing to '{then.name}': say how much of what goes it takes, as "
                    f"in '{first.name}(share=0.5) | {then.name}'."
                )
        if self.cutting and (last := self.cutting[-1]).share != 1.0:
            raise PlanError(
                f"'{last.name}' is the last step and leaves a share to no other: leave the share out, or add "
                "'| slice(...)'."
            )
        return self

    @property
    def cutting(self) -> tuple[Step, ...]:
        """The steps that make the model smaller."""
        return tuple(each for each in self.steps if each.axis != "weights")

    @property
    def heals(self) -> bool:
        """Tell whether what is left is trained."""
        return len(self.cutting) < len(self.steps)

    @property
    def trains_on(self) -> tuple[int, float]:
        """Tokens that all its steps train on together, and minutes of those that have these instead."""
        each = [step.trains_on for step in self.steps]
        return sum(tokens for tokens, _ in each), sum(minutes for _, minutes in each)

    def on_tokens(self, tokens: int) -> Self:
        """Give every step that trains so many tokens, unless it has a budget of its own."""
        return self.model_copy(update={"steps": tuple(each.on_tokens(tokens) for each in self.steps)})

    def __hash__(self) -> int:
        return hash(self.line)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line such as ``sleb(share=0.5) | slice(dynamic, base=0)`` (``PlanError``)."""
        return cls(steps=parse_line(line))

    @property
    def line(self) -> str:
        """The line that ``parse`` reads, and that one copies."""
        return write_line(self.steps)

    @property
    def title(self) -> str:
        """The recipe in words."""
        first, *rest = [each.heading for each in self.steps] or ["Dense"]
        return ", then ".join([first, *(each[0].lower() + each[1:] for each in rest)])

    @property
    def short(self) -> str:
        """Its name in tables."""
        return "/".join(each.short for each in self.steps) or "dense"

    @property
    def short_title(self) -> str:
        """Its name in headings, without its settings."""
        return ", ".join(each.short_title for each in self.steps) or "Dense"

    @property
    def kind(self) -> Kind | None:
        """The part that it makes smaller; ``None`` for the dense model."""
        axes: set[Axis] = {each.axis for each in self.cutting}
        if not axes:
            return None
        if len(axes) > 1:
            return "both"
        return _KINDS[axes.pop()]

    @property
    def control(self) -> bool:
        """Tell whether it is there to be beaten."""
        return any(each.control for each in self.steps)

    @property
    def by_chance(self) -> bool:
        """Tell whether something of it is drawn at random."""
        return any(each.by_chance for each in self.steps)

    @property
    def quick(self) -> bool:
        """Tell whether a public server lets visitors ask for it; see ``Step.quick``."""
        return all(each.quick for each in self.steps)

    @property
    def opens_everywhere(self) -> bool:
        """Tell whether what it leaves of an ordinary checkpoint is one too; healing changes no form."""
        return all(each.opens_everywhere for each in self.cutting)

    @property
    def repaired(self) -> str:
        """The repair that follows its last step that cuts; ``none`` where nothing is repaired."""
        return self.cutting[-1].repair if self.steps else "none"

    @property
    def cites(self) -> tuple[str, ...]:
        """Whom to cite who uses it, each once."""
        return tuple(dict.fromkeys(each for step in self.steps for each in step.cites))

    def check_budget(self, budget: Budget) -> None:
        """Raise ``PlanError`` for a budget that one of its steps cannot keep, whatever the model."""
        for each in self.steps:
            each.check_budget(budget)

    def is_constant_at(self, budget: Budget) -> bool:
        """Tell whether it is constant slicing at a budget, by definition, so that it need not be run."""
        return len(self.steps) == 1 and self.steps[0].is_constant_at(budget)

    def in_form(self, form: Slicing, one_shot: bool | None = None, windows: int | None = None) -> Self:
        """Give all steps the form that the recipes of a study share; see ``Step.in_form``."""
        return type(self)(steps=tuple(each.in_form(form, one_shot, windows) for each in self.steps))

    @property
    def calibrated(self) -> bool:
        """Whether something is found from Gram matrices of the calibration text: bases, or a fit."""
        return bool(self.fits())

    def searches(self, budget: Budget) -> bool:
        """Whether a share, or shares, are searched for at a budget."""
        return any(each.share == "search" or each.search_key(budget) for each in self.steps)

    def fits(self) -> set[Fit]:
        """Name the things that it fits to the calibration text."""
        return {fit for step in self.steps for fit in step.fits()}
