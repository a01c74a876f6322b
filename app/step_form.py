"""Widgets that make a recipe: a step is chosen, and its own fields say what can be set.

A step that anybody registers appears here with its fields. Knows nothing about studies.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import streamlit as st
from pydantic.fields import FieldInfo

from analysis.errors import PlanError, SlicescopeError
from analysis.numbers import read_number
from analysis.scores import SCORES
from analysis.values import field_said
from app import controls, state, wording
from slicing.allocation import ALLOCATIONS
from slicing.basis import BASES
from slicing.repairs import REPAIRS
from slicing.steps import STEPS, Step
from slicing.steps.base import SHARES
from slicing.studies.recipe import Recipe

NOTHING = ""
"""No second step."""
SHARE_TITLES: dict[Any, str] = {**{share: f"{100 * share:g} %" for share in SHARES}, "search": "Searched"}
"""Of what is to go, what a first step may take."""
HOW = {"steps": "From steps", "line": "As a line"}


def own_recipe(key: str) -> None:
    """Make a recipe of steps or of a typed line, and add it to the recipes chosen under ``key``."""
    with st.expander("Add a recipe of your own", icon=":material/add:"):
        how = st.segmented_control(
            "How to write it",
            list(HOW),
            format_func=HOW.__getitem__,
            default="steps",
            required=True,
            key=f"{key}-how",
        )
        try:
            recipe = _of_steps(key) if how == "steps" else _of_line(key)
        except SlicescopeError as error:
            st.warning(state.told(error), icon=":material/warning:")
            return
        if recipe is None:
            return
        st.markdown(f"**{wording.verbatim(recipe.title)}**")
        st.code(recipe.line, language=None, wrap_lines=True)
        for title, issue in wording.known_issues([recipe]):
            st.caption(f"Known issue of {wording.verbatim(title)}: {wording.verbatim(issue)}")
        if not state.policy().may_ask(recipe):
            st.warning("This recipe takes this server too long for visitors.", icon=":material/warning:")
            return
        st.button("Add to the study", icon=":material/add:", on_click=_add, args=(recipe.line, key))


def _add(line: str, key: str) -> None:
    own = state.own_recipes()
    if line not in own:
        own.append(line)
    state.put({key: [*dict.fromkeys((*state.widget(key, []), line))]})


def _of_line(key: str) -> Recipe | None:
    typed = st.text_input(
        "Line",
        key=f"{key}-line",
        placeholder="sleb(share=0.5) | slice(dynamic, base=0)",
        help="Steps are joined by '|'. Settings stand in brackets.",
    )
    return Recipe.parse(typed) if typed.strip() else None


def _of_steps(key: str) -> Recipe:
    first = _chosen_step("Step", f"{key}-step", [name for name in STEPS if STEPS[name].axis != "weights"])
    followers = [name for name in STEPS if _may_follow(first, STEPS[name])]
    then = _chosen_step("Then", f"{key}-then", [NOTHING, *followers]) if followers else None
    if then is None:
        return Recipe(steps=(step_widgets(first, f"{key}-{first.name}"),))
    share: Any = 1.0
    if then.axis != "weights":
        share = controls.choice("Of what goes, the first step takes", f"{key}-share", SHARE_TITLES, 0.5)
    before = step_widgets(first, f"{key}-{first.name}", share=share)
    return Recipe(steps=(before, step_widgets(then, f"{key}-then-{then.name}")))


def _chosen_step(label: str, key: str, names: list[str]) -> Any:
    chosen = st.selectbox(
        label,
        names,
        format_func=lambda name: STEPS[name].title if name in STEPS else "Nothing more",
        key=key,
    )
    if not (kind := STEPS.get(chosen)):
        return None
    st.caption(wording.verbatim(kind.source))
    return kind


def _may_follow(first: type[Step], then: type[Step]) -> bool:
    said = {} if then.axis == "weights" else {"share": 0.5}
    try:
        Recipe(steps=(first.from_said(said), then.from_said({})))
    except PlanError:
        return False
    return True


def step_widgets(kind: type[Step], key: str, **given: Any) -> Step:
    """Draw a widget for every field of a step and make the step (``PlanError`` where they do not fit).

    What is ``given`` is not asked for, nor is the share, which depends on the other steps.
    """
    said: dict[str, Any] = dict(given)
    for name in kind.settings_known():
        if name in given or name == "share":
            continue
        said[name] = _widget(
            kind.model_fields[name], name, f"{key}-{name}", _names(kind, name), field_said(kind, name)
        )
        rule = ALLOCATIONS.get(said[name]) if name == "allocation" else None
        for own, field in (rule.model_fields if rule else {}).items():
            value = _percent(field, own, f"{key}-{own}") if rule and rule.is_share(own) else None
            value = _widget(field, own, f"{key}-{own}") if value is None else value
            if value != field.get_default():
                said[own] = value
    return kind.from_said({name: value for name, value in said.items() if value is not None})


def _percent(field: FieldInfo, name: str, key: str) -> float:
    """A share of the width in whole percent."""
    title = field.title or name
    return st.slider(title, 0, 95, round(100 * field.get_default()), format="%d %%", key=key) / 100


def _names(kind: type[Step], field: str) -> dict[str, str] | None:
    """The titles of the names that a field may have, where these are registered somewhere."""
    registered = {
        "allocation": {name: rule.title for name, rule in ALLOCATIONS.items()},
        "score": {name: score.title for name, score in SCORES.items()},
        "basis": {name: basis.title for name, basis in BASES.items()},
        "repair": {"none": "None", **{name: REPAIRS[name].title for name in kind.repairs}},
    }
    return registered.get(field)


def _widget(
    field: FieldInfo, name: str, key: str, titles: dict[str, str] | None = None, said: str | None = None
) -> Any:
    """The widget for a field, by its type; bounds bind the browser, and the step checks again.

    ``said`` is its help.
    """
    title = field.title or name.replace("_", " ").capitalize()
    options: dict[str, Any] = {"key": key, "help": said}
    usual, annotation = field.get_default(), field.annotation
    kinds = [each for each in get_args(annotation) if each is not type(None)] or [annotation]
    if titles is not None:
        names = list(titles)
        return st.selectbox(title, names, index=names.index(usual), format_func=titles.__getitem__, key=key)
    if get_origin(annotation) is Literal:
        return st.selectbox(title, kinds, index=kinds.index(usual), **options)
    if annotation is bool:
        return st.toggle(title, usual, **options)
    if get_origin(annotation) is tuple:
        return _numbers(title, usual, options)
    if kinds[0] in (int, float):
        return _number(title, kinds[0], usual, field, options)
    return st.text_input(title, usual, **options)


def _number(title: str, kind: Any, usual: Any, field: FieldInfo, options: dict[str, Any]) -> Any:
    bounds: dict[str, Any] = {}
    for each in field.metadata:
        bounds |= {name: kind(getattr(each, name)) for name in ("ge", "le") if hasattr(each, name)}
    high = bounds.get("le", 2**31 - 1 if kind is int else None)
    step = 1 if kind is int else 0.05
    return st.number_input(
        title, bounds.get("ge"), high, value=None if usual is None else kind(usual), step=step, **options
    )


def _numbers(title: str, usual: tuple[float, ...], options: dict[str, Any]) -> tuple[float, ...]:
    """Numbers with commas between (``PlanError`` for what is none)."""
    typed = st.text_input(title, ", ".join(f"{each:g}" for each in usual), **options)
    said = [part.strip() for part in typed.split(",") if part.strip()]
    numbers = [read_number(part) for part in said]
    if None in numbers:
        raise PlanError(f"'{title}' needs numbers with commas between, but got '{typed}'.")
    return tuple(number for number in numbers if number is not None)
