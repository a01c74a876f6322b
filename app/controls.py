"""The inputs that recipes are made of: a plan, a text, how many windows.

What they return is checked again when a recipe is made of it, since a widget's limits bind only the browser.
Knows nothing about results.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.texts import PRESETS, Role, TextSource
from app import state, wording
from slicing.allocation import ALLOCATIONS
from slicing.plan import Plan
from slicing.runs import CompareRecipe
from slicing.schedule import ROUNDINGS

EMBEDDINGS = {"auto": "Automatic", "shared": "Shared", "untied": "Untied"}


def plan() -> Plan:
    """Sliders and choices, all of them in the URL (``PlanError`` when they do not go together).

    The fields of an allocation become sliders, so a new allocation needs no edit here.
    """
    usual = Plan()
    target = _share("Target (SP)", "sp", usual.target, "Mean share of the width to cut, over all blocks.")
    allocation = _choice("Allocation", "allocation", _titles(ALLOCATIONS), usual.allocation)
    settings = {
        name: _share(field.title or name, name, field.default)
        for name, field in ALLOCATIONS[allocation].model_fields.items()
    }
    score = st.selectbox(
        "Score that decides",
        list(SCORES),
        index=list(SCORES).index(usual.score),
        format_func=lambda name: SCORES[name].title if name in SCORES else name,
        key="score",
        bind="query-params",
    )
    rounding = _choice(
        "Widths are multiples of",
        "rounding",
        {each: str(each) for each in ROUNDINGS},
        usual.rounding,
        "Hardware likes multiples of 8 or 64; the mean is kept.",
    )
    with st.expander("More settings"):
        largest = _share("Largest fraction of a block", "max", usual.max_fraction)
        embedding: Any = _choice(
            "Embedding form",
            "embedding",
            EMBEDDINGS,
            usual.embedding,
            "Shared: one table for embedding and head, for tied models. Untied: the published form, in which "
            "the head gets a copy of its own. Automatic: shared where the model is tied.",
        )
        first_token = st.toggle("Count the first token in the score", key="first", bind="query-params")
    return Plan(
        target=target,
        allocation=allocation,
        settings=settings,
        score=score,
        first_token=first_token,
        max_fraction=largest,
        rounding=rounding,
        embedding=embedding,
    )


def comparison(usual: CompareRecipe) -> CompareRecipe:
    """The texts and budgets of a comparison, the proposed ones to begin with."""
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Calibration**, on which the bases are found")
        calibration = text(
            "Text", "calibration", "calibration", wording.text_argument(usual.calibration, "calibration")
        )
        calibration_windows = number("Windows", "calibration-windows", usual.calibration_windows)
        profile_windows = number("of which profiled", "profiled-windows", usual.profile_windows)
        seed = number("Seed that draws them", "seed", usual.seed, 0, 2**31 - 1)
    with right:
        st.markdown("**Evaluation**, on which the perplexity is measured")
        evaluation = text(
            "Text", "evaluation", "evaluation", wording.text_argument(usual.evaluation, "evaluation")
        )
        evaluation_windows = number("Windows", "evaluation-windows", usual.evaluation_windows)
        length = number("Window length, tokens", "window-length", usual.window_length, 2, 131072, 64)
        new_tokens = number("Tokens to generate", "new-tokens", usual.new_tokens, 0, 1000)
    prompt = st.text_input("Prompt of the illustration", usual.prompt, key="prompt", persist_state="session")
    return usual.model_copy(
        update={
            "calibration": TextSource.parse(calibration, "calibration"),
            "calibration_windows": calibration_windows,
            "profile_windows": min(profile_windows, calibration_windows),
            "evaluation": TextSource.parse(evaluation, "evaluation"),
            "evaluation_windows": evaluation_windows,
            "window_length": length,
            "seed": seed,
            "prompt": prompt,
            "new_tokens": new_tokens,
        }
    )


def score(key: str) -> str:
    """Which score to look at."""
    return _choice("Score", key, _titles(SCORES), Plan().score)


def shown_score() -> tuple[str, bool]:
    """The score that the profile shows, and whether the first token counts, as ``score`` last gave them."""
    return state.widget("shown", Plan().score), bool(state.widget("shown-first", False))


def block(profile: LayerProfile) -> int:
    """The block to look at from near; a click on a chart chooses it too."""
    return st.selectbox(
        "Block",
        range(profile.blocks),
        format_func=lambda index: f"{index} · {profile.block_path}.{index}",
        key="block",
        bind="query-params",
    )


def text(label: str, role: Role, key: str, usual: str = "demo") -> str:
    """A text: the demo's, a preset, or whatever path or Hub id is typed."""
    options = ["demo", *(["demo:out-of-style"] if role == "evaluation" else []), *PRESETS]
    if usual not in options:
        options.append(usual)
    chosen = st.selectbox(
        label,
        options,
        index=options.index(usual),
        key=key,
        format_func=lambda option: wording.text_title(f"demo:{role}" if option == "demo" else option),
        accept_new_options=True,
        persist_state="session",
        help="Choose one, or type the path of a file or the id of a data set on the Hub.",
    )
    return chosen or usual


def number(label: str, key: str, usual: int, low: int = 1, high: int = 4096, step: int = 1) -> int:
    """A whole number, such as how many windows."""
    chosen = st.number_input(
        label, min_value=low, max_value=high, value=usual, step=step, key=key, persist_state="session"
    )
    return usual if chosen is None else int(chosen)


def _share(label: str, key: str, usual: float, help_text: str | None = None) -> float:
    """A share of the width in whole percent."""
    chosen = st.slider(
        label, 0, 95, round(100 * usual), format="%d %%", key=key, bind="query-params", help=help_text
    )
    return chosen / 100


def _choice(label: str, key: str, titles: dict[Any, str], usual: Any, help_text: str | None = None) -> Any:
    chosen = st.segmented_control(
        label,
        list(titles),
        format_func=lambda option: titles.get(option, str(option)),
        default=usual,
        required=True,
        key=key,
        bind="query-params",
        help=help_text,
        wrap=True,
    )
    return chosen if chosen in titles else usual


def _titles(registry: dict[str, Any]) -> dict[Any, str]:
    return {name: entry.title for name, entry in registry.items()}
