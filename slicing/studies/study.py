"""A study: recipes by budgets by seeds, all judged on the same windows. The first recipe is the baseline.

A comparison, a sweep, a contest and a leaderboard are ways to write one, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from analysis.errors import PlanError
from analysis.numbers import Seed
from analysis.shape import ModelShape
from slicing.budget import Budget
from slicing.plans import Plan, Slicing
from slicing.steps import STEPS
from slicing.steps.inner import Inner
from slicing.steps.removal import Removal
from slicing.steps.slice import Slice
from slicing.studies.recipe import Recipe
from slicing.studies.requests import MOST_REPETITIONS, Judged, Phases, Trial

View = Literal["comparison", "map", "ranking", "frontier"]
"""How a study is looked at first: a pair of models from near, bases by targets as a map, all recipes at one
size, or all sizes."""
MOST_TRIALS = 10_000
"""Of one study; a file that asks for more is not read, since every trial is made to be checked."""

FEW_TRIALS = 6
"""Of so many trials each is told with phases of its own."""


class Study(Judged):
    """Recipes by budgets by seeds. Checked when it is made: ``PlanError``."""

    kind: Literal["study"] = "study"
    recipes: tuple[Recipe, ...]
    """The first is the baseline, which all others are measured by. The dense model is always judged too."""
    budgets: tuple[Budget, ...] = (Budget(),)
    seeds: tuple[Seed, ...] = (0,)
    """Of the calibration windows; ``seed`` is always the first. Recipes that are there to be beaten run for
    that alone."""
    redrawn: tuple[Recipe, ...] = ()
    """Recipes that every seed calibrates; the others the first seed alone, but for the baseline. Empty for
    all: several draws are for what the question is about, and take their time."""
    jitter: int = Field(
        default=0,
        title="Repetitions with noise",
        description="So many times each calibrated recipe is repeated on the same windows, with relative "
        "noise of 1e-6 on the Gram matrices that its bases and fits are found from. A difference smaller "
        "than what the noise does to it is no clear difference.",
    )
    """Recipes that nothing is fitted for, and the dense model, are not repeated."""
    healing_tokens: int = Field(
        default=0,
        ge=0,
        title="Tokens of training",
        description="Every step that heals trains on so many tokens, unless it names tokens or minutes "
        "itself. 0: on its usual number, which is not the same for all of them.",
    )
    """Recipes have it written into their steps when the study is made."""
    matched: bool = False
    """Whether the baseline is judged once more beside each other recipe, at as many parameters as that
    leaves."""
    lens: bool = False
    """Measure the logit lens with the profile."""
    view: View = "ranking"
    """How it is looked at first, which changes no number."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.healing_tokens:
            for name in ("recipes", "redrawn"):
                given = tuple(each.on_tokens(self.healing_tokens) for each in getattr(self, name))
                object.__setattr__(self, name, given)
        lines = [each.line for each in self.recipes]
        budgets = [each.line for each in self.budgets]
        for what, values in (("recipes", lines), ("budgets", budgets), ("seeds", list(self.seeds))):
            if not values or len(set(values)) < len(values):
                raise PlanError(f"A study needs distinct {what}, but got {values}: name each once.")
        if not all(each.steps for each in self.recipes):
            raise PlanError("The dense model is judged in every study: leave 'dense' out of the recipes.")
        for each in self.redrawn:
            if each not in self.recipes:
                raise PlanError(
                    f"'{each.line}' is to be drawn anew for every seed, but is none of the recipes: name it "
                    "among the recipes too."
                )
        if not 0 <= self.jitter <= MOST_REPETITIONS:
            raise PlanError(
                f"A study has from 0 to {MOST_REPETITIONS} repetitions with noise (jitter), but got "
                f"{self.jitter}: choose a number between."
            )
        trials = len(lines) * len(budgets) * len(self.seeds) * (1 + self.jitter)
        if trials > MOST_TRIALS:
            raise PlanError(
                f"This asks for {trials:,} trials, but {MOST_TRIALS:,} are the most of one run: name fewer "
                "recipes, budgets, seeds or repetitions."
            )
        object.__setattr__(self, "seed", self.seeds[0])
        self.trials()  # each is checked as it is made
        return self

    @property
    def baseline(self) -> Recipe:
        """The recipe that all others are measured by."""
        return self.recipes[0]

    def recipes_used(self) -> tuple[Recipe, ...]:
        """All of them."""
        return self.recipes

    def warnings(self, shape: ModelShape | None) -> tuple[str, ...]:
        """Those of all requests, and recipes that are trained on different amounts of text."""
        amounts = {each.line: _amount(each) for each in self.recipes if each.heals}
        told = super().warnings(shape)
        if len(set(amounts.values())) < 2:
            return told
        listed = "; ".join(f"'{line}' on {amount}" for line, amount in amounts.items())
        return (
            *told,
            f"Recipes are healed on different amounts of text, which flatters those with more: {listed}. Set "
            "the tokens of training (healing_tokens) for all of them.",
        )

    def recipe(self, line: str) -> Recipe | None:
        """The recipe that this line writes, where it takes part."""
        return next((each for each in self.recipes if each.line == line), None)

    def dense(self) -> Trial:
        """The trial of the dense model."""
        return self._trial(Recipe(), None, self.seeds[0])

    def trial(self, recipe: Recipe, budget: Budget, seed: int, draw: int = 0) -> Trial | None:
        """The trial of a recipe at a budget, calibrated by a seed, with a draw of noise; 0 for none.

        ``None`` where the base of dynamic slicing reaches the target: by definition constant slicing.
        """
        return None if recipe.is_constant_at(budget) else self._trial(recipe, budget, seed, draw)

    def seeds_of(self, recipe: Recipe) -> tuple[int, ...]:
        """The seeds that a recipe is calibrated by."""
        once = self.redrawn and recipe not in self.redrawn and recipe != self.baseline
        return self.seeds[:1] if recipe.control or once else self.seeds

    def draws_of(self, recipe: Recipe) -> range:
        """The draws of noise that a recipe is run with; 0, which is none, is the first."""
        return range(1 + self.jitter if recipe.calibrated else 1)

    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order they are run, each once: dense, then budget by budget and seed by seed.

        All are run without noise before any is repeated with it.
        """
        found = [self.dense(), *self._trials(self.recipes)]
        return tuple({trial.key: trial for trial in found}.values())

    def matches(self) -> tuple[Trial, ...]:
        """The trials that the baseline is judged beside once more, at as many parameters as they leave."""
        return tuple(self._trials(self.recipes[1:])) if self.matched else ()

    def _trials(self, recipes: Sequence[Recipe]) -> Iterator[Trial]:
        for draw in range(1 + self.jitter):
            for budget in self.budgets:
                for seed in self.seeds:
                    for recipe in recipes:
                        if seed not in self.seeds_of(recipe) or draw not in self.draws_of(recipe):
                            continue
                        if trial := self.trial(recipe, budget, seed, draw):
                            yield trial

    def matched_trial(self, beside: Trial, parameters: int) -> Trial:
        """The trial of the baseline at as many parameters as another trial's model has."""
        budget = Budget(measure="size", amount=parameters)
        return self._trial(self.baseline, budget, beside.seed, beside.jitter)

    @property
    def told_singly(self) -> bool:
        """Tell whether each trial has phases of its own, which of many would be too many to name."""
        return len(self.trials()) + len(self.matches()) <= FEW_TRIALS

    def phases(self) -> Phases:
        """Give the phases that its trials share, then those of each."""
        trials = [(trial.short, trial) for trial in self.trials()]
        trials += [(f"{self.baseline.short}-matched", trial) for trial in self.matches()]
        each = [(f"{phase} {name}", work) for name, trial in trials for phase, work in trial.own_phases()]
        if not self.told_singly:
            each = [("Trials", sum(work for _, work in each))]
        return (*self.shared_phases(), *each)

    def _trial(self, recipe: Recipe, budget: Budget | None, seed: int, draw: int = 0) -> Trial:
        shared = {name: getattr(self, name) for name in Judged.model_fields}
        if budget is None or not recipe.searches(budget):  # then it is the same trial whatever text is named
            shared["search_text"] = None
        if not recipe.heals:
            shared["healing_text"] = None
        return Trial(**{**shared, "seed": seed}, recipe=recipe, budget=budget, jitter=draw)


def _amount(recipe: Recipe) -> str:
    tokens, minutes = recipe.trains_on
    said = [f"{tokens:,} tokens"] if tokens else []
    return " and ".join([*said, *([f"{minutes:g} minutes"] if minutes else [])])


# Ways to write a study


def sliced(plan: Slicing, one_shot: bool = False, repair: str = "none") -> Recipe:
    """The recipe of one step of slicing, at whatever target."""
    fields = {name: getattr(plan, name) for name in Slicing.model_fields}
    return Recipe(steps=(Slice(**fields, one_shot=one_shot, repair=repair),))


def constant_beside(plan: Slicing, one_shot: bool = False, repair: str = "none") -> Recipe:
    """Constant slicing as published, in the form of a plan, which is what the plan is measured by."""
    form = {name: getattr(plan, name) for name in ("rounding", "max_fraction", "embedding")}
    return sliced(Slicing(allocation="constant", **form), one_shot, repair)


def comparison(plan: Plan, *, one_shot: bool = False, repair: str = "none", **judged: Any) -> Study:
    """Compare a plan to constant slicing, at equal mean slice and at equal parameters."""
    recipes = (constant_beside(plan, one_shot, repair), sliced(plan, one_shot, repair))
    return Study(
        **{"new_tokens": 40, "speed_rounds": 5, **judged},
        recipes=recipes[:1] if recipes[0] == recipes[1] else recipes,
        budgets=(Budget(amount=plan.target),),
        seeds=(judged.get("seed", 0),),
        matched=True,
        view="comparison",
    )


def sweep(
    plan: Slicing,
    bases: Sequence[float] = (0.0, 0.1, 0.2),
    targets: Sequence[float] = (0.15, 0.25, 0.35),
    *,
    one_shot: bool = False,
    repair: str = "none",
    **judged: Any,
) -> Study:
    """Try each base (SB) of a plan's allocation at each target (SP), beside constant slicing."""
    rule = plan.rule()
    if "base" not in type(rule).model_fields:
        raise PlanError(f"The allocation '{plan.allocation}' has no base to sweep over: choose 'dynamic'.")
    for what, values in (("bases (SB)", bases), ("targets (SP)", targets)):
        if not values or len(set(values)) < len(values):
            raise PlanError(f"A sweep needs distinct {what}, but got {list(values)}: name each once.")
    fields = {name: getattr(plan, name) for name in Slicing.model_fields}
    each = (Slicing(**{**fields, "settings": {**plan.settings, "base": value}}) for value in bases)
    return Study(
        **judged,
        recipes=(constant_beside(plan, one_shot, repair), *(sliced(one, one_shot, repair) for one in each)),
        budgets=tuple(Budget(amount=target) for target in targets),
        seeds=(judged.get("seed", 0),),
        view="map",
    )


def contest(
    recipes: Sequence[Recipe],
    target: float = 0.25,
    *,
    equal: Literal["parameters", "slice"] = "parameters",
    seeds: Sequence[int] = (0, 1, 2),
    **judged: Any,
) -> Study:
    """Set recipes against each other at the size that constant slicing at a target leaves, or at equal mean
    slice (the published protocol).
    """
    measure = "like_constant" if equal == "parameters" else "mean_slice"
    return Study(
        **judged,
        recipes=tuple(recipes),
        budgets=(Budget(measure=measure, amount=target),),
        seeds=tuple(seeds),
        view="ranking",
    )


def leaderboard(
    recipes: Sequence[Recipe],
    sizes: Sequence[float] = (0.1, 0.2, 0.3),
    *,
    seeds: Sequence[int] = (0,),
    **judged: Any,
) -> Study:
    """Set recipes against each other at several shares of the parameters that go."""
    return Study(
        **judged,
        recipes=tuple(recipes),
        budgets=tuple(Budget(measure="parameters", amount=size) for size in sizes),
        seeds=tuple(seeds),
        view="frontier",
    )


def recipes(*lines: str) -> tuple[Recipe, ...]:
    """Read recipes of their lines (``PlanError``)."""
    return tuple(map(Recipe.parse, lines))


USUAL = (
    "slice(constant)",
    "slice(dynamic, base=0)",
    "slice(dynamic)",
    "slice(dynamic, leave-one-out, base=0)",
    "slice(dynamic, slice-one, base=0)",
    "slice(dynamic, discarded-energy, base=0)",
    "slice(dynamic, heavy-tail, base=0)",
    "slice(softmax, block-influence)",
    "slice(band, heavy-tail)",
    "slice(rising)",
    "slice(falling)",
    "slice(inverted, base=0)",
    "slice(water-filling, slice-one)",
    "slice(water-filling, discarded-energy)",
    "slice(searched)",
    "slice(random)",
    *(f"slice(random, draw={draw})" for draw in range(1, 5)),
    "slice(constant, repair=writers)",
    "slice(dynamic, base=0, repair=writers)",
    "slice(searched, repair=writers)",
    "slice(constant, blocks_per_basis=3)",
    "slice(dynamic, base=0, blocks_per_basis=3)",
    "slice(constant, blocks_per_basis=3, repair=writers)",
    "slice(dynamic, base=0, blocks_per_basis=3, repair=writers)",
)
"""Everyone of a contest: rules, scores, the search, five random baselines, repair, and shared bases."""


def _methods(base: type[Removal] | type[Inner]) -> tuple[str, ...]:
    """Every method of a family, with the settings of its variants."""
    kinds = [kind for kind in STEPS.values() if issubclass(kind, base)]
    lines = (
        f"{kind.name}({variant})" if variant else kind.name for kind in kinds for variant in kind.variants
    )
    return tuple(Recipe.parse(line).line for line in lines)


_SHARED = "slice(dynamic, base=0, blocks_per_basis=3, repair=writers)"
BOARD = (
    "slice(constant)",
    "slice(dynamic, base=0)",
    _SHARED,
    *_methods(Removal),
    *_methods(Inner),
    "llm-streamline(repair=linear)",
    "sleb(repair=linear)",
    "sleb(repair=last-writer)",
    "llm-streamline(repair=train-block)",
    "shortgpt(repair=writers)",
    "llm-streamline(repair=writers)",
    "sleb(repair=writers)",
    "llm-streamline(repair=projections)",
    "fasp(repair=writers)",
    "mixed(repair=projections)",
    "llm-streamline(share=0.5) | mixed(repair=projections)",
    f"llm-streamline(share=0.5) | {_SHARED}",
    f"sleb(share=0.5) | {_SHARED}",
)
"""Everyone of a leaderboard: width, every method of removal, repairs, and half of each."""
