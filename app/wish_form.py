"""The form of a wish for a smaller model: one row for what matters, and the rest behind it.

Has the fields of ``slicescope shrink`` with the same defaults. Knows nothing about results.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from analysis.shape import ModelShape
from analysis.sources.text import TextSource
from app import controls, own
from app.forms import calibration_precision
from slicing.studies.files import usual_profile_windows
from slicing.studies.requests import SEARCHED, Calibrated, Judged, ShrinkRequest
from slicing.wish import LONGEST, Opens, Wish

SMALLER_BY = {"fewer": "Parameters", "memory": "Memory", "flops": "FLOPs"}
"""The measures of a size."""
OPENS: dict[Opens, str] = {"transformers": "transformers", "everywhere": "Every tool"}
ABROAD = 5.0
"""GB of weights to begin with, of a model that is not here yet."""


def wish_form(shape: ModelShape | None, itemsize: int, asks: bool) -> Wish:
    """How small, where it must open and, where one ``asks`` for it, in how many minutes (``PlanError``)."""
    by, amount, where, time = st.columns([3, 3, 3, 2], gap="medium")
    with by:
        measure = controls.choice("How small, by", "smaller-by", SMALLER_BY, "fewer")
    with amount:
        size = _amount(measure, shape, itemsize)
    with where:
        opens = controls.choice(
            "Must open in",
            "opens",
            OPENS,
            "transformers",
            "Every tool: an ordinary checkpoint of its architecture. transformers: also a folder that brings "
            "modelling code of its own, which leaves more ways.",
        )
    with time:
        minutes = (
            st.number_input(
                "Minutes",
                min_value=0.1,
                max_value=LONGEST,
                value=30.0,
                step=5.0,
                format="%g",
                key="minutes",
                persist_state="session",
                help="All of it takes so long: many ways are tried cheaply, the best in full; what is left "
                "of the time heals the best of all.",
            )
            if asks
            else 30.0
        )
    return Wish(**size, minutes=minutes or 30.0, opens=opens)


def _amount(measure: str, shape: ModelShape | None, itemsize: int) -> dict[str, Any]:
    """The field of a wish that the measure names."""
    if measure == "fewer":
        return {"fewer": controls.share("Fewer parameters", "fewer", 0.2, low=1, high=80)}
    if measure == "flops":
        return {"flops": controls.share("FLOPs that stay", "flops", 0.8, low=20, high=99)}
    dense = shape.parameters * itemsize / 1e9 if shape else 0.0
    usual = float(f"{0.8 * dense:.2g}") if shape else ABROAD
    said = st.number_input(
        "GB of weights at most",
        min_value=0.0,
        value=usual,
        step=float(f"{max(usual, 1e-6) / 20:.1g}"),
        format="%g",
        key="memory",
        persist_state="session",
        help=f"The dense weights take {dense:.3g} GB." if shape else None,
    )
    return {"memory": round(1e9 * (said or 0.0))}


def more(wish: Wish) -> tuple[Wish, dict[str, Any]]:
    """All else that can be asked for: the wish with a hope, and the fields of its request (``TextError``)."""
    own.own_inputs({"wish-calibration": "Making it", "wish-evaluation": "Judging it"})
    first, second, third = st.columns(3, gap="medium")
    with first:
        st.markdown("**Judged on**")
        evaluation = controls.text("Evaluation text", "evaluation", "wish-evaluation")
        other = controls.text("Second text", "evaluation", "wish-other", "demo:out-of-style")
        evaluation_windows = _usual(Judged, "Evaluation windows", "evaluation_windows")
        quality = st.number_input(
            "Hoped for: perplexity, times dense",
            min_value=1.0,
            value=None,
            step=0.1,
            format="%g",
            key="quality",
            persist_state="session",
            placeholder="no hope is stated",
            help="The answer says whether that was reached. It stops nothing.",
        )
    with second:
        st.markdown("**Made on**")
        calibration = controls.text("Calibration text", "calibration", "wish-calibration")
        calibration_windows = _usual(Calibrated, "Calibration windows", "calibration_windows")
        length = _usual(Calibrated, "Window length, tokens", "window_length", 2, 131072, 64)
        seed = _usual(Calibrated, "Seed that draws them", "seed", 0, 2**31 - 1)
        precision = calibration_precision("wish-precision")
    with third:
        st.markdown("**Chosen on**")
        search_text = _own_text("search")
        healing_text = _own_text("healing")
        previews = _usual(ShrinkRequest, "Windows of previews", "preview_windows", 2, SEARCHED)
        searched = _usual(ShrinkRequest, "Search windows", "search_windows", 2, SEARCHED)
        rounds = _usual(ShrinkRequest, "Rounds of timing", "speed_rounds", 0, 1000)
        tasks = st.text_input(
            "Tasks, with commas",
            key="wish-tasks",
            persist_state="session",
            placeholder="none",
            help="Of the lm-evaluation-harness, for dense and the finalists.",
        )
        limit = controls.number("Examples per task", "wish-limit", 100, 1, 100_000) if tasks.strip() else None
    return wish.model_copy(update={"quality": quality}), {
        "calibration": TextSource.parse(calibration, "calibration"),
        "calibration_windows": calibration_windows,
        "profile_windows": usual_profile_windows(calibration_windows),
        "window_length": length,
        "seed": seed,
        "calibration_precision": precision,
        "search_text": search_text,
        "healing_text": healing_text,
        "evaluation": TextSource.parse(evaluation, "evaluation"),
        "evaluation_windows": evaluation_windows,
        "other": TextSource.parse(other, "evaluation"),
        "preview_windows": previews,
        "search_windows": searched,
        "speed_rounds": rounds,
        "tasks": tuple(name.strip() for name in tasks.split(",") if name.strip()),
        "task_limit": limit,
    }


def _usual(owner: Any, label: str, name: str, low: int = 1, high: int = 4096, step: int = 1) -> int:
    """A whole number of a request, as usual to begin with."""
    usual = owner.model_fields[name].get_default()
    return controls.number(label, f"wish-{name.replace('_', '-')}", usual, low, high, step)


def _own_text(what: str) -> TextSource | None:
    """A text of its own to search, or to heal, on; title and help are those of the field."""
    field = Calibrated.model_fields[f"{what}_text"]
    own = st.toggle(str(field.title), key=f"wish-own-{what}", persist_state="session", help=field.description)
    said = (
        controls.text(f"{what.capitalize()} text", "calibration", f"wish-{what}", "demo:search")
        if own
        else ""
    )
    return TextSource.parse(said, "calibration") if own else None
