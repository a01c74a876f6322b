"""Requests: what one run was asked for, whole. The same request, from the web or the command line, has the
same key and gives the same run. A study of several runs stands in ``slicing.studies.study``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from analysis.errors import PlanError
from analysis.numbers import Seed
from analysis.precision import Precision
from analysis.shape import ModelShape
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.speed import NEW_TOKENS, PROMPT_TOKENS
from analysis.values import Value
from slicing.budget import Budget
from slicing.calibration import Fit, same_text, too_few_tokens
from slicing.inner.select import CURVED
from slicing.plans import Plan, Slicing
from slicing.probes import NEED_SLICING
from slicing.steps.slice import Slice
from slicing.studies.recipe import Recipe
from slicing.wish import Wish

MOST_REPETITIONS = 100
"""With noise, of each calibrated recipe of a study, at most."""
PROMPT = "Mr. Speaker, the state of our Union is"
DEMO_CALIBRATION = TextSource(kind="demo", split="calibration")
Search = Literal["none", "beside", "alone"]
SEARCHED = 16
"""Windows behind the calibration windows that searches are judged on, at most; healing leaves them alone."""
Phases = tuple[tuple[str, float], ...]
"""The phases of a job in order, each with its work: the unit is one token through the decoder."""
_START: Phases = (("Opening", 0.0), ("Reading text", 0.0))


class Request(Value):
    """Ask for one run: every request names a model, and windows of text that its profile is measured on."""

    changes_weights: ClassVar[bool] = True
    """Whether it takes the weights as plain numbers, which quantised ones are not."""
    model: ModelSource

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        for name in type(self).model_fields:
            source = getattr(self, name)
            if name != "healing_text" and getattr(source, "label_column", None):
                raise PlanError(
                    f"The text '{source.label}' has labels, which only healing takes: leave the column of "
                    "labels out, or name this text as the healing text."
                )
        return self

    @property
    @abstractmethod
    def profile_draw(self) -> tuple[int, int, int]:
        """Tell how many windows are profiled, of how many that are drawn, and the draw's (first) seed."""

    @property
    @abstractmethod
    def profile_text(self) -> TextSource:
        """The text that the profile is measured on."""

    def recipes_used(self) -> tuple[Recipe, ...]:
        """The recipes that it carries out, each once."""
        return ()

    @abstractmethod
    def warnings(self, shape: ModelShape | None) -> tuple[str, ...]:
        """Warn of what flatters or spoils the result, a sentence each.

        ``shape`` is the dense model's; without it, as for one that cannot be sliced, nothing is said of how
        much text is enough.
        """

    def phases(self) -> Phases:
        """Give the phases of the job in order, each with its share of the work, for an honest time left.

        Every job begins with these; each kind of request adds its own.
        """
        return _START


class ProfileRequest(Request):
    """Measure how much every block changes its input."""

    changes_weights = False
    kind: Literal["profile"] = "profile"
    text: TextSource
    windows: int = 8
    window_length: int = 512
    seed: Seed = 0
    bases: bool = False
    """Keep the bases of the stream with the run (of a sliceable model), so that plans can be previewed."""
    probes: tuple[str, ...] = ()
    """Scores with passes of their own that are measured too, by their names."""
    lens: bool = False
    """Measure the logit lens too: the loss when the stream goes straight to the head after each block."""
    units: bool = False
    """Predict too what every part inside the blocks costs: channels, heads, values, whole attentions and
    MLPs (of a sliceable model)."""
    units_measured: bool = False
    """With ``units``: measure too what every whole attention and MLP costs."""
    drawn: int | None = None
    """The windows are the first of a draw of so many, as those that slicing profiles are the first of its
    calibration windows; ``None`` for a draw of ``windows``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.drawn is not None and self.drawn < self.windows:
            raise PlanError(
                f"A profile of {self.windows} windows needs a draw of as many, but {self.drawn} are to be "
                "drawn: draw more calibration windows, or profile fewer."
            )
        if self.units_measured and not self.units:
            raise PlanError(
                "What whole attentions and MLPs cost is measured beside what is predicted: ask for the costs "
                "of units (units) too."
            )
        return self

    @property
    def profile_draw(self) -> tuple[int, int, int]:
        """All windows, unless more are drawn."""
        return self.windows, self.drawn or self.windows, self.seed

    @property
    def profile_text(self) -> TextSource:
        """The only text."""
        return self.text

    def warnings(self, shape: ModelShape | None) -> tuple[str, ...]:
        """Too few tokens for bases, where they are found."""
        if shape is None or not (self.bases or any(name in NEED_SLICING for name in self.probes)):
            return ()
        return too_few_tokens({"bases"}, shape, self.windows, self.window_length)

    def phases(self) -> Phases:
        """One pass, and what is asked for beside it."""
        tokens = self.windows * self.window_length
        steps = [*_START, ("Profiling", 1.0 * tokens)]
        if self.lens:
            steps.append(("Looking through the head", 10.0 * tokens))  # the head once for every block
        steps += [("Finding bases", 800.0)] if self.bases else []
        if passing := [name for name in self.probes if name in ("leave-one-out", "slice-one")]:
            steps.append(("Probing", 20.0 * len(passing) * tokens))
        if self.units:
            curved = min(self.windows, CURVED) * self.window_length
            steps += [("Going back through the blocks", 4.0 * curved)]
            steps += [("Looking inside the blocks", 2.0 * tokens + 14_000.0)]  # the order of units
        if self.units_measured:
            steps.append(("Measuring branches", 30.0 * tokens))  # half a pass for each, and the head
        return tuple(steps)


class Calibrated(Request):
    """Say where profile and bases come from, as every request does that makes models smaller."""

    calibration: TextSource
    calibration_windows: int = 16
    search_text: TextSource | None = Field(
        default=None,
        title="Search on a text of its own",
        description="What is searched for, such as a share, is judged on windows of this text, and else on "
        "further windows of the calibration text. What does best there need not do best on other texts.",
    )
    healing_text: TextSource | None = Field(
        default=None,
        title="Heal on a text of its own",
        description="Steps that train what is left draw from this text, and else from what calibration and "
        "searches leave of the calibration text. FILE#TEXT:LABEL names a table with labels to learn.",
    )
    profile_windows: int = 8
    """The profile is measured on this many of the calibration windows."""
    window_length: int = 512
    seed: Seed = 0
    calibration_precision: Precision = Field(
        default="exact",
        title="Calibrate with products in bfloat16",
        description="A model in float32 then multiplies in bfloat16 while it reads the calibration "
        "text. Processors with instructions for that do it two to four times as fast. It changes the "
        "perplexity of what is made by less than another draw of the windows does.",
    )
    """That of the model's products in every pass that bases, moments and fits are found from
    (``analysis.precision.calibrating``). The pass of the profile, training and all evaluations are
    as without it; scores that are made of bases or moments are not."""

    @property
    def profile_draw(self) -> tuple[int, int, int]:
        """The first of the calibration windows."""
        return self.profile_windows, self.calibration_windows, getattr(self, "seeds", (self.seed,))[0]

    @property
    def profile_text(self) -> TextSource:
        """The calibration text."""
        return self.calibration

    def fits(self) -> set[Fit]:
        """Name the things that are fitted to the calibration text."""
        return {fit for recipe in self.recipes_used() for fit in recipe.fits()}

    def warnings(self, shape: ModelShape | None) -> tuple[str, ...]:
        """A text that is calibrated and judged on, and too few tokens for what is fitted."""
        evaluation, other = (getattr(self, name, None) for name in ("evaluation", "other"))
        told = same_text(self.calibration, evaluation, other)
        if self.search_text is not None:
            told += same_text(self.search_text, evaluation, other, what="Search")
        if self.healing_text is not None:
            told += same_text(self.healing_text, evaluation, other, what="Healing")
        if shape is None:
            return told
        told += too_few_tokens(self.fits(), shape, self.calibration_windows, self.window_length)
        steps = (step for recipe in self.recipes_used() for step in recipe.steps)
        return tuple(dict.fromkeys((*told, *(each for step in steps for each in step.warnings(shape)))))

    def shared_phases(self) -> Phases:
        """Give the phases that come before any recipe."""
        return (*_START, ("Profiling", 1.0 * self.profile_windows * self.window_length))

    def recipe_phases(self, recipe: Recipe) -> Phases:
        """Give the phases of a recipe's steps."""
        tokens = self.calibration_windows * self.window_length
        return tuple(part for step in recipe.steps for part in step.cost(tokens, self.window_length))


def drawn_for(windows: int, calibration_windows: int | None = None) -> int | None:
    """Say of how many calibration windows a profile request takes the first: by default of the usual."""
    usual = max(windows, Calibrated.model_fields["calibration_windows"].default)
    drawn = usual if calibration_windows is None else calibration_windows
    return None if drawn == windows else drawn


class SearchRequest(Calibrated):
    """Look for the shares of a plan whose previews lose least, on calibration windows of the search's own."""

    kind: Literal["search"] = "search"
    plan: Plan
    """Of the allocation ``searched``: target, form and rounding, and for how long."""
    windows: int = 4
    """For the losses, drawn after the calibration windows and so disjoint from them."""

    def recipes_used(self) -> tuple[Recipe, ...]:
        """Slicing by one-shot bases, which its previews are made of."""
        fields = {name: getattr(self.plan, name) for name in Slicing.model_fields}
        return (Recipe(steps=(Slice(**fields, one_shot=True),)),)

    def phases(self) -> Phases:
        """The bases once, then hundreds of previews."""
        return (
            *_START,
            ("Finding bases", 1.2 * self.calibration_windows * self.window_length),
            ("Searching", 9e4),
        )


class CompressRequest(Calibrated):
    """Make one smaller model and keep it."""

    kind: Literal["compress"] = "compress"
    recipe: Recipe
    budget: Budget = Budget()
    evaluation: TextSource | None = None
    """Text for the perplexities on the model card; ``None`` for a card without."""
    evaluation_windows: int = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.recipe.steps:
            raise PlanError(
                "The recipe 'dense' makes no model smaller: name a step, such as 'slice(dynamic)'."
            )
        self.recipe.check_budget(self.budget)
        return self

    def recipes_used(self) -> tuple[Recipe, ...]:
        """The one."""
        return (self.recipe,)

    def phases(self) -> Phases:
        """Profile, steps, evaluation of both models, saving."""
        evaluating = 1.0 * self.evaluation_windows * self.window_length
        judged = (("Evaluating dense", evaluating), ("Evaluating", evaluating)) if self.evaluation else ()
        return (*self.shared_phases(), *self.recipe_phases(self.recipe), *judged, ("Saving", 0.0))


class Judged(Calibrated):
    """Say on what models are judged, and what is measured beside the perplexity."""

    evaluation: TextSource
    evaluation_windows: int = 16
    other: TextSource | None = None
    """A second text to evaluate on, as many windows of it."""
    prompt: str = PROMPT
    new_tokens: int = 0
    """Length of the text that each model generates as an illustration; 0 for none."""
    int8: bool = False
    """Measure too what each model is worth with its matrices in 8 bits."""
    speed_rounds: int = 0
    """Rounds in which each smaller model is timed in turn with the dense one; 0 for none."""
    tasks: tuple[str, ...] = ()
    """Of the lm-evaluation-harness, for everyone's accuracy beside the perplexity."""
    task_limit: int | None = None
    """Examples per task at most."""
    task_folder: Path | None = None
    """A folder of further tasks in YAML; functions that they name are run."""

    def judging_phases(self, recipe: Recipe) -> Phases:
        """Give the phases of judging the model of a recipe."""
        evaluating = (1.0 + (self.other is not None)) * self.evaluation_windows * self.window_length
        found = [("Evaluating", evaluating)]
        if self.int8:
            found.append(("Evaluating in int8", 1.0 * self.evaluation_windows * self.window_length))
        if self.tasks:
            found.append(
                ("Tasks", len(self.tasks) * 300.0 * (self.task_limit or 1000))
            )  # a guess: they differ
        if self.speed_rounds and recipe.steps:  # a prompt and some tokens, by two models
            found.append(("Timing", 2.0 * self.speed_rounds * (PROMPT_TOKENS + 20 * NEW_TOKENS)))
        return tuple(found)


class Trial(Judged):
    """One recipe at one budget with one seed, judged. What studies are made of."""

    kind: Literal["trial"] = "trial"
    recipe: Recipe = Recipe()
    budget: Budget | None = None
    """``None`` for the dense model, and for it alone."""
    search: Search = "none"
    """Whether it is judged, with as many windows and ``SEARCHED`` at most, on those that searches are judged
    on: not at all, beside the evaluation text, or instead of it. They choose; the evaluation text tells."""
    jitter: int = 0
    """The draw of the noise on the Gram matrices that bases and fits are found from; 0 for none. See
    ``analysis.bases.jittered``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.jitter <= MOST_REPETITIONS:
            raise PlanError(
                f"A draw of noise (jitter) is from 1 to {MOST_REPETITIONS}, or 0 for none, but got "
                f"{self.jitter}: choose a number between."
            )
        if (self.budget is None) == bool(self.recipe.steps):
            raise PlanError(
                f"The recipe '{self.recipe.line}' needs a budget, such as 'parameters=0.2'."
                if self.budget is None
                else "The dense model takes no budget: leave it out, or name a step."
            )
        if self.budget is not None:
            self.recipe.check_budget(self.budget)
        return self

    def recipes_used(self) -> tuple[Recipe, ...]:
        """The one."""
        return (self.recipe,)

    @property
    def short(self) -> str:
        """Its name among the phases of a study."""
        return f"{self.recipe.short}{f' with noise {self.jitter}' if self.jitter else ''}"

    @property
    def calibration_key(self) -> str:
        """The same for trials that share model, calibration windows, profile and noise."""
        shared = {name: getattr(self, name) for name in Calibrated.model_fields if name != "healing_text"}
        return Trial(**shared, evaluation=self.calibration, jitter=self.jitter).key

    @property
    def view_key(self) -> str:
        """The same for trials that share these and the windows that they are judged on."""
        usual = {name: field.get_default() for name, field in Trial.model_fields.items()}
        alone = (
            "recipe",
            "budget",
            "healing_text",
            "prompt",
            "new_tokens",
            "int8",
            "speed_rounds",
            "tasks",
            "task_limit",
            "task_folder",
        )
        return self.model_copy(update={name: usual[name] for name in alone}).key

    def compress_request(self) -> CompressRequest:
        """The request that makes and keeps this trial's model (``PlanError`` for the dense one)."""
        shared = {name: getattr(self, name) for name in Calibrated.model_fields}
        return CompressRequest(
            **shared, recipe=self.recipe, budget=self.budget or Budget(), evaluation=self.evaluation
        )

    def phases(self) -> Phases:
        """Profile, steps, judgement."""
        return (*self.shared_phases(), *self.own_phases())

    def own_phases(self) -> Phases:
        """Give the phases that it shares with no other trial."""
        beside = (
            (("Evaluating on search windows", 1.0 * self.evaluation_windows * self.window_length),)
            if self.search == "beside"
            else ()
        )
        return (*self.recipe_phases(self.recipe), *self.judging_phases(self.recipe), *beside)


class ShrinkRequest(Judged):
    """Find the way to a wish, and keep the model: candidates halved on search windows, the rest judged."""

    kind: Literal["shrink"] = "shrink"
    wish: Wish
    speed_rounds: int = 5
    """Of timing finalists; see ``Judged``."""
    preview_windows: int = 8
    """Of the calibration windows, so many are what previews are made from."""
    search_windows: int = 8
    """Search windows that full forms are judged on; previews are on half of them, and finalists on as many as
    there are of evaluation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.search_text is None and self.calibration == DEMO_CALIBRATION:
            object.__setattr__(self, "search_text", TextSource(kind="demo", split="search"))
        for name in ("preview_windows", "search_windows"):
            if not 2 <= (got := getattr(self, name)) <= SEARCHED:
                what = name.replace("_", " ")
                raise PlanError(
                    f"The number of {what} must be from 2 to {SEARCHED}, but got {got}: choose one between."
                )
        return self

    def recipes_used(self) -> tuple[Recipe, ...]:
        """None that are known before."""
        return ()

    def fits(self) -> set[Fit]:
        """Whatever a method may fit."""
        return {"bases", "writers"}

    def trial(self, recipe: Recipe, budget: Budget | None, rung: Literal[1, 2, 3]) -> Trial:
        """The trial of a recipe, or of the dense model, at a rung: a preview, the full form, a finalist."""
        shared = {name: getattr(self, name) for name in Judged.model_fields}
        if not recipe.heals:
            shared["healing_text"] = None
        if rung < 3:
            usual = {name: field.get_default() for name, field in Judged.model_fields.items()}
            alone = ("other", "prompt", "new_tokens", "speed_rounds", "tasks", "task_limit", "task_folder")
            shared |= {name: usual[name] for name in alone}
            shared |= {"evaluation": self.search_text or self.calibration}
            shared |= {"evaluation_windows": self.search_windows // (1 if rung == 2 else 2)}
        if rung == 1:
            windows = min(self.preview_windows, self.calibration_windows)
            shared |= {"calibration_windows": windows, "profile_windows": min(self.profile_windows, windows)}
        search: Search = "beside" if rung == 3 else "alone"
        return Trial(**shared, recipe=recipe, budget=budget, search=search)

    def phases(self) -> Phases:
        """Rungs by their share of the minutes, at a pace that stands for any."""
        work = 60_000.0 * self.wish.minutes
        rungs = (("Previews", 0.25), ("Full forms", 0.25), ("Finalists", 0.5))
        return (*_START, *((name, share * work) for name, share in rungs))


def by_view(trials: Sequence[Trial]) -> list[Trial]:
    """Put trials that share a view one behind the other, so that what is measured of the dense model is
    measured once; else in their order.
    """
    views = list(dict.fromkeys(trial.view_key for trial in trials))
    return sorted(trials, key=lambda trial: views.index(trial.view_key))
