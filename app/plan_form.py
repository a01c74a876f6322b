"""The controls of the Tune page: sliders and choices that make a plan, presets, and the way back.

Knows nothing about results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from pydantic.fields import FieldInfo

from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.shape import ModelShape
from app import controls, plan_state, state
from slicing.allocation import ALLOCATIONS
from slicing.plans import Plan, usual_rounding
from slicing.schedule import ROUNDINGS

BY_HAND = [name for name, kind in ALLOCATIONS.items() if not kind.made]
"""The allocations that one can choose."""
EMBEDDINGS = {"auto": "Automatic", "shared": "Shared", "untied": "Untied"}
TARGETS = {"sp": "Width (SP)", "fewer": "Fewer parameters"}
"""What a target can be given as."""

PRESETS_OF_PLANS = {
    "The usual: SP 25\N{NO-BREAK SPACE}%, SB 10\N{NO-BREAK SPACE}%": Plan(),
    "Mild: SP 20\N{NO-BREAK SPACE}%, SB 10\N{NO-BREAK SPACE}%": Plan(target=0.2, settings={"base": 0.1}),
    "Strong: SP 40\N{NO-BREAK SPACE}%, SB 20\N{NO-BREAK SPACE}%": Plan(target=0.4, settings={"base": 0.2}),
    "Spare what changes most: SP 25\N{NO-BREAK SPACE}%, SB 0": Plan(settings={"base": 0.0}),
    "Constant: SP 25\N{NO-BREAK SPACE}%": Plan(allocation="constant", settings={}),
}
"""Where to start from."""


def values_of(plan: Plan) -> dict[str, Any]:
    """The widgets' values that make this plan, by their keys."""
    made = plan.rule()
    rule = type(made)
    settings: dict[str, Any] = {}
    for name in rule.model_fields:
        value = getattr(made, name)
        if isinstance(value, tuple):  # scaling brings them to whole percent; any other target is their mean
            settings["normalise"] = abs(plan.target - _percent(plan.target) / 100) < 1e-9
        elif rule.model_fields[name].annotation is int:
            settings[name] = int(value)
        else:
            settings[name] = _percent(value) if rule.is_share(name) else value
    return {
        "sp": _percent(plan.target),
        "allocation": plan.allocation,
        **settings,
        "score": plan.score,
        "rounding": plan.rounding,
        "span": plan.blocks_per_basis,
        "max": _percent(plan.max_fraction),
        "embedding": plan.embedding,
        "first": plan.first_token,
    }


def take(plan: Plan) -> None:
    """Make the widgets show this plan; only in a callback."""
    state.put({**values_of(plan), "cut": "width", "target-as": "sp"})
    if isinstance(shares := plan.settings.get("shares"), tuple):
        plan_state.start_shares(shares)


def by_hand(plan: Plan, fractions: Sequence[float], scaled: bool = True) -> Plan:
    """The plan as shares to be edited, in tenths of a percent as the table shows them.

    They are scaled to the plan's target, or else their mean is the target.
    """
    shares = tuple(round(each, 3) for each in fractions)
    target = plan.target if scaled else float(np.mean(shares))
    return plan.model_copy(update={"target": target, "allocation": "manual", "settings": {"shares": shares}})


def undo() -> None:
    """Go back to the plan before this one; only in a callback."""
    take(plan_state.plan_before())


def presets(profile: LayerProfile, shape: ModelShape) -> dict[str, Plan]:
    """Find the presets that make this model smaller: a mild cut may not pay for its shortcut matrices."""

    def parameters(plan: Plan) -> int:
        redundancy = profile.redundancy(profile.held(plan.score), plan.first_token)
        return plan.schedule(redundancy, shape).shape_after(shape).parameters

    return {name: plan for name, plan in PRESETS_OF_PLANS.items() if parameters(plan) < shape.parameters}


def starts(profile: LayerProfile, shape: ModelShape) -> None:
    """Presets, and the way back."""
    with st.container(horizontal=True):
        with st.popover("Presets", icon=":material/bookmark:"):
            for title, preset in presets(profile, shape).items():
                st.button(title, on_click=take, args=(preset,), width="stretch", key=f"preset-{title}")
        st.button("Undo", icon=":material/undo:", on_click=undo, disabled=not plan_state.can_undo())


def plan(profile: LayerProfile, shape: ModelShape | None = None, device: str = "cpu") -> Plan:
    """Sliders and choices, all of them in the URL (``PlanError`` when they do not go together).

    The fields of an allocation become sliders, so a new allocation needs no edit here. What is measured or
    searched for on a model is not to be chosen by hand, and a score that the profile does not hold neither.
    ``device``: of the model, by its name.
    """
    usual = Plan(rounding=usual_rounding(device))
    target, fewer = _target(shape)
    reached = st.container()
    target, decided = _decided(profile, target)
    rounding = controls.choice(
        "Widths are multiples of",
        "rounding",
        {each: str(each) for each in ROUNDINGS},
        usual.rounding,
        "Hardware likes multiples of 8 or 64; the mean is kept.",
    )
    together = st.number_input(
        "Blocks per basis",
        min_value=0,
        max_value=profile.blocks,
        value=usual.blocks_per_basis,
        key="span",
        bind="query-params",
        help="0: every sub-layer has a basis of its own and a shortcut matrix to the next, as published. "
        "Otherwise so many blocks in a row share one: their shortcuts fall away, and at equal size more "
        "of the stream is kept. Constant slicing, for comparison, stays as published.",
    )
    with st.expander("More settings"):
        largest = controls.share("Largest fraction of a block", "max", usual.max_fraction)
        embedding = controls.choice(
            "Embedding form",
            "embedding",
            EMBEDDINGS,
            usual.embedding,
            "Shared: one table for embedding and head, for tied models. Untied: the published form, in which "
            "the head gets a copy of its own. Automatic: shared where the model is tied.",
        )
        first_token = st.toggle("Count the first token in the score", key="first", bind="query-params")
    made = Plan(
        target=target,
        **decided,
        first_token=first_token,
        max_fraction=largest,
        rounding=rounding,
        embedding=embedding,
        blocks_per_basis=int(together),
    )
    if fewer is None or shape is None:
        return made
    found, gone = _reaching(made, fewer, profile, shape)
    reached.caption(
        f"SP {100 * found.target:.2f}\N{NO-BREAK SPACE}% reaches {100 * gone:.1f}\N{NO-BREAK SPACE}%, "
        "the nearest to whole blocks."
    )
    return found


def _target(shape: ModelShape | None) -> tuple[float, float | None]:
    """Ask for SP, or for a share of the parameters: then SP is one to begin with, until it is computed."""
    usual = Plan()
    if shape is None or controls.choice("Target, given as", "target-as", TARGETS, "sp") == "sp":
        told = "Mean share of the width to cut, over all blocks."
        return controls.share("Target (SP)", "sp", usual.target, told), None
    told = "To the nearest whole block, as 'Make it smaller' counts."
    fewer = controls.share("Fewer parameters", "plan-fewer", 0.1, told, 1, 80)
    return max(usual.target, state.widget("base", 10) / 100), fewer


def _reaching(plan: Plan, fewer: float, profile: LayerProfile, shape: ModelShape) -> tuple[Plan, float]:
    """Find the plan's target for a share of the parameters that goes, and the share that it reaches."""
    redundancy = profile.redundancy(plan.score, plan.first_token)
    found = plan.with_fewer(fewer, redundancy, shape)
    left = found.schedule(redundancy, shape).shape_after(shape).parameters
    return found, 1 - left / shape.parameters


def _decided(profile: LayerProfile, target: float) -> tuple[float, dict[str, Any]]:
    """The allocation with its settings and its score, and the target, which shares by hand may change."""
    usual = Plan()
    allocation = st.selectbox(
        "Allocation",
        BY_HAND,
        index=BY_HAND.index(usual.allocation),
        format_func=allocation_title,
        key="allocation",
        bind="query-params",
        help="How the cut is shared out over the blocks.",
    )
    rule = ALLOCATIONS[allocation]
    settings: dict[str, float | tuple[float, ...]] = {}
    for name, field in rule.model_fields.items():
        if name == "shares":
            settings[name], normalise = _shares(profile.blocks, target)
            target = target if normalise else float(np.mean(settings[name]))
        elif rule.is_share(name):
            if name == "base":  # a part of the target, which it cannot pass
                state.lower(name, _percent(target))
            chosen = controls.share(field.title or name, name, min(field.default, target))
            # What an address names is known to the slider alone when it is drawn first.
            settings[name] = min(chosen, target) if name == "base" else chosen
        else:
            settings[name] = _setting(field, name)
    score = usual.score
    if rule.uses_scores:
        score = st.selectbox(
            "Score that decides",
            profile.scores(),
            index=profile.scores().index(usual.score),
            format_func=lambda name: SCORES[name].title if name in SCORES else name,
            key="score",
            bind="query-params",
        )
        if score in SCORES and SCORES[score].known_issue:
            st.caption(SCORES[score].about)
    return target, {"allocation": allocation, "settings": settings, "score": score}


def _shares(blocks: int, target: float) -> tuple[tuple[float, ...], bool]:
    """A share for every block, typed into a table, and whether they are scaled to the target."""
    key, begun = plan_state.begun_shares((target,) * blocks)
    normalise = st.toggle(
        "Normalise to the target",
        value=True,
        key="normalise",
        bind="query-params",
        help="Scale the shares so that their mean is the target. Off: the mean of the shares is the target.",
    )
    table = pd.DataFrame({"block": range(blocks), "share": [100.0 * share for share in begun]})
    edited = st.data_editor(
        table,
        key=key,
        hide_index=True,
        num_rows="fixed",
        disabled=["block"],
        height=280,
        column_config={
            "share": st.column_config.NumberColumn(
                "share of the width", min_value=0.0, max_value=95.0, step=0.1, format="%.1f %%", required=True
            )
        },
    )
    shares = tuple((edited["share"].fillna(0.0) / 100.0).round(6).tolist())
    plan_state.keep_shares(shares)
    return shares, normalise


def _setting(field: FieldInfo, key: str) -> float:
    """A number that an allocation bounds; without an upper bound the slider reaches ten times the usual."""
    title, bounds = field.title or key, {}
    for each in field.metadata:
        bounds |= {name: getattr(each, name) for name in ("ge", "gt", "le") if hasattr(each, name)}
    if field.annotation is int:
        low = int(bounds["ge"])
        return float(
            st.number_input(title, low, 2**31 - 1, value=field.default, key=key, bind="query-params")
        )
    high = float(bounds.get("le", 10 * field.default))
    step = high / 100
    low = float(bounds["ge"]) if "ge" in bounds else step  # above, not at, a bound that is left out
    return st.slider(title, low, high, field.default, step, key=key, format="%.3g", bind="query-params")


def allocation_title(name: str) -> str:
    """An allocation in lists, and whether it is there to be beaten."""
    if name not in ALLOCATIONS:
        return name
    return ALLOCATIONS[name].title + (" · a baseline to beat" if ALLOCATIONS[name].control else "")


def _percent(share: float) -> int:
    return round(100 * share)


def link_of(plan: Plan) -> dict[str, str]:
    """The parameters of the address that make the widgets show this plan."""
    values = values_of(plan) | {
        "allocation": allocation_title(plan.allocation),  # lists stand in the address as they are shown
        "score": SCORES[plan.score].title,
    }
    return {key: str(value) for key, value in values.items()}
