"""A step: one thing that is done to a model. One file here is one method, and registers itself.

A step is a frozen value. Its fields are its settings: they draw the forms in the app, they are the arguments
in a recipe's line, and they go into the run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from analysis.errors import PlanError, unknown_name
from analysis.values import Value, first_fault
from slicing.budget import Budget
from slicing.calibration import Fit
from slicing.depth.layout import Layout
from slicing.healing.record import Healed
from slicing.inner.sink import LostSink
from slicing.inner.widths import InnerWidths
from slicing.registry import Registry
from slicing.repair import Repair, held_out
from slicing.repairs import REPAIRS, find_repair

if TYPE_CHECKING:
    from analysis.needs import MemoryNeed
    from analysis.shape import ModelShape
    from slicing.plans import Slicing
    from slicing.slicer import SlicedModel
    from slicing.view import ModelView

Axis = Literal["stream", "blocks", "inner", "weights"]
"""What a step makes smaller: the width of the residual stream, the number of blocks, or the widths inside; or
``weights`` of one that makes nothing smaller, and trains what is left."""
Cost = tuple[tuple[str, float], ...]
"""The phases of a step, each with its work in tokens through the decoder."""


@dataclass(frozen=True)
class Made:
    """A model as the steps so far have made it, and what that took."""

    model: Any
    layout: Layout | None = None
    """Which blocks are left; ``None`` for all."""
    sliced: SlicedModel | None = None
    """How it is sliced; ``None`` where it is not."""
    inner: InnerWidths | None = None
    """How much stays inside its blocks; ``None`` where all does."""
    repair: Repair | None = None
    healed: tuple[Healed, ...] = ()
    """What each step of healing did."""
    sink: LostSink | None = None
    """Where the attention sink is lost; ``None`` where it is not, or was not looked at."""
    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes of the device, at the peak of what was done to the model."""
    line: str = ""
    """The steps so far and their budget, as they are written."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever uses the model must know, a sentence each."""
        return (self.sink.told,) if self.sink else ()


class Step(Value):
    """One thing that is done to a model. Subclasses are listed in ``STEPS``."""

    # A run is of few of the steps: each is built when it is first used.
    model_config = ConfigDict(defer_build=True)

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    cite: ClassVar[str] = ""
    """A key of ``app.citations.ENTRIES``, or a BibTeX entry of its own."""
    known_issue: ClassVar[str] = ""
    """What is known against the method, or against its released code, in one sentence."""
    axis: ClassVar[Axis]
    positional: ClassVar[tuple[str, ...]] = ()
    """Fields that a recipe's line may give without their names, in this order."""
    repairs: ClassVar[Collection[str]] = ()
    """Names of the repairs that it can be followed by."""
    variants: ClassVar[tuple[str, ...]] = ("",)
    """The settings with which it is a candidate where methods are chosen from, as a line writes them."""

    share: float | Literal["search"] = 1.0
    """Of what is still to go, so much goes by this step and the rest by the next one. ``search``: whichever
    of ``SHARES`` loses least as a preview, on calibration windows of its own."""
    repair: str = "none"
    """What is fitted to the calibration text, so that the smaller model follows the dense one: a name in
    ``slicing.repairs.REPAIRS``, or ``none``."""

    @model_serializer(mode="wrap")
    def _with_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"step": self.name, **dump(self)}

    @model_validator(mode="before")
    @classmethod
    def _read_own(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "step" not in data:
            return data
        return {name: value for name, value in data.items() if name != "step"}

    @model_validator(mode="after")
    def _check_step(self) -> Self:
        if self.repair != "none" and self.repair not in self.repairs:
            if self.repair not in REPAIRS:
                raise PlanError(unknown_name("repair", self.repair, ("none", *self.repairs)))
            raise PlanError(
                f"'{self.name}' cannot be followed by the repair '{self.repair}': choose from none, "
                f"{', '.join(self.repairs)}."
            )
        if self.share != "search" and not 0.0 < self.share <= 1.0:
            raise PlanError(
                f"The share that goes by '{self.name}' must be above 0 and at most 1; got {self.share:g}."
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The name of the step, and the version of its repair, are part of the key too."""
        version = 1 if self.repair == "none" else find_repair(self.repair).version
        repaired = {"repair version": version} if version != 1 else {}
        return {"step": self.name, **repaired, **super().identity()}

    # What it says of itself

    @property
    def short(self) -> str:
        """Its name in tables."""
        return self.name

    @property
    def short_title(self) -> str:
        """Its title in headings, without its settings."""
        return self.title

    @property
    def heading(self) -> str:
        """The step in words, with the settings that are not the usual ones."""
        said = [self.title]
        for name, value in self.said().items():
            if name == "share":
                said.append(
                    "a searched share"
                    if value == "search"
                    else f"{100 * value:g}\N{NO-BREAK SPACE}% of what goes"
                )
            elif name == "repair":
                said.append(repair_title(value))
            else:
                title = type(self).model_fields[name].title or name.replace("_", " ")
                told = f"{value:g}" if isinstance(value, float) else str(value)
                said.append(f"{title.lower()} {told}")
        return ", ".join(said)

    @property
    def control(self) -> bool:
        """Whether it is there to be beaten."""
        return False

    @property
    def by_chance(self) -> bool:
        """Whether it is drawn at random."""
        return False

    @property
    def quick(self) -> bool:
        """Whether a public server lets visitors ask for it: no pass for every block, no search, no training.

        A step that does not say so is not.
        """
        return False

    @property
    def opens_everywhere(self) -> bool:
        """Whether what it leaves of an ordinary checkpoint is one too, which every tool opens.

        A step that does not say so leaves none.
        """
        return False

    def for_every_tool(self) -> Self | None:
        """It in the form that leaves an ordinary checkpoint; ``None`` where it has none."""
        return self if self.opens_everywhere else None

    def full_forms(self) -> tuple[Self, ...]:
        """It with each of its repairs, the one that wins back most first, and last as it is."""
        return (*(self.read({**dict(self), "repair": name}) for name in reversed([*self.repairs])), self)

    @property
    def cites(self) -> tuple[str, ...]:
        """Whom to cite who uses it, each as ``cite`` says it."""
        repaired = () if self.repair == "none" else (find_repair(self.repair).cite,)
        return tuple(each for each in (self.cite, *repaired) if each)

    @property
    def issue(self) -> str:
        """What is known against it as it is set; see ``known_issue``."""
        return self.known_issue

    def said(self) -> dict[str, Any]:
        """The settings that differ from the usual ones, in the order of a recipe's line."""
        fields = type(self).model_fields
        own = [name for name in fields if name not in Step.model_fields]
        found = {name: getattr(self, name) for name in (*own, *Step.model_fields)}
        return {name: value for name, value in found.items() if value != fields[name].get_default()}

    @classmethod
    def settings_known(cls) -> tuple[str, ...]:
        """The names of the settings that a recipe's line can give."""
        own = [name for name in cls.model_fields if name not in Step.model_fields]
        return (*own, *Step.model_fields)

    @classmethod
    def from_said(cls, said: dict[str, Any]) -> Self:
        """Make the step of the settings that a line gives (``PlanError``)."""
        if unknown := next((name for name in said if name not in cls.settings_known()), None):
            raise PlanError(unknown_name(f"setting of '{cls.name}'", unknown, cls.settings_known()))
        return cls.read(said)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Make the step of its fields (``PlanError`` where they do not fit)."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise PlanError(
                f"The step '{cls.name}' does not take {first_fault(error, 'this')}; its settings are: "
                f"{', '.join(cls.settings_known())}."
            ) from None

    def check_budget(self, budget: Budget) -> None:
        """Refuse a budget that it cannot keep, whatever the model (``PlanError``)."""

    def is_constant_at(self, budget: Budget) -> bool:
        """Whether this is constant slicing at a budget, by definition, so that it need not be run."""
        return False

    def in_form(self, form: Slicing, one_shot: bool | None, windows: int | None) -> Self:
        """Give it the form that all recipes of a study share, as far as it has such settings.

        ``form``: rounding, largest fraction, embedding. ``one_shot``: how bases are found. ``windows``: to
        decide on. ``None`` leaves its own.
        """
        return self

    @property
    def trains_on(self) -> tuple[int, float]:
        """Tokens that it trains on, or minutes where the first is 0; both are 0 where it trains nothing."""
        return 0, 0.0

    def on_tokens(self, tokens: int) -> Self:
        """Give it so many tokens to train on, unless it has a budget of its own; others are as they are."""
        return self

    # What it does

    def fits(self) -> set[Fit]:
        """Name the things that it fits to the calibration text."""
        return set()

    def check_shape(self, shape: ModelShape, budget: Budget, windows: int) -> None:
        """Refuse what no model of this shape can give with so many calibration ``windows``: ``PlanError``."""
        budget.parameters(shape)  # which says so where more is to go than blocks hold
        if self.repair != "none":
            held_out(windows)

    def warnings(self, shape: ModelShape) -> tuple[str, ...]:
        """Warn, a sentence each, of what it costs a model of this ``shape`` beside what it is asked for."""
        return ()

    def check(self, view: ModelView, budget: Budget) -> None:
        """Refuse what this model, or this budget, cannot give, before any work (``PlanError``)."""

    def refuse_unless_it_fits(self, view: ModelView, budget: Budget) -> None:
        """Raise ``OutOfMemoryError`` where it would run out of memory, if it is the only step."""

    def memory_need(
        self, shape: ModelShape, budget: Budget, tokens: int, batch: int, itemsize: int
    ) -> MemoryNeed | None:
        """Say what it takes at its peak, with so many calibration ``tokens`` in batches of ``batch`` and
        weights of ``itemsize`` bytes; ``None`` where the shape alone does not tell.
        """
        return None

    def why_not_after(self, axes: Collection[Axis]) -> str:
        """Say in a sentence why it cannot follow steps that make these parts smaller; empty where it can."""
        return ""

    def search_key(self, budget: Budget) -> str | None:
        """The same for steps that share a search; ``None`` where nothing is to be searched."""
        return None

    def preview(self) -> Self | None:
        """A quick form of it, whose loss tells about that of its own; ``None`` to do without the step."""
        return self

    @abstractmethod
    def cost(self, tokens: int, window_length: int) -> Cost:
        """Estimate the work, with so many calibration ``tokens``: for a time left that is honest."""

    @abstractmethod
    def decide(self, view: ModelView, budget: Budget, made: Made) -> Any:
        """Decide what goes, on the dense model; ``made`` is what the steps before it have made."""

    @abstractmethod
    def apply(self, view: ModelView, plan: Any, made: Made) -> Made:
        """Do what was decided to the model that the steps before have made, and repair it."""

    @property
    def mending(self) -> Mending | None:
        """Give the repair of this step apart from the rest of it.

        ``None`` where nothing is repaired, or only together with the rest.
        """
        return None


class Mending(NamedTuple):
    """Holds a repair that goes on from the model of another step."""

    before: Step
    """The step that makes that model: the same one, unrepaired."""
    repair: Callable[[ModelView, Made], Made]
    """Makes what ``Step.apply`` of the repaired step gives, and leaves the model that it gets as it is."""


SHARES = (0.25, 0.5, 0.75)
"""Of what is to go in whole blocks, where a search decides."""
StepType = TypeVar("StepType", bound=Step)
STEPS: Registry[type[Step]] = Registry("step")
find_step = STEPS.find


def step(cls: type[StepType]) -> type[StepType]:
    """Register a step: it then appears in the app, the command line, studies, reports and the tests."""
    STEPS.put(cls.name, cls)
    return cls


def read_step(data: Any) -> Any:
    """Make a step of its JSON form, or give back what is none."""
    if not isinstance(data, dict):
        return data
    name = data.get("step")
    if not isinstance(name, str):
        raise PlanError("A step of a recipe needs its name, as in {'step': 'sleb'}.")
    return find_step(name).read({key: value for key, value in data.items() if key != "step"})


def repair_title(name: str) -> str:
    """The name of a repair in words."""
    return find_repair(name).title if name in REPAIRS else name
