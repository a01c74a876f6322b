"""The forms of a comparison and of a study: what is tried, at what sizes, and on which texts.

Knows nothing about results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import streamlit as st

from analysis.errors import PlanError
from analysis.precision import Precision
from analysis.shape import ModelShape
from analysis.sources.text import TextSource
from app import controls, own, state
from app.proposal import Proposal
from app.step_form import SHARE_TITLES, own_recipe
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.steps.removal import SEARCH_WINDOWS
from slicing.studies.files import find_study, parse_study, read_study, ready_studies, text_line
from slicing.studies.possible import check_recipe, check_study
from slicing.studies.recipe import Recipe
from slicing.studies.requests import MOST_REPETITIONS
from slicing.studies.study import BOARD, USUAL, Study, contest, leaderboard, sliced, sweep

_KINDS = {"sweep": "Sweep", "contest": "Contest", "leaderboard": "Leaderboard", "file": "File"}
_ABOUT = {
    "sweep": "Bases (SB) by targets (SP): which base pays, and what it costs.",
    "contest": "Recipes at one size: which way to decide loses least, and is it more than luck?",
    "leaderboard": "Recipes at several sizes: slice, remove whole blocks, or both?",
    "file": "A study file in TOML, as 'slicescope study' reads it.",
}
"""The ways to write a study, and what each asks."""
FIRST_RECIPES = (
    "slice(constant)",
    "slice(dynamic, base=0)",
    "slice(softmax, block-influence)",
    "slice(rising)",
    "slice(random)",
    "slice(random, draw=1)",
    "slice(constant, repair=writers)",
    "slice(dynamic, base=0, blocks_per_basis=3)",
    "slice(dynamic, base=0, blocks_per_basis=3, repair=writers)",
)
"""A small contest that is honest: the baseline, three rules, two random draws, repair, shared bases."""
FIRST_ON_BOARD = (
    "slice(constant)",
    "slice(dynamic, base=0, blocks_per_basis=3, repair=writers)",
    "shortgpt",
    "llm-streamline",
    "llm-streamline(repair=linear)",
    "llm-streamline(repair=writers)",
    "llm-streamline(share=0.5) | slice(dynamic, base=0, blocks_per_basis=3, repair=writers)",
)
"""A small leaderboard that is honest and quick: no method that tries every block."""
FIRST_SIZES = (10, 20, 30)
"""Its sizes: so many percent fewer parameters than dense."""


def comparison_form(usual: Proposal) -> Study:
    """The texts, windows and repair of a comparison, the proposed ones to begin with."""
    judged = usual.judged
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Calibration**, on which the bases are found")
        said = text_line(judged.calibration, "calibration")
        calibration = controls.text("Text", "calibration", "calibration", said)
        calibration_windows = controls.number("Windows", "calibration-windows", judged.calibration_windows)
        profile_windows = controls.number("of which profiled", "profiled-windows", judged.profile_windows)
        seed = controls.number("Seed that draws them", "seed", judged.seed, 0, 2**31 - 1)
        precision = calibration_precision("calibration-precision", judged.calibration_precision)
    with right:
        st.markdown("**Evaluation**, on which the perplexity is measured")
        said = text_line(judged.evaluation, "evaluation")
        evaluation = controls.text("Text", "evaluation", "evaluation", said)
        evaluation_windows = controls.number("Windows", "evaluation-windows", judged.evaluation_windows)
        length = controls.number(
            "Window length, tokens", "window-length", judged.window_length, 2, 131072, 64
        )
        new_tokens = controls.number("Tokens to generate", "new-tokens", judged.new_tokens, 0, 1000)
        jitter = _repetitions("comparison-jitter", usual.jitter)
    repair = st.toggle(
        "Repair the writers",
        value=usual.repair != "none",
        key="repair",
        persist_state="session",
        help="Fit what every sub-layer writes anew, so that the sliced stream follows the dense one. Slicing "
        "takes four to five times as long; where held-out windows do not gain, it is left as it was.",
    )
    prompt = st.text_input("Prompt of the illustration", judged.prompt, key="prompt", persist_state="session")
    asked = {
        "calibration": TextSource.parse(calibration, "calibration"),
        "calibration_windows": calibration_windows,
        "profile_windows": min(profile_windows, calibration_windows),
        "evaluation": TextSource.parse(evaluation, "evaluation"),
        "evaluation_windows": evaluation_windows,
        "window_length": length,
        "seed": seed,
        "prompt": prompt,
        "new_tokens": new_tokens,
        "calibration_precision": precision,
    }
    fitted = next(iter(sliced(usual.plan).steps[0].repairs)) if repair else "none"
    found = usual._replace(judged=judged.model_copy(update=asked), repair=fitted, jitter=jitter)
    return found.comparison()


def study_form(usual: Proposal, shape: ModelShape | None) -> Study:
    """The form of a study of the chosen kind.

    Raises ``SlicescopeError`` for what does not go together, and for what the proposed model cannot give: its
    ``shape`` tells, where it has one.
    """
    hidden = ("file",) if state.policy().demo_mode else ()  # it names models and texts of its own
    offered = {kind: title for kind, title in _KINDS.items() if kind not in hidden}
    kind = controls.choice("Start from", "study-kind", offered, "sweep")
    st.caption(_ABOUT[kind])
    board = partial(_leaderboard, shape=shape)
    made = {"sweep": _sweep, "contest": _contest, "leaderboard": board, "file": _of_file}
    study = made[kind](usual)
    if shape and study.model == usual.judged.model:  # a file may name another model
        check_study(study, shape)
    return study


def _sweep(usual: Proposal) -> Study:
    bases = _grid("Bases (SB), %", "sweep-bases", (0, 10, 20))
    targets = _grid("Targets (SP), %", "sweep-targets", (15, 25, 35))
    one_shot = controls.choice(
        "Bases are found",
        "sweep-bases-found",
        {True: "Once (one-shot)", False: "For each (sequential)"},
        True,
        "One-shot: one pass over the dense model serves all cells, which is quicker. Sequential: each cell "
        "is calibrated as Compare does it.",
    )
    judged = _judged("sweep", usual)
    plan = usual.plan if "base" in type(usual.plan.rule()).model_fields else Plan()
    return sweep(
        plan.model_copy(update={"settings": {}}),
        tuple(base / 100 for base in sorted(bases)),
        tuple(target / 100 for target in sorted(targets)),
        one_shot=one_shot,
        **judged,
        seed=usual.judged.seed,
    )


def _contest(usual: Proposal) -> Study:
    target = controls.share("Target (SP) of constant slicing", "contest-target", Plan().target)
    equal = controls.choice(
        "All others have",
        "contest-equal",
        {"parameters": "Equal parameters", "slice": "Equal mean slice"},
        "parameters",
        "Equal parameters: every recipe is as large as constant slicing at the target. Equal mean slice: the "
        "published protocol.",
    )
    chosen = _recipes("contest-recipes", USUAL, FIRST_RECIPES)
    seeds = st.multiselect(
        "Seeds of the calibration",
        range(10),
        default=[0],
        key="contest-seeds",
        persist_state="session",
        help="Each draws other calibration windows. Three say how much of a difference is their luck, and "
        "take three times as long.",
    )
    one_shot = controls.choice(
        "Bases are found",
        "contest-bases-found",
        {False: "For each (sequential)", True: "Once (one-shot)"},
        False,
        "Sequential: each recipe is calibrated as Compare does it. One-shot: one pass over the dense model "
        "serves all recipes, none of which can be repaired.",
    )
    judged = {
        **_judged("contest", usual, any(each.heals for each in chosen)),
        "other": _second_text("contest"),
    }
    judged["int8"] = _int8("contest")
    formed = _in_form(chosen, usual.plan, one_shot or None)
    return contest(formed, target, equal=equal, seeds=tuple(sorted(seeds)), **judged)


def _leaderboard(usual: Proposal, shape: ModelShape | None) -> Study:
    sizes = st.multiselect(
        "Fewer parameters than dense, %",
        [5, 10, 15, 20, 25, 30, 40, 50],
        default=_first_sizes(shape),
        key="board-sizes",
        persist_state="session",
        help="Each to the nearest whole block: that is what removal can reach, and slicing is brought to it.",
    )
    chosen = _recipes("board-recipes", BOARD, FIRST_ON_BOARD)
    share = controls.choice(
        "What does both removes in whole blocks",
        "board-share",
        SHARE_TITLES,
        0.5,
        "Of what goes; slicing takes the rest. Searched: whichever loses least as a preview.",
    )
    windows = controls.number("Windows that choose blocks", "board-search-windows", SEARCH_WINDOWS, high=64)
    judged = {**_judged("board", usual, any(each.heals for each in chosen)), "other": _second_text("board")}
    timed = st.toggle(
        "Time each model beside dense",
        False,
        key="board-timed",
        persist_state="session",
        help="Five rounds of a prompt and some tokens, in turns with the dense model.",
    )
    judged["int8"] = _int8("board")
    formed = [_sharing(recipe, share) for recipe in _in_form(chosen, usual.plan, None, windows)]
    return leaderboard(
        formed, tuple(size / 100 for size in sorted(sizes)), speed_rounds=5 if timed else 0, **judged
    )


def _first_sizes(shape: ModelShape | None) -> list[int]:
    """The sizes, in percent, that a leaderboard begins with: those that all its first recipes can reach."""
    return [size for size in FIRST_SIZES if shape is None or _all_reach(size, shape)] or list(FIRST_SIZES)


def _all_reach(size: int, shape: ModelShape) -> bool:
    try:
        for line in FIRST_ON_BOARD:
            check_recipe(_read(line), Budget(measure="parameters", amount=size / 100), shape, windows=2)
    except PlanError:
        return False
    return True


def _of_file(usual: Proposal) -> Study:
    """A study as a file has it, dropped or pasted."""
    ready = st.selectbox("A ready study", ["", *ready_studies()], key="study-ready")
    dropped = st.file_uploader("Or a study file", type="toml", key="study-file", max_upload_size=1)
    pasted = st.text_area(
        "Or its text",
        key="study-pasted",
        placeholder='recipes = ["slice(constant)", "slice(dynamic, base=0)"]',
        height=200,
    )
    if dropped is not None:
        return parse_study(dropped.getvalue().decode(errors="replace"), dropped.name)
    if pasted.strip():
        return parse_study(pasted, "pasted")
    if not ready:
        raise PlanError("Choose a ready study, or give a study file.")
    return read_study(find_study(ready))


def _recipes(key: str, usual: Sequence[str], first: Sequence[str]) -> list[Recipe]:
    """The recipes that take part, by their titles; the baseline comes first."""
    offered = dict.fromkeys((*usual, *state.own_recipes()))
    lines = [line for line in offered if state.policy().may_ask(_read(line))]
    chosen = st.multiselect(
        "Recipes",
        lines,
        default=list(first),
        format_func=lambda line: _read(line).title,
        key=key,
        persist_state="session",
        help="All are measured by the baseline. Random baselines, and others that are there to be beaten, "
        "run with the first seed alone.",
    )
    ordered = [line for line in lines if line in chosen]
    baseline = st.selectbox(
        "Baseline",
        ordered,
        format_func=lambda line: _read(line).title,
        key=f"{key}-baseline",
        help="The recipe that all others are measured by.",
    )
    if ordered:
        with st.expander("Their lines", icon=":material/content_copy:"):
            st.code("\n".join(ordered), language=None, wrap_lines=True)
    own_recipe(key)
    return [_read(line) for line in sorted(ordered, key=lambda line: line != baseline)]


@lru_cache(maxsize=512)
def _read(line: str) -> Recipe:
    return Recipe.parse(line)


def _in_form(
    chosen: Sequence[Recipe], plan: Plan, one_shot: bool | None, windows: int | None = None
) -> list[Recipe]:
    """The usual recipes in the form of the plan on the Tune page; one's own say their form themselves."""
    own = state.own_recipes()
    return [each if each.line in own else each.in_form(plan, one_shot, windows) for each in chosen]


def _sharing(recipe: Recipe, share: Any) -> Recipe:
    """The recipe with this share in whole blocks, where it does both; one's own keeps its own."""
    if len(recipe.steps) < 2 or recipe.line in state.own_recipes():
        return recipe
    first, *rest = recipe.steps
    return Recipe(steps=(first.model_copy(update={"share": share}), *rest))


def _judged(name: str, usual: Proposal, heals: bool = False) -> dict[str, Any]:
    """Ask for what all studies have: the model, the texts and their windows.

    ``heals``: whether a recipe of it trains what is left.
    """
    judged = usual.judged
    own.own_inputs({f"{name}-calibration": "Calibration", f"{name}-evaluation": "Evaluation"})
    said = text_line(judged.calibration, "calibration")
    calibration = controls.text("Calibration text", "calibration", f"{name}-calibration", said)
    calibration_windows = controls.number(
        "Calibration windows", f"{name}-calibration-windows", judged.calibration_windows
    )
    search_text = _own_text(name, "search", "demo:search")
    healing_text = _own_text(name, "healing", "demo:search")
    healing_tokens = _healing_tokens(f"{name}-healing-tokens") if heals else 0
    said = text_line(judged.evaluation, "evaluation")
    evaluation = controls.text("Evaluation text", "evaluation", f"{name}-evaluation", said)
    evaluation_windows = controls.number(
        "Evaluation windows", f"{name}-evaluation-windows", judged.evaluation_windows
    )
    length = controls.number("Window length, tokens", f"{name}-length", judged.window_length, 2, 131072, 64)
    return {
        "calibration_precision": calibration_precision(f"{name}-precision", judged.calibration_precision),
        "jitter": _repetitions(f"{name}-jitter"),
        "model": judged.model,
        "calibration": TextSource.parse(calibration, "calibration"),
        "calibration_windows": calibration_windows,
        "search_text": search_text,
        "healing_text": healing_text,
        "healing_tokens": healing_tokens,
        "profile_windows": min(judged.profile_windows, calibration_windows),
        "evaluation": TextSource.parse(evaluation, "evaluation"),
        "evaluation_windows": evaluation_windows,
        "window_length": length,
    }


def calibration_precision(key: str, usual: Precision = "exact") -> Precision:
    """How a model multiplies while it reads the calibration text; title and help are those of the field."""
    field = Study.model_fields["calibration_precision"]
    fast = st.toggle(
        str(field.title), usual == "fast", key=key, persist_state="session", help=field.description
    )
    return "fast" if fast else "exact"


def _own_text(name: str, what: str, usual: str) -> TextSource | None:
    """The text that searches are judged on, or that healing draws from; title and help are the field's."""
    field = Study.model_fields[f"{what}_text"]
    own = st.toggle(str(field.title), key=f"{name}-{what}", persist_state="session", help=field.description)
    label = f"{what.capitalize()} text"
    said = controls.text(label, "calibration", f"{name}-{what}-text", usual) if own else ""
    return TextSource.parse(said, "calibration") if own else None


def _healing_tokens(key: str) -> int:
    """On how many tokens every step that heals trains; title and help are those of the field."""
    field = Study.model_fields["healing_tokens"]
    return controls.number(str(field.title), key, 0, 0, 10**9, 10_000, help_text=field.description)


def _int8(name: str) -> bool:
    """Whether each model is judged in 8 bits too."""
    return st.toggle(
        "Judge each model in int8 too",
        False,
        key=f"{name}-int8",
        persist_state="session",
        help="Its perplexity and its bytes with its matrices in 8 bits, beside those as it is.",
    )


def _repetitions(key: str, usual: int = 0) -> int:
    """How often calibrated recipes are repeated with noise; title and help are those of the field."""
    field = Study.model_fields["jitter"]
    high = MOST_REPETITIONS
    return controls.number(str(field.title), key, usual, 0, high, help_text=field.description)


def _second_text(name: str) -> TextSource | None:
    second = st.toggle("Evaluate on a second text too", True, key=f"{name}-second", persist_state="session")
    other = controls.text("Second text", "evaluation", f"{name}-other", "demo:out-of-style")
    return TextSource.parse(other, "evaluation") if second else None


def _grid(label: str, key: str, usual: tuple[int, ...]) -> list[int]:
    return st.multiselect(label, range(0, 96, 5), default=usual, key=key, persist_state="session")
