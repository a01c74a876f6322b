"""Recipes, texts, budgets and studies that are drawn at random, of all that is registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hypothesis import assume
from hypothesis import strategies as st

from analysis.errors import SlicescopeError
from analysis.numbers import LARGEST_SEED
from analysis.sources.model import ModelSource
from analysis.sources.presets import PRESETS
from analysis.sources.text import TextSource
from slicing.allocation import ALLOCATIONS
from slicing.budget import MEASURES, Budget
from slicing.steps import STEPS, Step
from slicing.studies.recipe import Recipe
from slicing.studies.study import Study


def of_field(field: Any) -> st.SearchStrategy[Any]:
    """Values of a field by its annotation and its bounds, the usual one among them."""
    bounds = {
        name: getattr(each, name)
        for each in field.metadata
        for name in ("ge", "le", "gt")
        if hasattr(each, name)
    }
    usual = st.just(field.get_default(call_default_factory=True))
    kinds = get_args(field.annotation) if get_origin(field.annotation) is not Literal else (field.annotation,)
    found: list[st.SearchStrategy[Any]] = []
    for kind in kinds or (field.annotation,):
        if get_origin(kind) is Literal:
            found.append(st.sampled_from(get_args(kind)))
        elif kind is bool:
            found.append(st.booleans())
        elif kind is int:
            found.append(st.integers(bounds.get("ge", 0), bounds.get("le", LARGEST_SEED)))
        elif kind is float:
            found.append(st.floats(0, 1, allow_nan=False))
    return st.one_of(usual, *found)


def settings_of(fields: dict[str, Any], but: tuple[str, ...] = ()) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {}, optional={name: of_field(each) for name, each in fields.items() if name not in but}
    )


@st.composite
def steps(draw: st.DrawFn, kind: type[Step]) -> Step:
    """A step of a kind with random settings."""
    fields: dict[str, Any] = dict(kind.model_fields)
    said = draw(settings_of(fields, but=("share", "repair", "settings", "allocation", "score")))
    said["repair"] = draw(st.sampled_from(("none", *kind.repairs)))
    if "settings" in fields:  # those of an allocation
        rule = draw(st.sampled_from(sorted(ALLOCATIONS)))
        own = draw(settings_of(dict(ALLOCATIONS[rule].model_fields)))
        if "shares" in ALLOCATIONS[rule].model_fields:
            own["shares"] = draw(st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple))
        said["allocation"] = rule
        if "settings" in fields:
            said["settings"] = {name: each for name, each in own.items() if each is not None}
        said["score"] = draw(st.sampled_from(["lr", "block-influence", "leave-one-out"]))
    return made(lambda: kind.read(said))


def made(make: Callable[[], Any]) -> Any:
    """What is made; where its settings do not fit together, another is drawn."""
    try:
        return make()
    except SlicescopeError:
        assume(False)


@st.composite
def recipes(draw: st.DrawFn, names: tuple[str, ...] = tuple(STEPS)) -> Recipe:
    """A recipe of one step, or of a removal with a share and slicing, or of a removal that is healed."""
    step = draw(steps(STEPS[draw(st.sampled_from(sorted(names)))]))
    if step.axis == "weights":
        return made(lambda: Recipe(steps=(draw(steps(STEPS["shortgpt"])), step)))
    if step.axis != "blocks" or draw(st.booleans()):
        return Recipe(steps=(step,))
    share = draw(st.one_of(st.just("search"), st.floats(0.01, 0.99)))
    first = made(lambda: step.read({**dict(step), "share": share, "repair": "none"}))
    return Recipe(steps=(first, draw(steps(STEPS["slice"]))))


def texts() -> st.SearchStrategy[TextSource]:
    words = [*PRESETS, "demo", "demo:out-of-style", "owner/name", "owner/name/config@rev:train[:10%]"]
    role = st.sampled_from(["calibration", "evaluation"])
    table = TextSource(kind="hub", location="owner/name", split="train", column="body", max_documents=7)
    file = TextSource(kind="file", location=str(Path(__file__).resolve()))
    return st.one_of(st.builds(TextSource.parse, st.sampled_from(words), role), st.just(table), st.just(file))


MODELS = st.builds(
    ModelSource.parse,
    st.sampled_from(["demo", "owner/name", "owner/name@rev"]),
    st.sampled_from(["auto", "cpu"]),
    st.sampled_from(["auto", "float32"]),
)


def budgets(*some: Recipe) -> st.SearchStrategy[Budget]:
    """Budgets that these recipes can keep."""
    steps = [step for recipe in some for step in recipe.steps]
    measures: tuple[Any, ...] = MEASURES
    if any(step.axis == "blocks" for step in steps):
        measures = ("parameters", "blocks")
    elif any(step.axis == "inner" for step in steps):
        measures = ("like_constant", "parameters", "size", "blocks")
    elif any("searched" in recipe.line for recipe in some):
        measures = ("mean_slice", "like_constant")

    def build(measure: Any, share: float, count: int) -> Budget:
        return Budget(measure=measure, amount=float(count) if measure in ("blocks", "size") else share)

    return st.builds(build, st.sampled_from(measures), st.floats(0.01, 0.99), st.integers(1, 10**9))


@st.composite
def studies(draw: st.DrawFn) -> Study:
    windows = draw(st.integers(1, 40))
    some = st.integers(1, 99)
    found = draw(st.lists(recipes(), min_size=1, max_size=3, unique_by=lambda each: each.line))
    fields: dict[str, Any] = {
        "model": draw(MODELS),
        "calibration": draw(texts()),
        "calibration_windows": windows,
        "profile_windows": draw(st.one_of(st.just(min(8, windows)), st.integers(1, windows))),
        "evaluation": draw(texts()),
        "other": draw(st.one_of(st.none(), texts())),
        "recipes": found,
        "budgets": draw(st.lists(budgets(*found), min_size=1, max_size=4, unique_by=lambda each: each.line)),
        "seeds": draw(st.lists(st.integers(-(2**63), LARGEST_SEED), min_size=1, max_size=3, unique=True)),
    }
    more = {
        **dict.fromkeys(("evaluation_windows", "new_tokens", "speed_rounds", "task_limit"), some),
        "window_length": st.integers(2, 99),
        "prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        "tasks": st.lists(st.sampled_from(["one", "two"]), unique=True),
        "search_text": texts(),
        "healing_text": texts(),
        "redrawn": st.lists(st.sampled_from(found), unique=True),
        "task_folder": st.just(Path("/some/where")),
        **dict.fromkeys(("matched", "lens"), st.booleans()),
        "jitter": st.integers(0, 3),
        "calibration_precision": st.sampled_from(["exact", "fast"]),
        "view": st.sampled_from(["comparison", "map", "ranking", "frontier"]),
    }
    fields |= draw(st.fixed_dictionaries({}, optional=more))
    return made(lambda: Study(**fields))
