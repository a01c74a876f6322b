"""Titles of tasks, runs, plans and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from analysis.scores import find_score
from analysis.sources.demo_text import DEMO_SPLITS
from analysis.sources.presets import PRESETS
from app.planned import plan_asked
from app.wording.numbers import counted, percent, within_sentence
from slicing.budget import Budget, Measure
from slicing.plans import Plan
from slicing.studies.recipe import Recipe
from slicing.studies.results import Run
from slicing.studies.study import Study

if TYPE_CHECKING:
    from app.engine import Task

UNREADABLE = "cannot be read"
"""In the place of the kind of a stored run that is broken."""


def title(task: Task) -> str:
    """Say what a job does, as a heading."""
    return TITLES[task.kind](task)


def _search_title(task: Any) -> str:
    return f"Search shares on {task.model.label}, {plan_line(task.plan)}"


def _compress_title(task: Any) -> str:
    size = budgets_line((task.budget,))
    return f"Compress {task.model.label}, {within(task.recipe)}, {size}{_precision(task)}"


def _trial_title(task: Any) -> str:
    size = f", {budgets_line((task.budget,))}" if task.budget else ""
    noise = f", with noise {task.jitter}" if task.jitter else ""
    return f"Try {task.model.label}, {within(task.recipe)}{size}{noise}{_precision(task)}"


def _precision(task: Any) -> str:
    return ", calibrated in bfloat16" if task.calibration_precision == "fast" else ""


def _profile_title(task: Any) -> str:
    """Name the text too, unless it is the demo's: profiles of one model on two texts are told apart by it."""
    on = "" if task.text.kind == "demo" else f" on {task.text.label}"
    return f"Profile {task.model.label}{on}"


def _shrink_title(task: Any) -> str:
    return f"Make {task.model.label} smaller: {task.wish.line}, in {task.wish.minutes:g} min"


def _study_title(task: Study) -> str:
    sizes, label = budgets_line(task.budgets), task.model.label
    if task.view == "comparison":
        return f"Compare {label}, {within(task.recipes[-1])}, {sizes}{_precision(task)}"
    if task.view == "map":
        return f"Map of {len(task.recipes) - 1} bases at {sizes} on {label}{_precision(task)}"
    return f"Study of {counted(len(task.recipes), 'recipe')} at {sizes} on {label}{_precision(task)}"


TITLES: dict[str, Callable[[Any], str]] = {
    "load": lambda task: f"Load {task.source.label}",
    "unload": lambda _: "Unload the model",
    "profile": _profile_title,
    "search": _search_title,
    "compress": _compress_title,
    "trial": _trial_title,
    "study": _study_title,
    "shrink": _shrink_title,
    "play": lambda task: f"Write with {task.model.label}" + (" and a smaller one" if task.smaller else ""),
}
"""How to say what a task does, by its kind."""


def run_line(run: Run) -> str:
    """A run in one line, for headings and pickers."""
    return f"{title(run.request)} · {run.created:%d %b %Y %H:%M} UTC"


def within(recipe: Recipe) -> str:
    """The title of a recipe within a sentence."""
    return within_sentence(recipe.title)


BUDGETS: dict[Measure, str] = {
    "mean_slice": "SP {}\N{NO-BREAK SPACE}%",
    "like_constant": "the size of constant slicing at SP {}\N{NO-BREAK SPACE}%",
    "parameters": "{}\N{NO-BREAK SPACE}% fewer parameters",
    "blocks": "{} blocks fewer",
    "size": "{} parameters",
}
"""Budgets of one measure in words, around their amounts."""


def budgets_line(budgets: Sequence[Budget]) -> str:
    """Budgets in one line, those of one measure together: ``10/20/30 % fewer parameters``."""
    amounts: dict[Measure, list[str]] = {}
    for each in budgets:
        scale, form = {"blocks": (1, "g"), "size": (1, ",.0f")}.get(each.measure, (100, "g"))
        amounts.setdefault(each.measure, []).append(format(scale * each.amount, form))
    return " and ".join(BUDGETS[measure].format("/".join(said)) for measure, said in amounts.items())


def plan_line(plan: Plan) -> str:
    """A plan in one line."""
    rule = plan.rule()
    settings = [
        f"{rule.abbreviation(name)} {percent(value) if rule.is_share(name) else f'{value:g}'}"
        for name in type(rule).model_fields
        if isinstance(value := getattr(rule, name), float) and (name == "base" or name in plan.settings)
    ]
    shared = [f"{plan.blocks_per_basis} blocks per basis"] if plan.blocks_per_basis else []
    usual = plan.score == Plan().score or not rule.uses_scores
    by = [] if usual else [f"by {within_sentence(find_score(plan.score).title)}"]
    return ", ".join([plan.allocation, *by, f"SP {percent(plan.target)}", *settings, *shared])


def plan_score(run: Run) -> str:
    """Name the score by which the plan of a comparison cuts, for choices among such runs."""
    plan = plan_asked(run.request)
    return find_score(plan.score).title if plan else title(run.request)


def text_title(argument: str) -> str:
    """A text, as written for ``TextSource.parse``, for people."""
    name, _, split = argument.partition(":")
    if name == "demo":
        years = DEMO_SPLITS.get(split)
        return f"State of the Union {years.first}-{years.last}" if years else "State of the Union (demo)"
    if name in PRESETS:
        return PRESETS[name].title + (f" ({split})" if split else "")
    return argument
